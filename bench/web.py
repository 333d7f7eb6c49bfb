"""MobileNet in Chromium by LiteRT.js: sparse files against the dense one, in pairs of runs that take turns."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from common import Row, at_least, at_most

import tfprune
from tfprune.export import to_tflite, web

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))
SPARSITY, CONTROL = 0.9, 0.6  # XNNPACK runs kernels with less than two thirds of zeros dense
LEAST, LEAST_DYNAMIC, MOST_BYTES = 3.5, 3.3, 0.09
SAME = (0.9, 1.1)


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


def measured(folder: Path, files: list[Path]) -> dict[str, dict]:
    """Return what the page of the files measures, by name."""
    from chromium import browser
    from web_files import served

    web(files, folder / "page")
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


def rows() -> Iterator[Row]:
    from pages import BROWSER

    if BROWSER is None or shutil.which("npm") is None:
        sys.stderr.write("skipped: no chromium or no npm is installed (apt-get install chromium npm)\n")
        return
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


if __name__ == "__main__":
    for row in rows():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
