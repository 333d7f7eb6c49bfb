"""Reports count what NumPy counts, every weight once, and say why a layer was left out."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from keras import layers

import tfprune
from tfprune.report import Skipped


@pytest.fixture(scope="module")
def model() -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    shared = layers.Dense(4, name="shared")
    x = shared(shared(layers.GlobalAveragePooling2D(name="pool")(x)))
    return keras.Model(image, layers.Dense(2, name="head")(x), name="net")


SIZES = {"conv/kernel": 108, "depthwise/depthwise_kernel": 36, "shared/kernel": 16, "head/kernel": 8}


def test_a_plain_model_counts_every_kernel_once(model):
    report = tfprune.sparsity_report(model)
    sizes = {row.path: row.size for row in report.rows}
    assert len(sizes) == 4 and sorted(sizes.values()) == sorted(SIZES.values())
    assert report.size == report.total_size == report.nnz == sum(SIZES.values())
    assert report.sparsity == report.total_sparsity == 0


def test_a_model_without_masks_and_zeros_is_reported_as_not_wrapped(model):
    wrapped = tfprune.wrap(model)
    assert str(tfprune.sparsity_report(model)).endswith(
        "The model is not wrapped: tfprune.wrap returns the model to prune."
    )
    assert "not wrapped" not in str(tfprune.sparsity_report(wrapped))
    tfprune.update_masks(wrapped, 0.5)
    assert "not wrapped" not in str(tfprune.sparsity_report(tfprune.strip(wrapped)))


def test_a_wrapped_model_counts_pruned_weights_and_every_kernel(model):
    wrapped = tfprune.wrap(model, filters=["conv/", "head"])
    tfprune.update_masks(wrapped, 0.5)
    report = tfprune.sparsity_report(wrapped)
    truth = [np.count_nonzero(wrapped.get_layer(name).layer.kernel) for name in ("conv", "head")]
    assert [(row.path, row.shape, row.nnz) for row in report.rows] == [
        ("conv/kernel", (3, 3, 3, 4), truth[0]),
        ("head/kernel", (4, 2), truth[1]),
    ]
    assert (report.size, report.nnz, report.sparsity) == (116, 58, 0.5)
    assert (report.total_size, report.total_nnz) == (sum(SIZES.values()), sum(SIZES.values()) - 58)
    assert report.total_sparsity == pytest.approx(58 / 168)


def test_zeros_in_a_plain_model_are_counted(model):
    wrapped = tfprune.wrap(model)
    tfprune.update_masks(wrapped, 0.5)
    stripped = tfprune.strip(wrapped)
    zeros = sum(
        int(np.sum(layer.kernel.numpy() == 0))
        for layer in stripped.layers
        if layer.name in ("conv", "head", "shared")
    )
    assert tfprune.sparsity_report(stripped).size - tfprune.sparsity_report(stripped).nnz == zeros == 66


def test_values_hidden_by_a_mask_count_as_zeros():
    wrapped = tfprune.wrap(keras.Sequential([keras.Input((4,)), layers.Dense(4, name="dense")]))
    tfprune.update_masks(wrapped, 0.75)
    wrapped.get_layer("dense").layer.kernel.assign(np.ones((4, 4)))
    assert tfprune.sparsity_report(wrapped).nnz == 4


def test_reasons_are_given(model):
    wrapped = tfprune.wrap(model, filters=["conv/", "head", "shared"])
    wrapped.get_layer("head").trainable = False
    entries = tfprune.sparsity_report(wrapped).skipped
    assert {entry.layer: entry.kind for entry in entries} == {
        "norm": Skipped.NO_KERNEL,
        "depthwise": Skipped.FILTERED,
        "head": Skipped.FROZEN,
    }
    skipped = {entry.layer: entry.reason for entry in entries}
    assert skipped.keys() == {"norm", "depthwise", "head"}
    assert skipped["norm"] == "BatchNormalization has only biases, scales or statistics"
    assert skipped["depthwise"] == "kernel: depthwise, and pruned only where `filters` ask for it"
    assert skipped["head"].startswith("frozen (trainable=False)")

    class Odd(layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(name="table", shape=(shape[-1], 3))

        def call(self, inputs):
            return keras.ops.matmul(inputs, self.table)

    odd = keras.Sequential([keras.Input((4,)), Odd(name="odd"), layers.Dense(2)])
    (entry,) = tfprune.sparsity_report(odd).skipped
    assert (entry.layer, entry.reason, entry.kind) == (
        "odd",
        "no rule for Odd: tfprune.register_prunable names the weights to prune",
        Skipped.NO_RULE,
    )


def test_reports_are_json_and_print(model):
    report = tfprune.sparsity_report(tfprune.wrap(model))
    assert json.loads(json.dumps(report.as_dict())) == report.as_dict()
    text = str(report)
    assert "conv/kernel" in text and "3x3x3x4" in text and "BatchNormalization has only" in text


def test_one_layer_can_be_counted():
    layer = layers.Dense(3, name="dense")
    layer.build((None, 4))
    assert [row.path for row in tfprune.sparsity_report(layer).rows] == ["dense/kernel"]
    pruned = tfprune.wrap(layer)
    assert [row.path for row in tfprune.sparsity_report(pruned).rows] == ["dense/kernel"]


def test_what_is_no_layer_is_refused():
    with pytest.raises(TypeError, match=r"Received: model=\[1\] of type list\.$"):
        tfprune.sparsity_report([1])


def test_an_unbuilt_model_has_nothing_to_count():
    assert tfprune.sparsity_report(keras.Sequential([layers.Dense(3)])).size == 0
