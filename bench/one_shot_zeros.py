"""Zeros without training by SparseGPT and ALPS, split by the outputs of the model or of the kernels.

python bench/one_shot_zeros.py FOLDER [--networks cnn resnet gru transformer] [--seeds 0 1 2] [--zeros 0.9]

The CNN is that of sample_apps/fashion_cnn.py on Fashion-MNIST, and sees 512 images. The others see 256 of
scikit-learn's digits, the GRU and the transformer row by row. Cells are points of test accuracy against the dense
network, the mean of the seeds, and the last column is the mean processor time of a call. The folder keeps CNNs and
results, and what stands there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import compress as trained_networks
import fashion
import keras
import numpy as np
from common import processor_seconds
from sklearn.datasets import load_digits
from without_training import small_resnet

import tfprune
from tfprune.report import table

WAYS = [(criterion, allocation) for criterion in ("sparsegpt", "alps") for allocation in ("outputs", "error")]
IMAGES, DIGITS, TRAINED, EPOCHS = 512, 256, 900, 30
WIDTH, BLOCKS, HEADS = 48, 2, 4


@dataclass(frozen=True)
class Network:
    """A trained network, samples without labels, and test data."""

    model: keras.Model
    samples: np.ndarray
    test: tuple[np.ndarray, np.ndarray]

    def accuracy(self, model: keras.Model) -> float:
        x, y = self.test
        parts = [keras.ops.argmax(model(x[start : start + 1000]), axis=1) for start in range(0, len(x), 1000)]
        return 100 * float(np.mean(np.concatenate([keras.ops.convert_to_numpy(part) for part in parts]) == y))


def cnn(seed: int, folder: Path) -> Network:
    x, y = fashion.read("train")
    data = x[: -trained_networks.HELD_OUT], y[: -trained_networks.HELD_OUT]
    model = trained_networks.trained("cnn", seed, data, folder / f"{seed}.keras")
    return Network(model, x[:IMAGES], fashion.read("t10k"))


def resnet(seed: int, folder: Path) -> Network:
    (x, y), samples, test = _digits(seed, (8, 8, 1))
    return Network(small_resnet(seed, x, y), samples, test)


def gru(seed: int, folder: Path) -> Network:
    return _of_digits(seed, keras.layers.GRU(WIDTH))


def transformer(seed: int, folder: Path) -> Network:
    return _of_digits(seed, _blocks)


def _blocks(x: keras.KerasTensor) -> keras.KerasTensor:
    layers = keras.layers
    x = layers.Dense(WIDTH)(x)
    for _ in range(BLOCKS):
        normal = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(normal, normal)])
        hidden = layers.Dense(4 * WIDTH, "gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(WIDTH)(hidden)])
    return layers.Flatten()(layers.LayerNormalization()(x))


def _of_digits(seed: int, features: Callable[[keras.KerasTensor], keras.KerasTensor]) -> Network:
    (x, y), samples, test = _digits(seed, (8, 8))
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8))
    model = keras.Model(inputs, keras.layers.Dense(10)(features(inputs)))
    model.compile(keras.optimizers.Adam(2e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=64, epochs=EPOCHS, verbose=0)
    return Network(model, samples, test)


def _digits(seed: int, shape: tuple[int, ...]) -> tuple[tuple, np.ndarray, tuple]:
    """Return training data, samples without labels, and test data."""
    x, y = load_digits(return_X_y=True)
    x = x.astype("float32").reshape(-1, *shape) / 16
    order = np.random.default_rng(seed).permutation(len(x))
    trained, samples, tested = np.split(order, [TRAINED, TRAINED + DIGITS])
    return (x[trained], y[trained]), x[samples], (x[tested], y[tested])


NETWORKS = {"cnn": cnn, "resnet": resnet, "gru": gru, "transformer": transformer}


def measure(name: str, seed: int, options: argparse.Namespace, results: Path) -> None:
    """Append a line to the results for each way and sparsity that they lack."""
    keys = [(name, seed, zeros, *way) for zeros in options.zeros for way in WAYS]
    missing = [key for key in keys if key not in read(results)]
    if not missing:
        return
    network = NETWORKS[name](seed, options.folder)
    dense = network.accuracy(network.model)
    for key in missing:
        _, _, zeros, criterion, allocation = key
        settings = {"criterion": criterion, "allocation": allocation, "batch_size": 64, "verbose": 0}
        start = processor_seconds()
        sparse, _ = tfprune.prune_weights(network.model, network.samples, zeros, **settings)
        seconds = processor_seconds() - start
        with results.open("a") as file:
            file.write(json.dumps([key, [dense, network.accuracy(sparse) - dense, seconds]]) + "\n")


def read(results: Path) -> dict[tuple, list[float]]:
    """Return the dense accuracy, the points gained and the seconds, by network, seed, zeros and way."""
    lines = results.read_text().splitlines() if results.exists() else []
    return {tuple(key): values for key, values in map(json.loads, lines)}


def rows(name: str, options: argparse.Namespace, found: dict[tuple, list[float]]) -> list[list[str]]:
    def mean(index: int, zeros: list[float], way: tuple[str, str]) -> float:
        keys = [(name, seed, each, *way) for seed in options.seeds for each in zeros]
        return statistics.mean(found[key][index] for key in keys)

    head = f"{name}, {mean(0, options.zeros, WAYS[0]):.1f} %"
    return [
        [
            head,
            *way,
            *(f"{mean(1, [zeros], way):+.2f}" for zeros in options.zeros),
            f"{mean(2, options.zeros, way):.1f} s",
        ]
        for way in WAYS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="keeps trained CNNs and results")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--zeros", type=float, nargs="+", default=[0.5, 0.7, 0.8, 0.9, 0.95])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    results = options.folder / "one_shot_zeros.jsonl"
    names = [name for name in options.networks if name != "cnn" or fashion.is_there()]
    for name in names:
        for seed in options.seeds:
            measure(name, seed, options, results)
    columns = ["network", "criterion", "allocation", *(f"{zeros:.0%}" for zeros in options.zeros), "time"]
    lines = [row for name in names for row in rows(name, options, read(results))]
    sys.stdout.write(f"{table(columns, lines)}\n")


if __name__ == "__main__":
    main()
