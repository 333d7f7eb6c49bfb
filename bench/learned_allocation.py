"""Splits of one sparsity over the weights of a small CNN on Fashion-MNIST: learned thresholds against formulas.

A trained CNN is pruned at once by each split, and trained for one more epoch. Accuracies are of training images that
are held back; nothing was chosen by them.
"""

from __future__ import annotations

import sys

import fashion
import keras
import numpy as np
import tensorflow as tf
from sparse_networks import NETWORKS

import tfprune

IMAGES, VALIDATION, SEEDS, SPARSITIES = 12_000, 5_000, (1, 2, 3), (0.9, 0.97)
FORMULAS = ("uniform", "erk", "global", "lamp")


def compiled(model: keras.Model, rate: float) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


def accuracies(seed: int) -> dict[tuple[float, str], float]:
    """Return the accuracy in percent after each split and one more epoch."""
    x, y = fashion.read("train")
    data, judged = (x[:IMAGES], y[:IMAGES]), (x[-VALIDATION:], y[-VALIDATION:])
    keras.utils.set_random_seed(seed)
    model = compiled(NETWORKS["CNN"].dense(), 0.002)
    model.fit(*data, batch_size=64, epochs=3, verbose=0)
    values = {}
    for sparsity in SPARSITIES:
        learned = tfprune.research.learn_allocation(model, sparsity, data, epochs=2, batch_size=64)
        for name, allocation in [*((name, name) for name in FORMULAS), ("learned", learned)]:
            pruned = tfprune.wrap(model)
            tfprune.update_masks(pruned, sparsity, allocation=allocation)
            keras.utils.set_random_seed(seed)
            compiled(pruned, 0.001).fit(*data, batch_size=64, epochs=1, verbose=0)
            values[sparsity, name] = 100 * pruned.evaluate(*judged, verbose=0)[1]
    return values


if __name__ == "__main__":
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if not fashion.is_there():
        sys.exit()
    runs = [accuracies(seed) for seed in SEEDS]
    for sparsity, name in runs[0]:
        values = np.array([run[sparsity, name] for run in runs])
        text = f"{values.mean():.2f} ± {values.std(ddof=1):.2f} %"
        sys.stdout.write(f"{name} at {sparsity:.0%}: accuracy after one epoch, {len(runs)} seeds\t{text}\t\tyes\n")
