"""2:4 zeros without training, with and without channels in another order: how much of the lost accuracy comes back.

python bench/permutation.py build/permutation --seeds 3     # trained networks are read from the folder if there

The networks are the CNN of sample_apps/fashion_cnn.py and one like MobileNetV2, on Fashion-MNIST. Each gets 2:4 masks
by magnitude, by Wanda and by SparseGPT on 256 images; before that its channels are reordered by magnitude, or by
Wanda's scores on these images. The bar: a third of the lost points comes back.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

import fashion
import keras
import numpy as np
from common import Row, at_least

import tfprune
from sample_apps import fashion_cnn
from sample_apps.four_ways.networks import mobilenet
from tfprune.models.anatomy import from_matrix, kernels, to_matrix
from tfprune.patterns import NM

TWO_OF_FOUR = NM(2, 4)
SAMPLES, WIDTH, SHARE = 256, 16, 1 / 3
NETWORKS: dict[str, tuple[Callable[[], keras.Model], int, int]] = {  # images, epochs
    "CNN": (fashion_cnn.build, 60_000, 4),
    "like MobileNetV2": (lambda: mobilenet((28, 28, 1), WIDTH), 30_000, 4),
}
ORDERS = ("magnitude", "wanda")
CRITERIA = ("magnitude", "wanda", "sparsegpt")
Data = tuple[np.ndarray, np.ndarray]


def trained(name: str, seed: int, folder: Path, data: Data) -> keras.Model:
    path = folder / f"{name.replace(' ', '_')}_{seed}.keras"
    if path.exists():
        return keras.saving.load_model(path)
    keras.utils.set_random_seed(seed)
    build, images, epochs = NETWORKS[name]
    model = build()
    rate = keras.optimizers.schedules.CosineDecay(0.002, epochs * -(-images // 128))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    x, y = (each[:images] for each in data)
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
    folder.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def masked(model: keras.Model, criterion: str, samples: np.ndarray) -> keras.Model:
    if criterion == "magnitude":
        wrapped = tfprune.wrap(model, pattern=TWO_OF_FOUR)
        tfprune.update_masks(wrapped, 0.5)
        return tfprune.strip(wrapped)
    settings = {"criterion": criterion, "pattern": TWO_OF_FOUR, "allocation": "uniform"}
    return tfprune.prune_weights(model, samples, 0.5, batch_size=64, verbose=0, **settings)[0]


def accuracy(model: keras.Model, test: Data) -> float:
    return 100 * float(np.mean(model.predict(test[0], verbose=0, batch_size=500).argmax(axis=1) == test[1]))


def best_of_any_order(model: keras.Model) -> keras.Model:
    """Return the model with the largest half of each row of inputs: no order keeps more in each row."""
    plain = tfprune.strip(model)
    for kernel in kernels(plain):
        if kernel.mixes_inputs and kernel.takes(TWO_OF_FOUR):
            matrix = to_matrix(keras.ops.convert_to_numpy(kernel.variable), kernel)
            rows = matrix.reshape(-1, matrix.shape[-1])
            places = np.argsort(np.argsort(-np.abs(rows), axis=1), axis=1)
            half = np.where(places < rows.shape[1] // 2, rows, 0)
            kernel.variable.assign(from_matrix(half.reshape(matrix.shape), kernel))
    return plain


def measure(folder: Path, seeds: int, names: list[str]) -> list[Row]:
    data, test = fashion.read("train"), fashion.read("t10k")
    samples = data[0][-SAMPLES:]
    rows = []
    for name in names:
        lost: dict[tuple[str, str], list[float]] = {}
        dense, apart, kept, best = [], [], [], []
        for seed in range(seeds):
            model = trained(name, seed, folder, data)
            dense.append(accuracy(model, test))
            by_size, report = tfprune.permute_channels(model, TWO_OF_FOUR, verbose=0)
            by_norm, _ = tfprune.permute_channels(model, TWO_OF_FOUR, criterion="wanda", data=samples, verbose=0)
            outputs = (each.predict(test[0], verbose=0, batch_size=500) for each in (model, by_size))
            apart.append(float(np.abs(np.subtract(*outputs)).max()))
            kept.append(np.mean([(row.before, row.after) for row in report.rows], axis=0))
            best.append(dense[-1] - accuracy(best_of_any_order(model), test))
            for criterion in CRITERIA:
                for order, network in zip(("none", *ORDERS), (model, by_size, by_norm), strict=True):
                    points = dense[-1] - accuracy(masked(network, criterion, samples), test)
                    lost.setdefault((criterion, order), []).append(points)
        before, after = np.mean(kept, axis=0)
        sys.stdout.write(f"{name}: dense {np.mean(dense):.2f} %, kept magnitude {before:.2%} -> {after:.2%}, ")
        sys.stdout.write(f"outputs of {len(test[0])} images differ by {max(apart):.1e} at most, the largest half of ")
        sys.stdout.write(f"each row loses {np.mean(best):.2f} points\n")
        for criterion, order in itertools.product(CRITERIA, ORDERS):
            as_is, reordered = lost[criterion, "none"], lost[criterion, order]
            each = ", ".join(
                f"{gain_before:.2f} -> {gain_after:.2f}"
                for gain_before, gain_after in zip(as_is, reordered, strict=True)
            )
            text = (
                f"{name}, masks by {criterion}, order by {order}: part of {np.mean(as_is):.2f} lost points won back"
            )
            text += f" (each seed: {each})"
            rows.append(at_least(text, 1 - np.mean(reordered) / np.mean(as_is), round(SHARE, 2), unit=""))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where trained networks are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=NETWORKS, default=[*NETWORKS])
    options = parser.parse_args()
    for row in measure(options.folder, options.seeds, options.only) if fashion.is_there() else ():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
