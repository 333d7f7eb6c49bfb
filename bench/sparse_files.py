"""Sparse files on this machine: blocks of four on x86, MobileNet as sparse int8, and how long its export takes."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from common import Row, at_least, at_most, interleaved, median_ratio

import tfprune
from tfprune.export import Runner, to_tflite

SPARSITY = 0.9
POINTWISE = [r"conv_pw_\d+/kernel", "conv_preds/kernel"]


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        return [*_blocks(Path(folder)), *_mobilenet(Path(folder))]


def _blocks(folder: Path) -> list[Row]:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(width, activation="relu") for width in (2048, 2048, 1024)]
    model = tfprune.wrap(keras.Sequential([keras.Input((1024,)), *layers]), pattern=tfprune.patterns.Block(1, 4))
    tfprune.update_masks(model, SPARSITY)
    to_tflite(model, folder / "dense", optimize="dense")
    to_tflite(model, folder / "blocks", optimize="latency")
    runners = {name: Runner(folder / name) for name in ("dense", "blocks")}
    row = np.random.default_rng(0).random((1, 1024), dtype=np.float32)
    runs = {name: lambda runner=runner: [runner.predict(row) for _ in range(20)] for name, runner in runners.items()}
    seconds = interleaved(runs, rounds=21)
    ratio = median_ratio(seconds["dense"], seconds["blocks"])
    return [at_least("MLP in blocks of 1x4 at 90 %: dense / sparse", ratio, 3.5)]


def _mobilenet(folder: Path) -> list[Row]:
    keras.utils.set_random_seed(0)
    model = tfprune.wrap(keras.applications.MobileNet(weights=None, classifier_activation=None), filters=POINTWISE)
    tfprune.update_masks(model, SPARSITY)
    start = time.perf_counter()
    to_tflite(model, folder / "float32")
    seconds = time.perf_counter() - start
    images = np.random.default_rng(0).uniform(-1, 1, (8, 224, 224, 3)).astype(np.float32)
    report = to_tflite(model, folder / "int8", quantize="int8", calibration=[images], optimize="sparse")
    return [
        at_most("MobileNet at 90 %, float32: export and checks", seconds, 60, unit=" s", digits=1),
        at_most("MobileNet at 90 %: loadable sparse int8 file", report.bytes / 1e6, 1.7, unit=" MB"),
    ]


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
