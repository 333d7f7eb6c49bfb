"""One mask update: time against tfmot's, growth with the number of weights, memory."""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable

import keras
import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras
from common import Row, at_least, at_most, interleaved, median_ratio, peak_during

import tfprune


def _mlp(api):
    layers = api.layers
    return api.Sequential([api.Input((784,)), layers.Dense(1024), layers.Dense(1024), layers.Dense(10)])


def _tfmot_update(model):
    wrappers = [layer for layer in model.layers if hasattr(layer, "pruning_obj")]

    def update() -> None:
        for layer in wrappers:
            for weight, mask, threshold in layer.pruning_vars:
                new_threshold, new_mask = layer.pruning_obj._update_mask(weight)
                threshold.assign(new_threshold)
                mask.assign(new_mask)

    return update


def against_tfmot() -> list[Row]:
    ours = tfprune.wrap(_mlp(keras))
    ours.compile("adam", "mse")
    ours.fit(np.zeros((32, 784)), np.zeros((32, 10)), verbose=0)  # gives the optimizer its slots
    schedule = tfmot.sparsity.keras.ConstantSparsity(0.9, 0, frequency=1)
    theirs = tfmot.sparsity.keras.prune_low_magnitude(_mlp(tf_keras), pruning_schedule=schedule)
    runs = {"tfprune": lambda: tfprune.update_masks(ours, 0.9), "tfmot": _tfmot_update(theirs)}
    interleaved(runs, rounds=3)
    seconds = interleaved(runs, rounds=21)
    theirs_ms, ours_ms = (1000 * statistics.median(seconds[name]) for name in ("tfmot", "tfprune"))
    text = f"mask update, 1.86 M weights: tfmot ({theirs_ms:.0f} ms) / tfprune ({ours_ms:.0f} ms)"
    return [at_least(text, median_ratio(seconds["tfmot"], seconds["tfprune"]), 20.0)]


def _raised(model: keras.Model) -> Callable[[], object]:
    """Return an update that masks a little more, or a little less, than the one before it."""
    shares = itertools.cycle((0.7, 0.8))
    return lambda: tfprune.update_masks(model, next(shares))


def growth() -> list[Row]:
    rows, per_entry = [], {}
    for side in (1000, 3162, 5000, 10000):
        model = tfprune.wrap(keras.Sequential([keras.Input((side,)), keras.layers.Dense(side, use_bias=False)]))
        tfprune.update_masks(model, 0.5)
        seconds = interleaved({"update": _raised(model)}, rounds=7)["update"]
        per_entry[side] = 1e9 * statistics.median(seconds) / side**2
        if side == 10000:
            kernel = model.layers[-1].kernels["kernel"].variable
            size = 4 * int(np.prod(kernel.shape))
            extra = max(peak_during(_raised(model))[1] for _ in range(4)) / size
            rows.append(at_most("peak extra memory of an update / largest weight (100 M)", extra, 1.5, digits=2))
            mask = model.layers[-1].masks["kernel"]
            share = mask.numpy().nbytes / size
            rows.append(at_most("masks / weights, bytes", share, 0.25, digits=2))
    figures = ", ".join(f"{value:.0f} at {side**2 / 1e6:.0f} M" for side, value in per_entry.items())
    rows.append(at_most("mask update, 25 M weights", per_entry[5000] * 25, 150, unit=" ms", digits=0))
    rows.append(
        at_most(f"ns per weight: {figures}; largest / smallest model", per_entry[10000] / per_entry[1000], 1.5)
    )
    return rows


if __name__ == "__main__":
    for row in against_tfmot() + growth():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
