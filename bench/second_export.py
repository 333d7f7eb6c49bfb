"""What the second export of a program takes against the first, which waits until TensorFlow is loaded."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import keras
from common import Row, at_most

from tfprune.export import to_tflite

SHARE = 0.5


def measure() -> list[Row]:
    layers = keras.layers
    model = keras.Sequential([keras.Input((28, 28, 1)), layers.Conv2D(16, 3), layers.Flatten(), layers.Dense(10)])
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            began = time.perf_counter()
            to_tflite(model, Path(folder, "model.tflite"))
            seconds.append(time.perf_counter() - began)
    what = f"second export of a program / first ({seconds[0]:.1f} s)"
    return [at_most(what, min(seconds[1:]) / seconds[0], SHARE)]


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
