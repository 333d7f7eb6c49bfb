"""One family of keras.applications, trained a step quantization-aware, as an int8 file; prints a line per figure."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from family import ROWS, build, note, timed
from layerwise import STEPS, compare

import tfprune
from tfprune.export import ExportReport, Quantization, to_tflite
from tfprune.export.file.reader import read
from tfprune.export.keras_side.to_tflite import _float_operators

ALIKE = 0.99  # of the outputs of each layer, within STEPS


def walk_through(model: keras.Model, images: np.ndarray) -> None:
    """Quantize, train a step, export and compare; stop if a layer of the file does not do what Keras' does."""
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
        written, seconds = timed(lambda: export(quantized, path, images))
        note("to_tflite, s", f"{seconds:.0f}")
        note("bytes", f"{written.bytes:,}")
        floats = _float_operators(read(path.read_bytes()))
        note("in float", ", ".join(f"{count} {name}" for name, count in floats.items()) or "-")
        agree(quantized, path, images)


def export(quantized: keras.Model, path: Path, images: np.ndarray) -> ExportReport:
    """Export under the check that users have, and note whether it accepts; where it does not, without a bound."""
    options = {"quantize": Quantization("int8", allow_float=True), "optimize": "dense"}
    try:
        written = to_tflite(quantized, path, check_on=images, **options)
    except ValueError as error:
        note("checked", str(error).partition("Received: ")[2].partition(";")[0])
        return to_tflite(quantized, path, check_on=images, tolerance=10, **options)
    note("checked", "accepted")
    return written


def agree(quantized: keras.Model, path: Path, images: np.ndarray) -> None:
    """Compare each layer of a file with Keras' on the file's own inputs.

    Raises:
        ValueError: If less than ALIKE of the outputs of a layer are within STEPS, or the file lacks a layer.
    """
    compared, missing = compare(quantized, path, images)
    if missing or not compared:
        raise ValueError(f"Expected: the output of each layer in the file, which lacks {', '.join(missing) or 'all'}")
    note("compared", str(len(compared)))
    worst = min(compared, key=lambda found: found.share)
    note("worst", worst.layer)
    note(f"within {STEPS} steps", f"{worst.share:.2%}")
    if worst.share < ALIKE:
        raise ValueError(f"Expected: {ALIKE:.0%} within {STEPS} steps, and not {worst.share:.2%} of {worst.layer}")


def reason_of(reason: str) -> str:
    """Return the short form of why a layer stays in float."""
    return reason.partition(":")[0].removeprefix("no rule for ").partition(",")[0].partition(";")[0]


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    walk_through(*build(name, *map(int, numbers)))
