"""Whether a microcontroller runs a Keras model, or a file, and what it takes there."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np

from tfprune.export.file.files.model_file import Source
from tfprune.export.file.tflite.editor import load_objects, save_objects
from tfprune.export.keras_side.converting.convert import convert
from tfprune.export.keras_side.preparing.signature import signature, smallest_vocabulary
from tfprune.export.micro.interpreter import require_interpreter
from tfprune.export.micro.micro_support_report import MicroSupportReport, support_of_file
from tfprune.masking.wrapping.strip import plain_copy

SMALLEST = 2.0**-20  # scale
MOVED = (0.01, 0.1)  # upward, as variances are among them
SAMPLES = 8  # drawn to find some ranges, which change neither operators nor sizes


def micro_support(model_or_source: keras.Model | Source, *, board: str | None = None) -> MicroSupportReport:
    """Say whether TensorFlow Lite for Microcontrollers runs a model or file, which operators it lacks, and the RAM.

    Args:
        model_or_source: A built Keras model, wrapped or plain, trained or not, which is converted as dense int8 on
            random numbers; or a .tflite file: a path, or its content.
        board: A board to compare with, such as `"pico"` or `"nano33"`; None compares with all of the table.

    Returns:
        A report that prints as a table, measured in the interpreter (extra `micro`) in a process of its own.

    Raises:
        TypeError: If it is neither a model nor a path nor bytes, or `board` is no string.
        ValueError: If a model cannot be converted, a file is damaged or not a TFLite file, or there is no such board
            in the table; or (also an ImportError) if tflite-micro is not installed.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> micro_support(model).missing
        ()
    """
    if isinstance(model_or_source, (str, os.PathLike, bytes, bytearray, memoryview)):
        return support_of_file(model_or_source, board=board)
    require_interpreter()
    return support_of_file(dense_int8(model_or_source), board=board)


def dense_int8(model: Any) -> bytes:
    """Convert a model as a dense int8 file with a batch of 1, on random numbers, which change ranges and no sizes.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it cannot be converted.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Expected a Keras model, or a path or the bytes of a .tflite file. Received: {type(model).__name__}."
        )
    plain = plain_copy(model)
    _move_what_is_alike(plain)
    inputs = signature(plain)
    samples = [inputs.pack(inputs.random(SAMPLES, below=smallest_vocabulary(plain)))]
    return _with_scales(convert(plain, quantize="int8", calibration=samples, io_dtype="int8", batch=1))


def _move_what_is_alike(model: keras.Model) -> None:
    """Draw weights that are one number each, as biases are before training: the converter leaves biases of 0 out."""
    draw = np.random.default_rng(0)
    for weight in model.weights:
        if "float" in weight.dtype:
            values = keras.ops.convert_to_numpy(weight)
            if values.size and (values == values.flat[0]).all():
                weight.assign(values + draw.uniform(*MOVED, values.shape).astype(values.dtype))


def _with_scales(content: bytes) -> bytes:
    """Widen the ranges of activations that are next to nothing: the interpreter's softmax stops on untrained ones."""
    model = load_objects(content)
    for tensor in model.subgraphs[0].tensors:
        scale = getattr(tensor.quantization, "scale", None)  # what stays in float has none
        if scale is not None and np.size(scale) == 1 and model.buffers[tensor.buffer].data is None:
            tensor.quantization.scale = np.maximum(scale, SMALLEST).astype(np.float32)
    return save_objects(model)
