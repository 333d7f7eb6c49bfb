"""Remove channels from .tflite files without training: the ResNet of anyfile.py at half of its FLOPs.

Beside it: the same network in Keras, with `rank_channels`, `plan_shrink` and `reconstruct` on the same samples.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cifar
import numpy as np
from anyfile import FIRST_SAMPLE, FOLDER, SAMPLES, SEEDS, TESTED, accuracy, file_of
from common import Row, at_most

from tfprune.export import shrink_tflite

FLOPS = 0.5
BARS = {"float32": 5.0, "int8": 5.0}  # points lost


def in_keras(seed: int, samples: np.ndarray, test: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the points that the Keras model loses at the same FLOPs."""
    import keras

    import tfprune

    images, labels = (part[:TESTED] for part in test)
    model = keras.saving.load_model(FOLDER / f"cifar{seed}.keras")
    ranking = tfprune.rank_channels(model, samples, verbose=0)
    plan = tfprune.plan_shrink(model, tfprune.budget(flops=FLOPS, allocation="global"), criterion=ranking, verbose=0)
    solved, _ = tfprune.reconstruct(tfprune.zero_channels(model, plan), model, samples, verbose=0)

    def score(some: keras.Model) -> float:
        predicted = some.predict(images, verbose=0).argmax(axis=1)
        return 100 * float((predicted == labels).mean())

    return score(model) - score(tfprune.shrink(solved, plan))


def measure(seeds: int) -> Iterator[Row]:
    test = cifar.read("test")
    samples = cifar.read("train")[0][FIRST_SAMPLE : FIRST_SAMPLE + SAMPLES]
    for kind, bar in BARS.items():
        lost, before, differences, seconds = [], [], [], []
        for seed in range(seeds):
            file = file_of(seed, kind)
            with tempfile.TemporaryDirectory() as folder:
                path, start = Path(folder, "small.tflite"), time.perf_counter()
                report = shrink_tflite(file, path, samples, flops=FLOPS)
                seconds.append(time.perf_counter() - start)
                before.append(accuracy(file, test))
                lost.append(before[-1] - accuracy(path, test))
                differences.append(report.file.max_abs_diff or 0.0)
        each = ", ".join(f"{value:.1f}" for value in lost)
        text = f"{kind}, half of the FLOPs, of {statistics.mean(before):.2f} % (each seed: {each}; "
        text += f"{statistics.median(seconds):.0f} s)"
        yield at_most(text, statistics.mean(lost), bar, unit=" points", digits=2)
        yield at_most(f"{kind}, difference from the file with zeros", max(differences), 0, digits=9)
        if kind == "float32":
            beside = statistics.mean(in_keras(seed, samples, test) for seed in range(seeds))
            yield at_most("float32, points lost beside reconstruct in Keras", statistics.mean(lost) - beside, 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    if cifar.is_there():
        for row in measure(options.seeds):
            sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
            sys.stdout.flush()
