"""Ten files, as those of the gallery and the sample apps, made again from their certificates: equal bytes or not.

python bench/reproduce.py                          # on this Python
python bench/reproduce.py --python PATH            # and on another one that has this library and the same packages
python bench/reproduce.py --smoke                  # three of the files

The networks are small and trained on the digits of scikit-learn. Each file has a folder with its certificate, the
saved model and the arrays; `tfprune reproduce` runs there in a new process, with another PYTHONHASHSEED.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))

import hub_writers
import keras
import numpy as np
from common import Row, at_least
from sklearn.datasets import load_digits

import tfprune
from tfprune import export
from tfprune.export.command_line.cli import main

SMOKE = ("draw_digits", "prune_face_mesh", "write_on_a_pi")
PROGRAM = "import sys; from tfprune.export.command_line.cli import main; sys.exit(main(sys.argv[1:]))"
ANOTHER_HASH_SEED = "7"


def digits() -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    return (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32), labels


def trained() -> keras.Model:
    """Return a small network, 60 % of whose weights are zero."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Conv2D(32, 1, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(*digits(), epochs=15, verbose=0)
    wrapped = tfprune.wrap(model)
    tfprune.update_masks(wrapped, 0.6)
    sparse = tfprune.strip(wrapped)
    sparse.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return sparse


def exported(folder: Path, model: keras.Model, **settings: Any) -> Any:
    model.save(folder / "model.keras")
    return export.to_tflite(model, folder / "written.tflite", **settings)


def files(x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[Path, keras.Model], Any]]:
    """Return functions that write a file and what it was made of; their report has the certificate."""

    def draw_digits(folder: Path, model: keras.Model) -> Any:
        np.save(folder / "x.npy", x[:64])
        return exported(folder, model, check_on=x[:64])

    def int8_four_ways(folder: Path, model: keras.Model) -> Any:
        np.savez(folder / "data.npz", x=x[:200], y=y[:200])
        limit = tfprune.Limit(0.02, data=(x[:200], y[:200]))
        return exported(folder, model, quantize="int8", calibration=x[:200], max_drop=limit)

    def fast_zeros(folder: Path, model: keras.Model) -> Any:
        model.save(folder / "model.keras")
        return export.to_tflite(model, folder / "fast.tfz", optimize="sparse", compress="packed", batch=1)

    def half_precision(folder: Path, model: keras.Model) -> Any:
        return exported(folder, model, quantize="float16")

    def prune_face_mesh(folder: Path, model: keras.Model) -> Any:
        np.save(folder / "x.npy", x[:200])
        export.to_tflite(model, folder / "dense.tflite", optimize="dense")
        return export.prune_tflite(folder / "dense.tflite", folder / "pruned.tflite", x[:200], sparsity=0.8)

    def shrink_mobilenet(folder: Path, model: keras.Model) -> Any:
        np.save(folder / "x.npy", x[:200])
        export.to_tflite(model, folder / "dense.tflite", optimize="dense")
        return export.shrink_tflite(folder / "dense.tflite", folder / "small.tflite", x[:200], flops=0.6)

    def run_in_a_browser(folder: Path, model: keras.Model) -> Any:
        export.to_tflite(model, folder / "dense.tflite", optimize="dense")
        return export.rewrite(folder / "dense.tflite", folder / "web.tflite", target="web", batch=1)

    def watch_learns(folder: Path, model: keras.Model) -> Any:
        np.savez(folder / "data.npz", x=x[:64], y=y[:64])
        model.save(folder / "model.keras")
        loss, check_on = "sparse_categorical_crossentropy", (x[:64], y[:64])
        return export.to_trainer(model, folder / "learns.tflite", trains="last", loss=loss, check_on=check_on)

    def write_on_a_pi(folder: Path, model: keras.Model) -> Any:
        writer = hub_writers.writer_task()
        writer.save(folder / "model.keras")
        return export.to_generator(writer, folder / "writer.litertlm", length=16, prefill=(4,), max_tokens=2)

    def what_pruning_broke(folder: Path, model: keras.Model) -> Any:
        """A search, from the command line."""
        model.save(folder / "model.keras")
        for name, part in (("x", x[:600]), ("y", y[:600]), ("xv", x[600:900]), ("yv", y[600:900])):
            np.save(folder / f"{name}.npy", part)
        at = {name: str(folder / f"{name}.npy") for name in ("x", "y", "xv", "yv")}
        words = ["compress", str(folder / "model.keras"), "--train", f"{at['x']},{at['y']}"]
        words += [
            "--validation",
            f"{at['xv']},{at['yv']}",
            "--trials",
            "2",
            "--steps",
            "40",
            "--max-drop",
            "0.1",
            "--minutes",
            "60",
        ]
        code = main([*words, "--folder", str(folder / "searched"), "--certificate", str(folder / "certificate.json")])
        assert code == 0, code

    return {
        each.__name__: each
        for each in (draw_digits, int8_four_ways, fast_zeros, half_precision, prune_face_mesh)
        + (shrink_mobilenet, run_in_a_browser, watch_learns, write_on_a_pi, what_pruning_broke)
    }


def reproduced(python: str, folder: Path) -> tuple[bool, str]:
    """Return whether `tfprune reproduce` made equal bytes in a new process, and what it wrote."""
    environment = {**os.environ, "PYTHONHASHSEED": ANOTHER_HASH_SEED, "PYTHONSAFEPATH": "1"}
    command = [python, "-c", PROGRAM, "reproduce", str(folder / "certificate.json")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False, cwd=folder)
    return done.returncode == 0, done.stdout + done.stderr[-600:]


def rows(*, pythons: tuple[str, ...] = (sys.executable,), smoke: bool = False) -> list[Row]:
    work = {name: write for name, write in files(*digits()).items() if not smoke or name in SMOKE}
    counts = dict.fromkeys(pythons, 0)
    model = trained()
    with tempfile.TemporaryDirectory() as top:
        for name, write in work.items():
            folder = Path(top, name)
            folder.mkdir()
            report = write(folder, model)
            if report is not None:
                report.certificate().save(folder / "certificate.json")
            for python in pythons:
                equal, text = reproduced(python, folder)
                counts[python] += equal
                sys.stderr.write(f"{name} on {Path(python).name}: {'equal' if equal else text}\n")
    versions = {python: version_of(python) for python in pythons}
    return [
        at_least(f"equal bytes of {len(work)} files, Python {versions[python]}", count, len(work), unit="", digits=0)
        for python, count in counts.items()
    ]


def version_of(python: str) -> str:
    command = [python, "-c", "import platform; print(platform.python_version())"]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--python", metavar="PATH", action="append", default=[])
    options = parser.parse_args()
    for row in rows(pythons=(sys.executable, *options.python), smoke=options.smoke):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
