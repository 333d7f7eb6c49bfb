"""One family of keras.applications by both converters; prints a line per figure.

A file is right if it is as near to Keras in float64 as 1e-5 of the largest output, or as twice what Keras in float32
itself is away from it: networks that double the rounding of their first layers are so in any order of their sums.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from family import build, note

import tfprune.export
from tfprune.export.keras_side.prepare import in_float64

RIGHT = 1e-5  # of the largest output
AS_KERAS = 2  # times the difference of Keras in float32
LOOSE = 1e-2  # for the check of the export, as the files are judged here
PAIRS = 15
CONVERTERS = ("tensorflow", "litert")


def main(name: str, side: int, brightest: int) -> None:
    model, images = build(name, side, brightest)
    files, wrong = {}, []
    exact, own = references(model, images)
    allowed = max(RIGHT, AS_KERAS * own)
    note("|Keras| / max", f"{own:.1e}")
    with tempfile.TemporaryDirectory() as folder:
        for converter in CONVERTERS:
            os.environ["TFPRUNE_CONVERTER"] = converter
            path, start = Path(folder, converter), time.perf_counter()
            try:
                report = tfprune.export.to_tflite(model, path, optimize="dense", check_on=images, tolerance=LOOSE)
            except ValueError as error:
                wrong.append(f"{converter}: {error}")
                continue
            note(f"{converter}, s", f"{time.perf_counter() - start:.1f}")
            difference = away(tfprune.export.Runner(path).predict(images), exact)
            note(f"|{converter}| / max", f"{difference:.1e}")
            note(f"{converter}, operators", str(sum(report.ops.values())))
            wrong += [f"{converter} differs by {difference:.1e} of {allowed:.1e}"] if difference > allowed else []
            files[converter] = path
        if len(files) == len(CONVERTERS):
            note("litert / tensorflow, time", f"{ratio(*files.values(), images[:1]):.2f}")
    if wrong:
        raise SystemExit("; ".join(wrong))


def references(model: keras.Model, images: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the outputs of Keras in float64, and how far those in float32 are from them."""
    single = keras.ops.convert_to_numpy(model(images, training=False))
    with in_float64(model):
        exact = keras.ops.convert_to_numpy(model(images.astype("float64"), training=False))
    if exact.dtype != np.float64:
        raise SystemExit(f"Keras computes in {exact.dtype} instead of float64")
    return exact, away(single, exact)


def away(outputs: np.ndarray, exact: np.ndarray) -> float:
    """Return the largest difference, as a fraction of the largest output."""
    return float(np.abs(outputs - exact).max() / np.abs(exact).max())


def ratio(first: Path, second: Path, image: np.ndarray) -> float:
    """Return the median of the times of the second file divided by those of the first one, in turns, one thread."""
    runs = [_interpreter(path, image) for path in (first, second)]
    quotients = []
    for _ in range(PAIRS):
        times = []
        for run in runs:
            start = time.process_time()
            for _ in range(3):
                run.invoke()
            times.append(time.process_time() - start)
        quotients.append(times[1] / times[0])
    return median(quotients)


def _interpreter(path: Path, image: np.ndarray) -> Any:
    interpreter = Interpreter(str(path), num_threads=1)
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, image.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, image)
    interpreter.invoke()
    return interpreter


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
