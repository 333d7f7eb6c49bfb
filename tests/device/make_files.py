"""Make the files that check.py runs where Keras and TensorFlow are not installed: python make_files.py FOLDER."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from models import MODELS, Network, network

from tfprune.export import codec, to_tflite

# How far a file may be from Keras, as a fraction of the largest output.
TOLERANCES = {None: 1e-5, "float16": 2e-3, "dynamic": 0.05, "int8": 0.15}
FORMS: dict[str, Callable[[bytes], bytes]] = {
    "tflite": bytes,
    "tflite.xz": lambda content: codec.encode(content, "xz"),
}


def make(name: str, folder: Path) -> list[dict]:
    """Write every form of a model's files, the samples and Keras' outputs; return a row for each file."""
    made = network(name)
    _write_arrays(folder / f"{name}.npz", made)
    rows = []
    for quantize, tolerance in TOLERANCES.items():
        content = _converted(made, quantize)
        for suffix, form in FORMS.items():
            path = folder / f"{name}_{quantize or 'float32'}.{suffix}"
            path.write_bytes(form(content))
            rows.append({"file": path.name, "samples": f"{name}.npz", "tolerance": tolerance})
    return rows


def _converted(made: Network, quantize: str | None) -> bytes:
    calibration = [made.samples] if quantize == "int8" else None
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "model.tflite")
        to_tflite(made.model, path, quantize=quantize, calibration=calibration, check_on=made.samples)
        return path.read_bytes()


def _write_arrays(path: Path, made: Network) -> None:
    """Name the arrays so that their order survives: input_0 and on in the model's order, output_0 and on."""
    outputs = made.model(made.samples if len(made.samples) > 1 else next(iter(made.samples.values())))
    outputs = outputs if isinstance(outputs, list) else [outputs]
    arrays = {f"input_{place}": array for place, array in enumerate(made.samples.values())}
    arrays |= {f"output_{place}": keras.ops.convert_to_numpy(array) for place, array in enumerate(outputs)}
    np.savez(path, **arrays)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    files = {name: make(name, target) for name in MODELS}
    (target / "files.json").write_text(json.dumps(files, indent=2), encoding="utf-8")
