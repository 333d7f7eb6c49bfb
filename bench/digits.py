"""Large-sparse against small-dense on scikit-learn's digits, the same hyper-parameters for all, mean over seeds."""

from __future__ import annotations

import argparse
import statistics
import sys

import keras
import numpy as np
from common import Row, at_least
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tfprune

EPOCHS, BATCH, STEPS = 40, 64, 920  # 1437 images make 23 batches
LARGE = (256, 128)  # 50,432 kernel entries
SMALL = (13, 7)  # 993, the nearest of its shape to the 1,009 that 98 % leave of the large one


def _model(widths: tuple[int, int]) -> keras.Model:
    hidden = [keras.layers.Dense(width, activation="relu") for width in widths]
    return keras.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(10)])


def accuracy(seed: int, widths: tuple[int, int], sparsity: float, allocation: str) -> float:
    """Train once and return the accuracy on held-out images, in percent."""
    images, labels = load_digits(return_X_y=True)
    x, held_x, y, held_y = train_test_split(images / 16, labels, test_size=0.2, random_state=seed, stratify=labels)
    keras.utils.set_random_seed(seed)
    model = _model(widths)
    callbacks = []
    if sparsity:
        model = tfprune.wrap(model)
        schedule = tfprune.schedules.Polynomial(sparsity, begin=100, end=600)
        callbacks = [tfprune.PruningCallback(schedule, every=20, allocation=allocation)]
    rate = keras.optimizers.schedules.CosineDecay(0.1, STEPS)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), loss)
    model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=callbacks)
    return 100 * float(np.mean(model.predict(held_x, verbose=0).argmax(axis=1) == held_y))


def measure(seeds: int) -> list[Row]:
    runs = {
        "dense": (LARGE, 0.0, ""),
        "small dense": (SMALL, 0.0, ""),
        "95 % sparse, uniform": (LARGE, 0.95, "uniform"),
        "98 % sparse, uniform": (LARGE, 0.98, "uniform"),
        "98 % sparse, ERK": (LARGE, 0.98, "erk"),
    }
    means, texts = {}, {}
    for name, run in runs.items():
        values = [accuracy(seed, *run) for seed in range(seeds)]
        means[name] = statistics.mean(values)
        texts[name] = f"{name} ({means[name]:.2f}+-{statistics.stdev(values):.2f})"

    def compare(sparse: str, reference: str, bar: float) -> Row:
        text = f"digits, {seeds} seeds: {texts[sparse]} - {texts[reference]}"
        return at_least(text, means[sparse] - means[reference], bar, unit=" points")

    return [
        compare("95 % sparse, uniform", "dense", -1),
        compare("98 % sparse, uniform", "small dense", 1),
        compare("98 % sparse, ERK", "small dense", 1),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    for row in measure(parser.parse_args().seeds):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
