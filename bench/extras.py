"""What each extra takes: the space of its environment, and the time of README's first export in a new process.

    python bench/extras.py [EXTRA ...]

Makes a virtual environment for each in a temporary folder, from the package index of pip's settings, by uv. Space is
that of all files of the environment, without compiled modules. `train` and `jax` also train and export, twice: once
to read the new files from the disk, once for the clock.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("device", "generate", "micro", "jax", "train", "search", "vela", "federated", "hub", "litertlm", "demo")
EXPORT = """
import keras, numpy as np, tfprune, tfprune.export
layers = [keras.Input((64,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(10)]
model = tfprune.wrap(keras.Sequential(layers))
model.compile("adam", "mse")
tfprune.update_masks(model, 0.9)
model.fit(np.ones((64, 64)), np.ones((64, 10)), verbose=0)
tfprune.export.to_tflite(model, "model.tfz", compress="packed")
"""
BACKENDS = {"train": "tensorflow", "jax": "jax"}


def megabytes(folder: Path) -> float:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.suffix != ".pyc")
    return sum(path.stat().st_size for path in files) / 1e6


def seconds(python: Path, backend: str) -> float:
    """Return the seconds of a process that trains and exports."""
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        environment = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "PATH": "/usr/bin:/bin"}
        with tempfile.TemporaryDirectory() as folder:
            command = [str(python), "-c", EXPORT]
            subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - start)
    return taken[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extras", nargs="*", metavar="EXTRA", default=EXTRAS)
    for extra in parser.parse_args().extras:
        with tempfile.TemporaryDirectory() as folder:
            python = Path(folder, "bin", "python")
            uv = [sys.executable, "-m", "uv"]
            subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
            install = [*uv, "pip", "install", "--quiet", "--python", str(python), f"{ROOT}[{extra}]"]
            subprocess.run(install, check=True)
            text = f"{extra}\t{megabytes(Path(folder)):,.0f} MB"
            if extra in BACKENDS:
                text += f"\t{seconds(python, BACKENDS[extra]):.1f} s"
            print(text, flush=True)


if __name__ == "__main__":
    main()
