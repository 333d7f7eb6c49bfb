"""How long a search takes against the time that it was given, with a model whose epoch takes longer than that.

Printed: search_time.py [SECONDS]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from common import Row, at_most

from tfprune.export import Search, compress

SECONDS = 180.0
SAMPLES, SIDE, CLASSES = 50_000, 64, 10


def slow_model() -> keras.Model:
    """Return a compiled network of which a training step takes a second or so on two cores."""
    layers: list[keras.Layer] = [keras.layers.Rescaling(1 / 255)]
    for filters in (32, 64, 64):
        layers += [keras.layers.Conv2D(filters, 3, padding="same", activation="relu"), keras.layers.MaxPooling2D()]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(CLASSES, "softmax")]
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), *layers])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def measure(seconds: float) -> Row:
    """Search for this many seconds, and compare with what passed, from the call to its return."""
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    x = random.integers(0, 255, (SAMPLES, SIDE, SIDE, 3), np.uint8)
    data, held_out = (x, random.integers(0, CLASSES, SAMPLES)), (x[:500], random.integers(0, CLASSES, 500))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        began = time.monotonic()
        report = compress(
            slow_model(), data, held_out, max_drop=1.0, search=Search(), time=seconds, folder=folder, verbose=0
        )
        passed = time.monotonic() - began
    few = "; says that few recipes fit" * any("recipes or more" in str(each.message) for each in caught)
    what = f"{report.trials} recipes in {passed:.0f} s, {report.seconds:.0f} s as reported{few}: passed / asked"
    return at_most(what, passed / seconds, 1.05)


if __name__ == "__main__":
    row = measure(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
    sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
