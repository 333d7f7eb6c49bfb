"""MobileNet in Chromium by LiteRT.js and MediaPipe Tasks: sparse files against dense ones, in turns.

LiteRT.js runs one with random weights. MediaPipe classifies pictures with one that was trained here, on handwritten
digits of 160 pixels, in four minutes. `--only litert` or `--only mediapipe` runs one of them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import keras
import numpy as np
from common import Row, at_least, at_most

import tfprune
from tfprune.export import add_metadata, to_tflite, web

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))
SPARSITY, CONTROL = 0.9, 0.6  # XNNPACK runs kernels with less than two thirds of zeros dense
LEAST, LEAST_DYNAMIC, MOST_BYTES = 3.5, 3.3, 0.09
SAME = (0.9, 1.1)
SIDE, TRAINED, PICTURES, EPOCHS = 160, 1000, 200, 5  # of the classifier of pictures
LEAST_TASKS, CLOSE = 3.0, 1e-5


def write_files(folder: Path) -> list[Path]:
    """Write MobileNet with random weights: dense, sparse, sparse with 8-bit weights, and with too few zeros."""
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNet(weights=None, classifier_activation=None)
    random = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) < 2:  # else the outputs are next to nothing
            weight.assign(weight + 0.1 * random.normal(size=weight.shape))
    wrapped = tfprune.wrap(tfprune.export.make_sparse_ready(model))
    tfprune.update_masks(wrapped, CONTROL)
    to_tflite(wrapped, folder / "control.tflite", optimize="sparse", batch=1)
    tfprune.update_masks(wrapped, SPARSITY)
    to_tflite(wrapped, folder / "dense.tflite", optimize="dense", batch=1)
    to_tflite(wrapped, folder / "sparse.tflite", target="web")
    to_tflite(wrapped, folder / "sparse_dynamic.tflite", target="web", quantize="dynamic")
    return [folder / f"{name}.tflite" for name in ("dense", "sparse", "sparse_dynamic", "control")]


def write_classifier(folder: Path) -> tuple[list[Path], np.ndarray, float]:
    """Train a sparse MobileNet, and write it dense and sparse; return pictures and its accuracy on them, too."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))[: TRAINED + PICTURES]
    small = digits.images[order, :, :, None] * (255 / 16)
    pictures = np.rint(np.repeat(keras.ops.image.resize(small, (SIDE, SIDE)), 3, axis=-1)).astype(np.uint8)
    x, y = (pictures / np.float32(127.5)) - 1, digits.target[order]
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNet(input_shape=(SIDE, SIDE, 3), weights=None, classes=10, dropout=0.0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.8  # few steps
    wrapped = tfprune.wrap(tfprune.export.make_sparse_ready(model))
    wrapped.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    schedule = tfprune.schedules.Polynomial(SPARSITY, begin=30, end=100)
    callback = tfprune.PruningCallback(schedule, every=5)
    wrapped.fit(x[:TRAINED], y[:TRAINED], 32, EPOCHS, callbacks=[callback], verbose=0)
    accuracy = float(np.mean(wrapped.predict(x[TRAINED:], verbose=0).argmax(1) == y[TRAINED:]))
    paths = [folder / f"{name}.tflite" for name in ("dense", "sparse")]
    to_tflite(wrapped, paths[0], optimize="dense", batch=1)
    to_tflite(wrapped, paths[1], target="web")
    for path in paths:
        add_metadata(path, path, class_names=[str(digit) for digit in range(10)], mean=127.5, std=127.5)
    return paths, pictures[TRAINED:], accuracy


def measured(folder: Path, files: list[Path], **arguments) -> dict[str, dict]:
    """Return what the page of the files measures, by name."""
    from chromium import browser
    from web_files import served

    web(files, folder / "page", **arguments)
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund"], cwd=folder / "page", check=True, capture_output=True
    )
    with served(folder / "page") as url, browser(folder / "profile") as opened:
        opened.open(url)
        opened.wait_for('document.querySelector("#result:not([hidden])")', seconds=300)
        opened.evaluate('document.getElementById("measure").click()')
        opened.wait_for('document.getElementById("status").textContent.startsWith("Measured.")', seconds=600)
        result = json.loads(opened.evaluate('document.getElementById("json").textContent'))
    assert not result["errors"] and all(row["passed"] for row in result["files"]), result
    return {row["name"].removesuffix(".tflite"): row for row in result["files"]}


def litert_rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        rows = measured(Path(name), write_files(Path(name)))
    dense, sparse, dynamic, control = (rows[each] for each in ("dense", "sparse", "sparse_dynamic", "control"))
    times = f"{dense['median_ms']:.1f} / {sparse['median_ms']:.1f} ms"
    yield at_least(f"MobileNet in Chromium, 90 %: dense / sparse, {times}", sparse["times_faster"], LEAST)
    yield at_least("sparse with 8-bit weights: dense / sparse", dynamic["times_faster"], LEAST_DYNAMIC)
    yield at_most("sparse with 8-bit weights: bytes of the dense file", dynamic["bytes"] / dense["bytes"], MOST_BYTES)
    ratio = control["times_faster"]
    bar = f"{SAME[0]} to {SAME[1]}x"
    yield Row("control with 60 %: dense / sparse", f"{ratio:.2f}x", bar, SAME[0] <= round(ratio, 2) <= SAME[1])
    for each, row in rows.items():
        yield Row(
            f"{each}: difference to Python's LiteRT, of the largest output", f"{row['difference']:.1e}", "", True
        )
    start = max(row["compile_ms"] for row in rows.values())
    yield Row("slowest compilation of a file", f"{start:.0f} ms", "", True)


def mediapipe_rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        files, pictures, accuracy = write_classifier(Path(name))
        rows = measured(Path(name), files, target="mediapipe", samples=pictures)
    dense, sparse = rows["dense"], rows["sparse"]
    times = f"{dense['median_ms']:.1f} / {sparse['median_ms']:.1f} ms"
    yield Row("trained MobileNet, 90 % zeros: accuracy on other digits", f"{accuracy:.3f}", "", True)
    yield at_least(f"MediaPipe Tasks in Chromium: dense / sparse, {times}", sparse["times_faster"], LEAST_TASKS)
    for each, row in rows.items():
        text = f"MediaPipe Tasks, {each}: difference to Python's LiteRT, of the largest output"
        yield at_most(text, row["difference"], CLOSE, unit="", digits=8)
    yield Row("sparse: bytes of the dense file", f"{sparse['bytes'] / dense['bytes']:.3f}", "", True)


WAYS = {"litert": litert_rows, "mediapipe": mediapipe_rows}


def rows(ways: Iterable[str] = tuple(WAYS)) -> Iterator[Row]:
    from pages import BROWSER

    if BROWSER is None or shutil.which("npm") is None:
        sys.stderr.write("skipped: no chromium or no npm is installed (apt-get install chromium npm)\n")
        return
    for way in ways:
        yield from WAYS[way]()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=WAYS)
    only = parser.parse_args().only
    for row in rows([only] if only else WAYS):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
