"""Files with a fixed batch for the browser: three networks in each form; a web server; and LiteRT.js from npm."""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from export_table import convert
from once import filled_once

import tfprune
from tfprune.export import make_sparse_ready, pack, rewrite
from tfprune.export.device.web import _RUNTIMES
from tfprune.patterns import Block

SPARSITY = 0.9
KINDS = ("float32", "float16", "int8", "dynamic")


def network(name: str) -> keras.Model:
    """Return a small pruned network without a softmax, which processors round differently."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    if name == "digits":
        inner = [
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, strides=2),
            layers.ReLU(),
        ]
        model = keras.Sequential([keras.Input((8, 8, 1)), *inner, layers.Flatten(), layers.Dense(10)])
    elif name == "mobilenet":
        inputs, options = keras.Input((32, 32, 3)), {"classifier_activation": None, "classes": 10}
        model = make_sparse_ready(
            keras.applications.MobileNet(input_tensor=inputs, alpha=0.25, weights=None, **options)
        )
    else:
        inner = [layers.Dense(width, "relu") for width in (256, 256)]
        model = keras.Sequential([keras.Input((64,)), *inner, layers.Dense(8)])
    for weight in model.weights:
        if len(weight.shape) < 2:  # else the outputs are next to nothing
            weight.assign(weight + np.random.default_rng(0).normal(size=weight.shape) * 0.1)
    model = tfprune.wrap(model, pattern=Block(1, 4) if name == "blocks" else "unstructured")
    tfprune.update_masks(model, SPARSITY)
    return tfprune.strip(model)


def write_forms(folder: Path, name: str) -> None:
    """Write a network in each form: float32, float16, int8, sparse float32, sparse dynamic, and packed."""
    model = network(name)
    data = np.random.default_rng(0).random((8, *model.input_shape[1:]), np.float32)
    assert np.abs(model.predict(data, batch_size=1, verbose=0)).max() > 0.1
    for kind in KINDS:
        rewrite(convert(model, kind, data), folder / f"{kind}.tflite", optimize="dense", batch=1)
    for kind, target in (("float32", "sparse"), ("dynamic", "sparse-dynamic")):
        rewrite(folder / f"{kind}.tflite", folder / f"{target}.tflite", optimize="sparse")
    (folder / "dynamic.tflite").unlink()  # nobody's choice for a browser: slower than float32 there
    (folder / "packed.tfz").write_bytes(pack(folder / "sparse.tflite"))


def installed(temporary: pytest.TempPathFactory, runtime: str = "litert") -> Path:
    """Return the folder `node_modules` with a runtime of `web`, or skip the test where npm cannot install it."""
    folder = filled_once(temporary, f"npm_{runtime}", functools.partial(_install, runtime=runtime))
    if (folder / "reason.txt").exists():
        pytest.skip((folder / "reason.txt").read_text(encoding="utf-8"))
    return folder / "node_modules"


def _install(folder: Path, *, runtime: str) -> None:
    npm, package = shutil.which("npm"), str(_RUNTIMES[runtime]).replace(" ", "@")
    reason = "npm is not installed (apt-get install npm)"
    if npm:
        command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), package]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
            reason = f"npm cannot install {package}: {done.stderr[-300:]}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            reason = f"npm cannot install {package} in 90 seconds"
    if reason:
        (folder / "reason.txt").write_text(reason, encoding="utf-8")


INDEX = Path(__file__).parents[2] / "export" / "device" / "page" / "index.html"
POLICY = re.search(r'Policy" content="([^"]+)"', INDEX.read_text(encoding="utf-8"))[1]


class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *arguments: Any, policy: str | None, **settings: Any) -> None:
        self.policy = policy
        super().__init__(*arguments, **settings)

    def end_headers(self) -> None:
        if self.policy:
            self.send_header("Content-Security-Policy", self.policy)
        super().end_headers()

    def log_message(self, *values: object) -> None:
        pass


@contextmanager
def served(folder: Path, *, policy: str | None = POLICY) -> Iterator[str]:
    """Serve a folder on a free port of this machine; yield its address.

    Args:
        folder: The folder.
        policy: What is sent as Content-Security-Policy: that of the page, which then holds for its worker, too.
    """
    handler = functools.partial(Handler, directory=str(folder), policy=policy)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
