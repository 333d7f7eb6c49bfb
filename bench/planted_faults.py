"""Faults planted in the files of trained networks, in each number format: how many an export refuses."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))

import keras
import numpy as np
from common import Row
from faults import FAULTS, layers
from keras.layers import LSTM, BatchNormalization, Conv2D, Dense, DepthwiseConv2D, Flatten, MaxPooling2D, ReLU
from sklearn.datasets import load_digits

from tfprune.export import to_tflite
from tfprune.export.device import processes, quantization_error
from tfprune.export.device.processes import Completed
from tfprune.export.file import container
from tfprune.export.file.document import load_objects, save_objects
from tfprune.export.file.model_file import ModelFile
from tfprune.export.keras_side import convert as conversion
from tfprune.export.keras_side import to_tflite as exporting

FORMATS = (None, "float16", "dynamic", "int8", "int16x8", "int4")
PER_FAULT = 2  # layers of each network
SEEDS = 5
ROW = 8  # pixels in a row of an image
LEAST = 0.95


def _normalized(layer: Any) -> list[Any]:
    return [layer, BatchNormalization(), ReLU(6)]


NETWORKS: dict[str, tuple[tuple[int, ...], Callable[[], list[Any]]]] = {
    "mlp": ((ROW * ROW,), lambda: [Dense(64, "relu"), Dense(32, "relu")]),
    "cnn": ((ROW, ROW, 1), lambda: [Conv2D(8, 3, activation="relu"), Conv2D(16, 3, activation="relu"), Flatten()]),
    "lstm": ((ROW, ROW), lambda: [LSTM(24)]),
    "separable": (
        (ROW, ROW, 1),
        lambda: [
            *_normalized(Conv2D(8, 3, use_bias=False)),
            *_normalized(DepthwiseConv2D(3, use_bias=False)),
            *_normalized(Conv2D(32, 1, use_bias=False)),
            MaxPooling2D(),
            Flatten(),
        ],
    ),
}


def trained(name: str, seed: int) -> tuple[keras.Model, np.ndarray]:
    """Train a network on the digits; return it and the images that it takes."""
    keras.utils.set_random_seed(seed)
    shape, build = NETWORKS[name]
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, *shape)
    model = keras.Sequential([keras.Input(shape), *build(), Dense(10, "softmax")])
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(images, labels, epochs=5, batch_size=64, verbose=0)
    return model, images


class _Exports:
    """Exports one network; what the converter gave is kept, so that each trial costs its checks only."""

    def __init__(self, model: keras.Model, images: np.ndarray) -> None:
        self._model, self._images = model, images
        self._files: dict[str, ModelFile] = {}

    def __call__(
        self, form: str | None, folder: str, change: Callable[[bytes], bytes] = bytes, **options: Any
    ) -> str:
        """Export with a change of what the converter gave; return why it was refused, or an empty text."""

        def convert(*arguments: Any, **settings: Any) -> ModelFile:
            key = repr((settings.get("form"), settings.get("beside"), settings.get("batch")))
            if key not in self._files:
                self._files[key] = convert_prepared(*arguments, **settings)
            file = self._files[key]
            return ModelFile(change(file.content)) if "form" in settings else file

        convert_prepared = conversion.convert_prepared
        calibration = self._images[:100] if form in conversion.INTEGERS else None
        options = {"optimize": "dense", "calibration": calibration, "verbose": 0, **options}
        with mock.patch.object(exporting, "convert_prepared", convert):
            try:
                to_tflite(self._model, Path(folder) / "m.bin", quantize=form, **options)
            except ValueError as error:
                return str(error)
        return ""


def _planted(fault: str, place: float, rng: Any, seen: Counter[str]) -> Callable[[bytes], bytes]:
    """Return a change that plants a fault in one of the layers where it changes something."""

    def change(content: bytes) -> bytes:
        for shift in range(len([*layers(load_objects(content))])):
            file = load_objects(content)
            found = [*layers(file)]
            if FAULTS[fault](found[(int(place * len(found)) + shift) % len(found)], rng):
                seen["planted"] += 1
                return save_objects(file)
        return content

    return change


def _faults(exports: _Exports, form: str | None, folder: str, name: str, seen: Counter[str]) -> None:
    rng = np.random.default_rng(0)
    for fault in FAULTS:
        for number in range(PER_FAULT):
            before = seen["planted"]
            refusal = exports(form, folder, _planted(fault, (number + rng.random()) / PER_FAULT, rng, seen))
            is_caught = bool(refusal) and seen["planted"] > before
            seen["caught"] += is_caught
            if seen["planted"] > before and not is_caught:
                sys.stderr.write(f"slipped: {form}, {name}, {fault}\n")


def _packing(exports: _Exports, form: str | None, folder: str, seen: Counter[str]) -> None:
    """Change a layer of the content after it was checked, while it is packed."""
    encode, rng = container._encode, np.random.default_rng(0)
    for method in (None, "gzip", "xz", "packed"):
        for fault in ("scale x1.1", "a channel zeroed"):
            change = _planted(fault, rng.random(), rng, seen)

            def wrong(data: bytes, to: str | None, change: Callable[[bytes], bytes] = change) -> bytes:
                return encode(change(data), to)

            with mock.patch.object(container, "_encode", wrong):
                seen["caught"] += bool(exports(form, folder, compress=method))


@contextmanager
def _here() -> Iterator[None]:
    """Run the jobs of an export in this process, which has loaded what they need."""

    def run_here(work: Any, folder: str, **settings: Any) -> Completed:
        try:
            work(Path(folder))
        except (TypeError, ValueError) as error:
            return Completed(ok=False, reason=str(error).rstrip("."), output="")
        return Completed(ok=True, reason="", output="")

    def convert_here(work: Any, folder: Path, **settings: Any) -> Completed:
        return run_here(conversion._convert_job, str(folder))

    with (
        mock.patch.object(processes, "run_job", run_here),
        mock.patch.object(quantization_error, "run_job", run_here),
        mock.patch.object(conversion, "run_job", convert_here),
    ):
        yield


def measure(formats: tuple[str | None, ...] = FORMATS, *, seeds: int = SEEDS) -> list[Row]:
    caught: dict[str | None, Counter[str]] = {form: Counter() for form in formats}
    packing, honest, alarms = Counter[str](), 0, []
    with tempfile.TemporaryDirectory() as folder, _here():
        for seed in range(seeds):
            for name in NETWORKS:
                exports = _Exports(*trained(name, seed))
                for form in formats:
                    honest += 1
                    refusal = exports(form, folder)
                    alarms += [f"false alarm: {form}, {name}, seed {seed}: {refusal}\n"] if refusal else []
                    if seed == 0:
                        _faults(exports, form, folder, name, caught[form])
                        _packing(exports, form, folder, packing)
    sys.stderr.writelines(alarms)
    rows = []
    for form, seen in caught.items():
        bar = LEAST * seen["planted"]
        text = f"{seen['caught']} of {seen['planted']}"
        rows.append(Row(f"planted faults caught, {form or 'float32'}", text, f">= {bar:.0f}", seen["caught"] >= bar))
    planted = packing["planted"]
    text = f"{packing['caught']} of {planted}"
    rows.append(Row("faults planted in packing caught", text, str(planted), packing["caught"] == planted))
    rows.append(Row("honest files refused", f"{len(alarms)} of {honest}", "0", not alarms))
    return rows


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--formats", nargs="*", default=FORMATS, help="such as dynamic int4; float32 is None")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    chosen = parser.parse_args()
    for row in measure(tuple(chosen.formats), seeds=chosen.seeds):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
