"""Files with a fixed batch for the browser: three networks in each form; a web server; and LiteRT.js from npm."""

from __future__ import annotations

import functools
import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np

import tfprune
from tfprune.export import to_tflite
from tfprune.patterns import Block

SPARSITY = 0.9
# Name of the form, arguments of to_tflite, and the difference allowed to Python's LiteRT.
FORMS = (
    ("float32", {"optimize": "dense"}, 0.0),
    ("float16", {"optimize": "dense", "quantize": "float16"}, 0.0),
    ("int8", {"optimize": "dense", "quantize": "int8"}, 0.0),
    ("sparse", {"optimize": "sparse"}, 1e-5),
    ("sparse_dynamic", {"optimize": "sparse", "quantize": "dynamic"}, 1e-5),
)


def networks() -> dict[str, keras.Model]:
    layers = keras.layers
    digits = keras.Sequential(
        [
            keras.Input((8, 8, 1), batch_size=1),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, padding="same", strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    mobilenet = keras.applications.MobileNet(
        input_tensor=keras.Input((64, 64, 3), batch_size=1), alpha=0.25, weights=None, classes=10
    )
    blocks = keras.Sequential(
        [keras.Input((64,), batch_size=1), layers.Dense(256, "relu"), layers.Dense(256, "relu"), layers.Dense(8)]
    )
    return {"digits": digits, "mobilenet": mobilenet, "blocks": blocks}


def write_forms(folder: Path) -> None:
    """Write each network in each form, `digits-float32.tflite` and so on, and one packed file."""
    keras.utils.set_random_seed(0)
    for name, model in networks().items():
        wrapped = tfprune.wrap(model, pattern=Block(1, 4) if name == "blocks" else "unstructured")
        tfprune.update_masks(wrapped, SPARSITY)
        data = np.random.default_rng(0).random((16, *model.input_shape[1:]), np.float32)
        for form, arguments, _ in FORMS:
            calibration = data if form == "int8" else None
            to_tflite(wrapped, folder / f"{name}-{form}.tflite", calibration=calibration, check_on=data, **arguments)
    (folder / "digits.tfz").write_bytes(tfprune.export.pack(folder / "digits-sparse.tflite"))


INDEX = Path(__file__).parents[2] / "export" / "device" / "web" / "page" / "index.html"
POLICY = re.search(r'Policy" content="([^"]+)"', INDEX.read_text(encoding="utf-8"))[1]


class Handler(http.server.SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", POLICY)  # which holds for workers, too
        super().end_headers()

    def log_message(self, *values: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of this machine; yield its address."""
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
