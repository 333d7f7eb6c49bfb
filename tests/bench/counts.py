"""Non-zeros of the models of Zhu & Gupta (arXiv:1710.01878, tables 2 and 3), by pruning untrained weights."""

from __future__ import annotations

import sys

import keras
from common import Row

import tfprune

MOBILENET = {0.50: "2.127", 0.75: "1.086", 0.90: "0.462", 0.95: "0.254"}
LSTM = {
    650: {0.80: "3.952", 0.85: "2.964", 0.90: "1.976", 0.95: "0.988", 0.975: "0.494"},
    1500: {0.80: "13.200", 0.85: "9.900", 0.90: "6.600", 0.95: "3.300", 0.975: "1.650"},
}


def _language_model(width: int) -> keras.Model:
    layers = keras.layers
    stack = [layers.LSTM(width, return_sequences=True) for _ in range(2)]
    return keras.Sequential([keras.Input((35,)), layers.Embedding(10_000, width), *stack, layers.Dense(10_000)])


def _compare(what: str, model: keras.Model, expected: dict[float, str]) -> list[Row]:
    rows = []
    for sparsity, figure in expected.items():
        millions = f"{tfprune.update_masks(model, sparsity).total_nnz / 1e6:.3f}"
        rows.append(Row(f"{what} at {sparsity:.1%}: non-zeros, M", millions, figure, millions == figure))
    return rows


def measure() -> list[Row]:
    mobilenet = keras.applications.MobileNet(weights=None)
    pruned = tfprune.wrap(mobilenet, filters=[r"conv_pw_\d+/kernel", "conv_preds/kernel"])
    rows = _compare("MobileNet v1", pruned, MOBILENET)
    for width, expected in LSTM.items():
        rows += _compare(f"stacked LSTM, width {width}", tfprune.wrap(_language_model(width)), expected)
    return rows


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
