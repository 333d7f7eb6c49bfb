"""The processor time and the memory of `tfprune prune`: MobileNetV2, and a file of 100 MB, with 256 samples each.

The files get random weights, on which neither depends. They are kept in build/anyfile. Names of files choose some.
The path of another file prunes that one on random samples, such as the ViT of 152 MB of PyTorch's:

    build/torch/bin/python bench/torch_corpus.py build/torch_large --only vit_large --converter litert
    python bench/file_cost.py build/torch_large/vit_large_litert.tflite
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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


class Cost(NamedTuple):
    """What a command took: seconds on the clock and of processors, and GB of its largest process and of all."""

    clock: float
    processors: float
    largest: float
    together: float


def cost(options: Sequence[str], folder: str) -> Cost:
    """Run `tfprune` in a folder, and return what it took."""
    program = "from tfprune.export.command_line.cli import main; raise SystemExit(main())"
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", program, *options], cwd=folder, stdout=subprocess.DEVNULL)
    peak, status, usage = 0, 0, None
    while usage is None:
        peak = max(peak, resident(process.pid))
        ended, status, resources = os.wait4(process.pid, os.WNOHANG)  # usage, and that of what it waits for
        usage = resources if ended else None
        time.sleep(0.05)
    assert status == 0
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6, peak / 1e9)


def measure(names: Sequence[str] = tuple(MODELS)) -> Iterator[Row]:
    for name in names:
        if name not in MODELS:
            yield from measure_file(Path(name).resolve())
            continue
        _, pixels, most_seconds, most_memory = MODELS[name]
        file = file_of(name)
        # Of few details: white noise has the same mean everywhere, and all outputs would be alike.
        samples = np.random.default_rng(0).normal(size=(SAMPLES, 7, 7, 3)).astype(np.float32)
        samples = samples.repeat(pixels // 7 + 1, axis=1).repeat(pixels // 7 + 1, axis=2)[:, :pixels, :pixels]
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder, "samples.npy"), samples)
            took = cost(
                ["prune", str(file), "sparse.tflite", "--sparsity", "0.5", "--samples", "samples.npy"], folder
            )
        what = f"{name}, {file.stat().st_size / 1e6:.0f} MB, {SAMPLES} samples"
        yield at_most(f"{what}: processor time", took.processors, most_seconds, unit=" s", digits=0)
        yield at_most(f"{what}: largest process", took.largest, most_memory, unit=" GB", digits=2)
        yield at_most(f"{what}: all processes", took.together, most_memory, unit=" GB", digits=2)


def measure_file(file: Path) -> Iterator[Row]:
    """Prune a file on random samples, and compare the memory with its size."""
    size = file.stat().st_size / 1e9
    with tempfile.TemporaryDirectory() as folder:
        took = cost(["prune", str(file), "sparse.tflite", "--sparsity", "0.6", "--samples", "random"], folder)
        run = cost(["bench", str(file)], folder)
    what = f"{file.stem}, {size * 1e3:.0f} MB, 60 % zeros"
    yield at_most(f"{what}: time", took.clock, 300, unit=" s", digits=0)
    yield at_most(f"{what}: memory", took.together / size, 2.5, unit=" times the file", digits=1)
    yield at_most(
        f"{what}: memory of one `tfprune bench`", run.together / size, 2.5, unit=" times the file", digits=1
    )


if __name__ == "__main__":
    for row in measure(sys.argv[1:] or tuple(MODELS)):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
        sys.stdout.flush()
