"""Bytes beside the weights of a wrapped model of 10 million parameters: with latent values, and without."""

from __future__ import annotations

import sys

import keras
import numpy as np
from common import Row, at_most

import tfprune

BARS = {"keep": 5.3, "zero": 1.3}  # bytes beside each float32 weight of the model
WIDTH, DEPTH = 1024, 10


def measure() -> list[Row]:
    model = keras.Sequential([keras.Input((WIDTH,)), *(keras.layers.Dense(WIDTH) for _ in range(DEPTH))])
    rows = []
    for latent, bar in BARS.items():
        wrapped = tfprune.wrap(model, latent=latent)
        tfprune.update_masks(wrapped, 0.5)
        beside = (_bytes(wrapped) - _bytes(model)) / model.count_params()
        rows.append(at_most(f"bytes beside each float32 weight, latent={latent!r}", beside, bar, unit=""))
    return rows


def _bytes(model: keras.Model) -> int:
    return sum(np.asarray(variable).nbytes for variable in model.variables)


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
