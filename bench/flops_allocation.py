"""Zeros split by the multiplications that they save, against other splits with the same multiplications.

A small ResNet for Fashion-MNIST is pruned while it is trained further. A split that counts zeros, such as `lamp`,
gets the sparsity at which it leaves as many multiplications as the others, so that the files take as long where zeros
are skipped: the gain is the estimate of `sparse_inference` for ARM and browsers. Accuracies are of training images
that are held back; nothing was chosen by them.

    python bench/flops_allocation.py              # three seeds, an hour on two cores
    python bench/flops_allocation.py --seeds 1
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import fashion
import keras
import numpy as np
from keras import layers

import tfprune
from tfprune.allocation import ALLOCATIONS, Weight
from tfprune.export import sparse_inference
from tfprune.models.anatomy import kernels, uses

IMAGES, VALIDATION, SPARSITIES = 12_000, 10_000, (0.9, 0.95)
EPOCHS, FURTHER = 5, 3
SPLITS = ("uniform", "erk", "lamp", "flops")


def network() -> keras.Model:
    image = keras.Input((28, 28, 1))
    x = layers.ReLU()(_conv(image, 16))
    for channels, stride in ((16, 1), (32, 2), (64, 2)):
        y = _conv(layers.ReLU()(_conv(x, channels, stride=stride)), channels)
        x = x if stride == 1 else _conv(x, channels, stride=stride, size=1)
        x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def _conv(x, channels: int, *, stride: int = 1, size: int = 3):
    x = layers.Conv2D(channels, size, stride, padding="same", use_bias=False)(x)
    return layers.BatchNormalization()(x)


def with_as_many_multiplications(name: str) -> Callable[[Sequence[Weight], float], Sequence[float | None]]:
    """Return an allocation whose zeros remove a fraction of the multiplications, as those of `flops` do."""

    def split(weights: Sequence[Weight], sparsity: float) -> Sequence[float | None]:
        work = np.array([weight.size * weight.uses() for weight in weights])
        low, high = 0.0, 0.9999
        for _ in range(30):
            middle = (low + high) / 2
            shares = ALLOCATIONS[name](weights, middle)
            low, high = (middle, high) if work @ np.array(shares) < sparsity * work.sum() else (low, middle)
        return shares

    return split


def trained(model: keras.Model, epochs: int, rate: float, **options) -> None:
    x, y = fashion.read("train")
    steps = epochs * -(-IMAGES // 64)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)), loss, metrics=["accuracy"]
    )
    model.fit(x[:IMAGES], y[:IMAGES], batch_size=64, epochs=epochs, verbose=0, **options)


def measured(seed: int) -> dict[tuple[float, str], tuple[float, float, float, float]]:
    """Return the accuracy, the multiplications left, the zeros and the estimated gain of each split, in percent."""
    x, y = fashion.read("train")
    keras.utils.set_random_seed(seed)
    model = network()
    trained(model, EPOCHS, 3e-3)
    values = {(0.0, "dense"): (100 * model.evaluate(x[-VALIDATION:], y[-VALIDATION:], verbose=0)[1], 100, 0, 1)}
    for sparsity in SPARSITIES:
        for name in SPLITS:
            keras.utils.set_random_seed(seed)
            pruned = tfprune.wrap(model)
            allocation = "flops" if name == "flops" else with_as_many_multiplications(name)
            schedule = tfprune.schedules.Polynomial(sparsity, end=0.6)
            trained(pruned, FURTHER, 2e-3, callbacks=[tfprune.PruningCallback(schedule, allocation=allocation)])
            accuracy = 100 * pruned.evaluate(x[-VALIDATION:], y[-VALIDATION:], verbose=0)[1]
            values[sparsity, name] = (accuracy, *_counts(tfprune.strip(pruned)))
            sys.stderr.write(f"seed {seed}, {sparsity:.0%}, {name}: {values[sparsity, name]}\n")
    return values


def _counts(model: keras.Model) -> tuple[float, float, float]:
    rows = [(uses(layer, each), each.variable.numpy()) for layer in model.layers for each in kernels(layer)]
    work, left = (sum(count * size(values) for count, values in rows) for size in (np.size, np.count_nonzero))
    size, nonzeros = (sum(of(values) for _, values in rows) for of in (np.size, np.count_nonzero))
    image = keras.Input((28, 28, 1), batch_size=1)
    rewriting = sparse_inference(keras.Model(image, model(image))).rewriting
    return 100 * left / work, 100 * (1 - nonzeros / size), rewriting.gain


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if not fashion.is_there():
        sys.exit()
    runs = [measured(seed) for seed in range(options.seeds)]
    for sparsity, name in runs[0]:
        accuracy, left, zeros, gain = np.array([run[sparsity, name] for run in runs]).T
        spread = f" ± {accuracy.std(ddof=1):.2f}" if len(runs) > 1 else ""
        text = f"{left.mean():.1f} % of the multiplications, {zeros.mean():.1f} % zeros, estimated {gain.mean():.2f}x"
        sys.stdout.write(f"{name} at {sparsity:.0%}: {text}\t{accuracy.mean():.2f}{spread} %\t\tyes\n")
