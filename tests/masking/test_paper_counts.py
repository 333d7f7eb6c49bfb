"""Non-zeros of the models of Zhu & Gupta, arXiv:1710.01878: arithmetic with the paper's shapes, no training."""

from __future__ import annotations

import keras
import pytest
from tiers import first

import tfprune

pytestmark = pytest.mark.programs

layers = keras.layers


def language_model(width: int) -> keras.Model:
    """Return the paper's stacked LSTMs, words of the Penn Treebank."""
    stack = [layers.LSTM(width, return_sequences=True) for _ in range(2)]
    return keras.Sequential([keras.Input((35,)), layers.Embedding(10_000, width), *stack, layers.Dense(10_000)])


@pytest.mark.parametrize(
    ("alpha", "entries"), [(0.25, 463_600), (0.5, 1_319_648), (0.75, 2_568_144), (1.0, 4_209_088)]
)
def test_dense_mobilenets(alpha, entries):
    model = keras.applications.MobileNet(alpha=alpha, weights=None)
    assert tfprune.sparsity_report(model).total_size == entries


def test_sparse_mobilenet():
    model = tfprune.wrap(
        keras.applications.MobileNet(weights=None), filters=[r"conv_pw_\d+/kernel", "conv_preds/kernel"]
    )
    millions = {0.5: "2.127", 0.75: "1.086", 0.9: "0.462", 0.95: "0.254"}
    overall = {0.5: "0.4946", 0.75: "0.7419", 0.9: "0.8903", 0.95: "0.9397"}
    for sparsity, expected in millions.items():
        report = tfprune.update_masks(model, sparsity)
        assert f"{report.total_nnz / 1e6:.3f}" == expected
        assert f"{1 - report.total_nnz / report.total_size:.4f}" == overall[sparsity]


@pytest.mark.parametrize(
    ("width", "dense", "sparse"),
    first(
        (650, "19.760", {0.8: "3.952", 0.85: "2.964", 0.9: "1.976", 0.95: "0.988", 0.975: "0.494"}),
        (200, "4.640", {}),
        (1500, "66.000", {0.8: "13.200", 0.85: "9.900", 0.9: "6.600", 0.95: "3.300", 0.975: "1.650"}),
    ),
)
def test_language_models(width, dense, sparse):
    model = language_model(width)
    assert f"{tfprune.sparsity_report(model).total_size / 1e6:.3f}" == dense
    pruned = tfprune.wrap(model)
    for sparsity, expected in sparse.items():
        assert f"{tfprune.update_masks(pruned, sparsity).total_nnz / 1e6:.3f}" == expected
