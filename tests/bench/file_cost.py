"""The processor time and the memory of `tfprune prune` on a MobileNetV2 file with 256 samples.

The file gets random weights, on which neither depends. It is kept in build/anyfile.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import Row, at_most

FOLDER = Path(__file__).parents[2] / "build" / "anyfile"
SAMPLES = 256


def mobilenet_v2() -> Path:
    """Return the file; convert it if it is not there."""
    path = FOLDER / "mobilenet_v2.tflite"
    if not path.exists():
        import keras

        from tfprune.export import to_tflite

        FOLDER.mkdir(parents=True, exist_ok=True)
        keras.utils.set_random_seed(0)
        to_tflite(keras.applications.MobileNetV2(weights=None, classifier_activation=None), path, sparse=False)
    return path


def measure() -> Iterator[Row]:
    file, generator = mobilenet_v2(), np.random.default_rng(0)
    # Of few details: white noise has the same mean everywhere, and all outputs would be alike.
    samples = generator.normal(size=(SAMPLES, 7, 7, 3)).astype(np.float32).repeat(32, axis=1).repeat(32, axis=2)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "samples.npy"), samples)
        program = "from tfprune.export.command_line.cli import main; raise SystemExit(main())"
        options = ["prune", str(file), "sparse.tflite", "--sparsity", "0.5", "--samples", "samples.npy"]
        line = [sys.executable, "-c", program, *options]
        process = subprocess.Popen(line, cwd=folder, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)  # its usage, and that of the processes that it waits for
    seconds = usage.ru_utime + usage.ru_stime
    yield at_most("MobileNetV2, 256 samples, processor time", seconds, 120, unit=" s", digits=0)
    yield at_most("the same, largest process", usage.ru_maxrss / 1e6, 1.5, unit=" GB", digits=2)
    assert status == 0


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
