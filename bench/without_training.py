"""Prune Keras models in one step: SparseGPT and ALPS beside masks of LAMP with least squares, three seeds.

Networks are small ResNets on scikit-learn's digits. With --cifar, they are those of `anyfile.py`, as far as they
are trained. With --training, print a table by sparsity: the same networks as files, pruned by
`prune_tflite`, beside gradual pruning of the models with labels, 8 epochs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anyfile
import cifar
import keras
import numpy as np
from common import Row, at_most
from sklearn.datasets import load_digits

import tfprune
from tfprune.export import Runner, prune_tflite, to_tflite

SPARSITIES = (0.5, 0.6, 0.7, 0.8)
SEEDS, TRAINED, SAMPLES = 3, 900, 256


def small_resnet(seed: int, x: np.ndarray, y: np.ndarray) -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    features = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(convolved(inputs, 16)))
    for channels, stride in ((16, 1), (32, 2), (32, 1)):
        inside = keras.layers.ReLU()(
            keras.layers.BatchNormalization(momentum=0.9)(convolved(features, channels, stride))
        )
        inside = keras.layers.BatchNormalization(momentum=0.9)(convolved(inside, channels))
        shortcut = convolved(features, channels, stride, size=1) if stride > 1 else features
        features = keras.layers.ReLU()(keras.layers.Add()([shortcut, inside]))
    model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(features)))
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=64, epochs=15, verbose=0)
    return model


def convolved(x: keras.KerasTensor, channels: int, stride: int = 1, *, size: int = 3) -> keras.KerasTensor:
    return keras.layers.Conv2D(channels, size, stride, padding="same", use_bias=False)(x)


def networks(*, of_cifar: bool) -> Iterator[tuple[keras.Model, np.ndarray, tuple[np.ndarray, np.ndarray]]]:
    """Yield trained networks, samples without labels that were not trained on, and test data."""
    if of_cifar:
        images, labels = cifar.read("test")
        samples = cifar.read("train")[0][anyfile.FIRST_SAMPLE :][:SAMPLES]
        for path in sorted(anyfile.FOLDER.glob("cifar*.keras")):
            yield keras.saving.load_model(path), samples, (images[: anyfile.TESTED], labels[: anyfile.TESTED])
        return
    x, y = load_digits(return_X_y=True)
    x = x.astype("float32").reshape(-1, 8, 8, 1) / 16
    for seed in range(SEEDS):
        order = np.random.default_rng(seed).permutation(len(x))
        trained, samples, tested = np.split(order, [TRAINED, TRAINED + SAMPLES])
        yield small_resnet(seed, x[trained], y[trained]), x[samples], (x[tested], y[tested])


def by_lamp(model: keras.Model, samples: np.ndarray, sparsity: float) -> keras.Model:
    wrapped = tfprune.wrap(model)
    tfprune.update_masks(wrapped, sparsity, allocation="lamp")
    return tfprune.strip(tfprune.reconstruct(wrapped, model, samples, verbose=0)[0])


def by_sparsegpt(model: keras.Model, samples: np.ndarray, sparsity: float) -> keras.Model:
    return tfprune.prune_weights(model, samples, sparsity, criterion="sparsegpt", batch_size=32, verbose=0)[0]


def by_the_paper(model: keras.Model, samples: np.ndarray, sparsity: float) -> keras.Model:
    settings = {"criterion": "sparsegpt", "allocation": "uniform", "targets": "own", "ridge": 0.01}
    return tfprune.prune_weights(model, samples, sparsity, batch_size=32, verbose=0, **settings)[0]


def by_alps(model: keras.Model, samples: np.ndarray, sparsity: float) -> keras.Model:
    return tfprune.prune_weights(model, samples, sparsity, batch_size=32, verbose=0)[0]


WAYS = (by_sparsegpt, by_the_paper, by_alps, by_lamp)


def accuracy(model: keras.Model, test: tuple[np.ndarray, np.ndarray]) -> float:
    return 100 * float(np.mean(model.predict(test[0], verbose=0, batch_size=256).argmax(axis=1) == test[1]))


def measure(*, of_cifar: bool) -> Iterator[Row]:
    """Yield by sparsity the points lost; the bar is that of masks by LAMP with least squares."""
    lost: dict[tuple[float, int], list[float]] = {}
    seconds = [0.0] * len(WAYS)
    dense = []
    for model, samples, test in networks(of_cifar=of_cifar):
        dense.append(accuracy(model, test))
        for sparsity in SPARSITIES:
            for number, prune in enumerate(WAYS):
                start = time.process_time()
                pruned = prune(model, samples, sparsity)
                seconds[number] += time.process_time() - start
                lost.setdefault((sparsity, number), []).append(dense[-1] - accuracy(pruned, test))
    for sparsity in SPARSITIES:
        ours, paper, alps, lamp = (statistics.mean(lost[sparsity, number]) for number in range(len(WAYS)))
        each = ", ".join(f"{value:.1f}" for value in lost[sparsity, 0])
        text = f"{sparsity:.0%} zeros without training, of {statistics.mean(dense):.1f} % (each seed: {each}; "
        text += f"uniform and fitted to its own outputs: {paper:.1f}; ALPS: {alps:.1f})"
        yield at_most(text, ours, round(lamp, 2), unit=" points", digits=2)
    text = "processor time, in that of masks by LAMP with least squares"
    yield at_most(text, seconds[0] / seconds[-1], 3, digits=2)
    yield at_most("processor time of ALPS, in that of SparseGPT", seconds[2] / seconds[0], 3, digits=2)


def by_file(model: keras.Model, samples: np.ndarray, sparsity: float) -> Path:
    folder = Path(tempfile.mkdtemp())
    to_tflite(model, folder / "dense.tflite", optimize="dense")
    prune_tflite(folder / "dense.tflite", folder / "pruned.tflite", samples, sparsity=sparsity, optimize="dense")
    return folder / "pruned.tflite"


def by_training(model: keras.Model, labeled: tuple[np.ndarray, np.ndarray], sparsity: float) -> keras.Model:
    wrapped = tfprune.wrap(model)
    wrapped.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pruning = tfprune.PruningCallback(tfprune.schedules.Polynomial(sparsity, end=0.7), every=2)
    wrapped.fit(*labeled, batch_size=64, epochs=8, callbacks=[pruning], verbose=0)
    return tfprune.strip(wrapped)


def table() -> Iterator[str]:
    """Yield a line for each seed: accuracy, dense and by sparsity as a file and after gradual training."""
    x, y = load_digits(return_X_y=True)
    x = x.astype("float32").reshape(-1, 8, 8, 1) / 16
    for seed, (model, samples, test) in enumerate(networks(of_cifar=False)):
        trained = np.random.default_rng(seed).permutation(len(x))[:TRAINED]
        parts = [f"seed {seed}, dense {accuracy(model, test):.1f} %"]
        for sparsity in SPARSITIES:
            classes = Runner(by_file(model, samples, sparsity)).predict(test[0]).argmax(axis=1)
            gradual = accuracy(by_training(model, (x[trained], y[trained]), sparsity), test)
            parts.append(f"{sparsity:.0%}: file {100 * np.mean(classes == test[1]):.1f}, trained {gradual:.1f}")
        yield "; ".join(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar", action="store_true")
    parser.add_argument("--training", action="store_true")
    options = parser.parse_args()
    for line in table() if options.training else ():
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    for row in () if options.training else measure(of_cifar=options.cifar):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
        sys.stdout.flush()
