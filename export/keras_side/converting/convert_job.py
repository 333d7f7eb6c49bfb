"""What the child process of `convert` does: a SavedModel, or the copy of a Keras model, into a TFLite file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.export.device.processes.job_files import read_job
from tfprune.export.keras_side.converting.mixed_precision import MARKED, convert_mixed, write_marked
from tfprune.export.keras_side.preparing.protect_scales import protect_scales

JOB = "job"
SAVED_MODEL = "saved_model"
CONVERTED = "model.tflite"
OPERATORS = {  # of the formats that compute with integers
    "int8": "TFLITE_BUILTINS_INT8",
    "int4": "TFLITE_BUILTINS_INT8",  # its weights get fewer bits later
    "int16x8": "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8",
}
# Entries from which a weight gets 8 bits, in files in which a scale must not be folded into it. In int8 files it may
# be: what the scale multiplies is rounded to 8 bits already, so it has nothing to protect.
LEAST_ENTRIES = {"dynamic": 1024, "int16x8": 1, "int4": 1}


def convert_job(folder: Path) -> None:
    """Convert the model in the folder of a job, and write the file beside it.

    Raises:
        ValueError: If TensorFlow is not installed, or the copy of the model cannot be loaded or exported.
    """
    settings, arrays = read_job(folder, JOB)
    tensorflow = _tensorflow()
    if not (folder / SAVED_MODEL).exists():
        _export_copy(settings, folder)
    if settings["quantize"] in LEAST_ENTRIES:
        for name in (SAVED_MODEL, *([MARKED] if settings.get("skip") else [])):
            protect_scales(folder / name, least=LEAST_ENTRIES[settings["quantize"]])
    _convert(tensorflow, settings, arrays, folder)


def _tensorflow() -> Any:
    try:
        import tensorflow
    except ImportError as error:
        raise ValueError(
            f"Expected TensorFlow, which converts models. Received: {error}. Run pip install 'tfprune[train]'."
        ) from error
    return tensorflow


def _export_copy(settings: dict[str, Any], folder: Path) -> None:
    """Write the SavedModel that a parent on another backend could not write."""
    from tfprune.export.keras_side.preparing.saved_model import read_copy, write_saved_model
    from tfprune.export.keras_side.preparing.signature import ModelInput, Signature

    inputs = [ModelInput(entry["name"], tuple(entry["shape"]), entry["dtype"]) for entry in settings["inputs"]]
    model = read_copy(folder, settings["things"])
    signature = Signature(tuple(inputs), settings["form"])
    write_saved_model(model, folder / SAVED_MODEL, inputs=signature, unroll=settings["unroll"])
    if settings["skip"]:
        write_marked(model, folder, inputs=signature, unroll=settings["unroll"])


def _convert(tf: Any, settings: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path) -> None:
    keys = settings.get("signatures")
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / SAVED_MODEL), signature_keys=keys)
    if settings["quantize"] is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if settings["quantize"] == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if settings["quantize"] in OPERATORS and settings["samples"]:  # otherwise the ranges are in the model
        names = [entry["name"] for entry in settings["inputs"]]
        samples = [{name: arrays[f"{row}/{name}"] for name in names} for row in range(settings["samples"])]
        converter.representative_dataset = lambda: iter(samples)
        converter.target_spec.supported_ops = [getattr(tf.lite.OpsSet, OPERATORS[settings["quantize"]])]
    if settings["quantize"] in OPERATORS:
        converter.inference_input_type = converter.inference_output_type = tf.as_dtype(settings["io_dtype"])
    content = _mixed(tf, converter, settings, folder) if settings.get("skip") else converter.convert()
    (folder / CONVERTED).write_bytes(content)


def _mixed(tf: Any, converter: Any, settings: dict[str, Any], folder: Path) -> bytes:
    is_whole = settings["io_dtype"] != "float32"
    return convert_mixed(tf, converter, folder=folder, skip=settings["skip"], is_whole=is_whole)


def _in_child(folder: Path) -> None:
    if (folder / SAVED_MODEL).exists():  # without code of the user's
        for package in ("sklearn", "matplotlib"):  # which Keras would import, in a second
            sys.modules[package] = None  # type: ignore[assignment]
    convert_job(folder)
