"""The processor time and the memory of `tfprune prune`: MobileNetV2, and a file of 100 MB, with 256 samples each.

The files get random weights, on which neither depends. They are kept in build/anyfile. Names of files choose some.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import Row, at_most

FOLDER = Path(__file__).parents[1] / "build" / "anyfile"
SAMPLES = 256


def mobilenet_v2() -> Any:
    """Return a model of 3.5 million weights and large maps."""
    import keras

    return keras.applications.MobileNetV2(weights=None, classifier_activation=None)


def large() -> Any:
    """Return a model of 26 million weights, most of them in one layer."""
    import keras

    layers = [keras.layers.Conv2D(width, 3, strides=2, activation="relu") for width in (256, 512, 512)]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4096, activation="relu")]
    layers += [keras.layers.Dense(4096, activation="relu"), keras.layers.Dense(1000)]
    return keras.Sequential([keras.Input((64, 64, 3)), *layers])


MODELS = {"mobilenet_v2": (mobilenet_v2, 224, 120, 1.5), "large": (large, 64, 600, 4.0)}  # pixels, seconds, GB


def file_of(name: str) -> Path:
    """Return a file; convert it if it is not there."""
    path = FOLDER / f"{name}.tflite"
    if not path.exists():
        import keras

        from tfprune.export import to_tflite

        FOLDER.mkdir(parents=True, exist_ok=True)
        keras.utils.set_random_seed(0)
        to_tflite(MODELS[name][0](), path, optimize="dense")
    return path


def resident(pid: int) -> int:
    """Return the bytes in memory of a process and of those that it started; 0 once it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident(int(child)) for child in children)


def measure(names: Sequence[str] = tuple(MODELS)) -> Iterator[Row]:
    for name in names:
        _, pixels, most_seconds, most_memory = MODELS[name]
        file = file_of(name)
        # Of few details: white noise has the same mean everywhere, and all outputs would be alike.
        samples = np.random.default_rng(0).normal(size=(SAMPLES, 7, 7, 3)).astype(np.float32)
        samples = samples.repeat(pixels // 7 + 1, axis=1).repeat(pixels // 7 + 1, axis=2)[:, :pixels, :pixels]
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder, "samples.npy"), samples)
            program = "from tfprune.export.command_line.cli import main; raise SystemExit(main())"
            options = ["prune", str(file), "sparse.tflite", "--sparsity", "0.5", "--samples", "samples.npy"]
            line = [sys.executable, "-c", program, *options]
            process = subprocess.Popen(line, cwd=folder, stdout=subprocess.DEVNULL)
            peak, status, usage = 0, 0, None
            while usage is None:
                peak = max(peak, resident(process.pid))
                ended, status, resources = os.wait4(process.pid, os.WNOHANG)  # usage, and that of what it waits for
                usage = resources if ended else None
                time.sleep(0.05)
        seconds = usage.ru_utime + usage.ru_stime
        what = f"{name}, {file.stat().st_size / 1e6:.0f} MB, {SAMPLES} samples"
        yield at_most(f"{what}: processor time", seconds, most_seconds, unit=" s", digits=0)
        yield at_most(f"{what}: largest process", usage.ru_maxrss / 1e6, most_memory, unit=" GB", digits=2)
        yield at_most(f"{what}: all processes", peak / 1e9, most_memory, unit=" GB", digits=2)
        assert status == 0


if __name__ == "__main__":
    for row in measure(sys.argv[1:] or tuple(MODELS)):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
        sys.stdout.flush()
