"""Whether a microcontroller runs a Keras model, or a file, and what it takes there."""

from __future__ import annotations

import keras
import numpy as np

from tfprune.export.file.files.source import Source
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.tflite import schema
from tfprune.export.keras_side.converting.convert import convert
from tfprune.export.keras_side.converting.model_or_file import is_file
from tfprune.export.keras_side.preparing.signature import signature
from tfprune.export.micro.interpreter import require_interpreter
from tfprune.export.micro.micro_support_report import MicroSupportReport, support_of_file
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.masking.wrapping.strip import plain_copy

MIN_ACTIVATION_SCALE = 2.0**-20  # below it the interpreter's softmax stops
RANDOM_OFFSETS = (0.01, 0.1)  # positive, because variances are among the weights
RANDOM_SAMPLES = 8  # ranges change neither operators nor sizes


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
    if is_file(model_or_source):
        return support_of_file(model_or_source, board=board)
    require_interpreter()
    return support_of_file(dense_int8(model_or_source), board=board)


def dense_int8(model: keras.Model) -> bytes:
    """Convert a model as a dense int8 file with a batch of 1, on random numbers, which change ranges and no sizes.

    Raises:
        ValueError: If it cannot be converted.
    """
    plain = plain_copy(Anatomy.of(model))
    _randomize_constant_weights(plain)
    inputs = signature(plain)
    samples = [inputs.pack(inputs.random(RANDOM_SAMPLES, model=plain))]
    content = convert(plain, quantize="int8", calibration=samples, io_dtype="int8", batch=1)
    return ModelFile.open(content).after(_widen_ranges).content


def _randomize_constant_weights(model: keras.Model) -> None:
    """Randomize weights of equal entries, as biases are before training: the converter omits biases of 0."""
    draw = np.random.default_rng(0)
    for weight in model.weights:
        if "float" in weight.dtype:
            values = keras.ops.convert_to_numpy(weight)
            if values.size and (values == values.flat[0]).all():
                weight.assign(values + draw.uniform(*RANDOM_OFFSETS, values.shape).astype(values.dtype))


def _widen_ranges(model: schema.ModelT) -> bool:
    """Widen near-zero ranges of activations, as untrained models have them."""
    for tensor in model.subgraphs[0].tensors:
        scale = getattr(tensor.quantization, "scale", None)  # None for floats
        if scale is not None and np.size(scale) == 1 and model.buffers[tensor.buffer].data is None:
            tensor.quantization.scale = np.maximum(scale, MIN_ACTIVATION_SCALE).astype(np.float32)
    return True
