"""One family of keras.applications, trained a step quantization-aware, as an int8 file; prints a line per figure.

Deep networks that were not trained are chaotic: what is rounded the other way somewhere grows from layer to layer. So
the file is held to what Keras itself gives when one in a hundred numbers of the images moves by one of 255 steps.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from family import ROWS, build, logits, note, timed

import tfprune
from tfprune.export import Runner, to_tflite
from tfprune.export.inspecting.float_operators import float_operators
from tfprune.export.tflite.reader import read

ALIKE = 0.05  # for those that are not chaotic: of the outputs' root mean square
MOVED = 0.01


def walk_through(model: keras.Model, images: np.ndarray) -> None:
    """Quantize, train a step, export and compare; stop if the file does not do what Keras does."""
    quantized, seconds = timed(lambda: tfprune.quantize_aware(model))
    note("quantize_aware, s", f"{seconds:.1f}")
    report = tfprune.quantization_report(quantized)
    note("layers that round", str(len(report.rows)))
    note("left", ", ".join(sorted({reason_of(entry.reason) for entry in report.skipped})) or "-")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    quantized.compile(keras.optimizers.SGD(1e-5), loss, run_eagerly=True)
    quantized.fit(images, np.arange(ROWS) % model.output_shape[-1], ROWS, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        options = {"quantize": "int8", "allow_float": True, "sparse": False, "tolerance": 10}
        written, seconds = timed(lambda: to_tflite(quantized, path, check_on=images, **options))
        note("to_tflite, s", f"{seconds:.0f}")
        note("bytes", f"{written.bytes:,}")
        floats = float_operators(read(path.read_bytes()))
        note("in float", ", ".join(f"{count} {name}" for name, count in floats.items()) or "-")
        before, found = logits(quantized, images), Runner(path).predict(images)
    apart, allowed = _apart(found, before), _apart(logits(quantized, moved(images)), before)
    note("|file - Keras|", f"{apart:.3f}")
    note("|Keras, moved - Keras|", f"{allowed:.3f}")
    if not apart <= max(allowed, ALIKE):
        raise ValueError(
            f"Expected: outputs that differ by {max(allowed, ALIKE):.3f} at most, and not by {apart:.3f}"
        )


def moved(images: np.ndarray) -> np.ndarray:
    """Return images of which a few numbers are a step higher or lower."""
    draw, step = np.random.default_rng(0), images.max() / 255
    steps = draw.choice([-1, 1], images.shape) * (draw.random(images.shape) < MOVED)
    return (images + step * steps).clip(0, images.max()).astype(images.dtype)


def _apart(outputs: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(outputs - expected)) / np.mean(np.square(expected))))


def reason_of(reason: str) -> str:
    """Return the short form of why a layer stays in float."""
    return reason.partition(":")[0].removeprefix("no rule for ").partition(",")[0].partition(";")[0]


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    walk_through(*build(name, *map(int, numbers)))
