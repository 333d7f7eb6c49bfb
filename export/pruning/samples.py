"""The samples that a file is pruned on: checked, drawn if asked for by name, and split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tfprune.export.device.running.inputs import arrays_of, random_inputs
from tfprune.export.device.running.io_tensor import IOTensor
from tfprune.export.file.report import TensorInfo, shape_text
from tfprune.export.file.tflite.editor import load_objects, operator_name
from tfprune.export.file.tflite.model import Model
from tfprune.export.pruning.layers.stored_weight import type_name

RANDOM, RANDOM_ROWS = "random", 64
LEAST_SAMPLES, MAX_HELD = 3, 64  # two to prune on, which differ, and one to hold out
HELD_PART = 8  # every eighth sample is held out
MAX_CLIPPED = 0.5  # the part of the entries that may lie outside the range of a quantized input
FEW = 64

WARN_RANDOM = (
    "the samples are random numbers, not data: the accuracy may drop by 4 to 16 points more than with data, and the "
    "errors above say little. Pass samples as the file will see them."
)


def check_samples(samples: Any, model: Model) -> list[np.ndarray]:
    """Return an array for each input of a file.

    Args:
        samples: What `prune_tflite` takes.
        model: The file.

    Raises:
        TypeError: If there are none.
        ValueError: If they do not fit the inputs, or are the same for all samples.
    """
    if samples is None:
        raise TypeError(
            "Expected samples as the file will see them, a few hundred, without labels. Received: samples=None. If "
            "there are none at all, samples='random' draws numbers, which costs accuracy."
        )
    if isinstance(samples, str):
        return _random(samples, model)
    arrays = arrays_of(samples, names=[info.name for info in model.inputs])
    for info, array in zip(model.inputs, arrays, strict=True):
        _check_array(info, array)
    rows = {len(array) for array in arrays if array.ndim}
    if len(rows) != 1 or min(rows) < LEAST_SAMPLES:
        raise ValueError(
            f"Expected at least {LEAST_SAMPLES} samples, the same number for each input. Received: "
            f"{', '.join(shape_text(array.shape) for array in arrays)}."
        )
    if all((array == array[:1]).all() for array in arrays):
        raise ValueError(
            "Expected samples that differ from each other. Received: samples that are all the same. Pass data as the "
            "file will see them."
        )
    return arrays


def held_out(arrays: Sequence[np.ndarray], model: Model) -> int:
    """Return how many samples at the end are held out: whole batches where the file has a fixed one."""
    rows = min(len(array) for array in arrays if array.ndim)
    batch = max((info.shape[0] or 1 for info in model.inputs if info.shape), default=1)
    held = min(max(rows // HELD_PART // batch, 1) * batch, MAX_HELD * batch)
    if rows - held < batch:
        raise ValueError(
            f"Expected samples for two runs of the file at least, which takes {batch} at once. Received: {rows}."
        )
    return held


def warnings_of(samples: Any, fitted: int) -> list[str]:
    """Return what makes the result less reliable."""
    if isinstance(samples, str):
        return [WARN_RANDOM]
    return [f"{fitted} samples are few: with 256 the outputs stay closer."] if fitted < FEW else []


def _random(name: str, model: Model) -> list[np.ndarray]:
    if name != RANDOM:
        raise ValueError(f"Expected samples as arrays, or samples='random'. Received: samples={name!r}.")
    batch = max((info.shape[0] or 1 for info in model.inputs if info.shape), default=1)
    infos = [TensorInfo(info.name, (None, *info.shape[1:]), info.dtype) for info in model.inputs]
    return random_inputs(infos, model.outputs, rows=RANDOM_ROWS * batch)


def _check_array(info: TensorInfo, array: np.ndarray) -> None:
    wanted = info.shape
    fits = array.ndim == len(wanted) and all(
        length in (None, given) for length, given in zip(wanted[1:], array.shape[1:], strict=True)
    )
    if not fits or not array.size:
        shape = shape_text((None, *wanted[1:]))
        raise ValueError(
            f"Expected samples of shape {shape} for input {info.name!r}. Received: {shape_text(array.shape)}."
        )
    if array.dtype.kind not in "biuf":
        raise TypeError(f"Expected numbers for input {info.name!r}. Received: values of type {array.dtype}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"Expected finite numbers for input {info.name!r}. Received: NaN or infinity.")


def behind_quantize(tensor: IOTensor, content: bytes) -> IOTensor:
    """Return an input as an operator QUANTIZE behind it sees it; the input itself where there is none."""
    model = load_objects(content)
    graph = model.subgraphs[0]
    for operator in graph.operators or ():
        if operator_name(model, operator) == "QUANTIZE" and operator.inputs[0] == tensor.index and not tensor.scale:
            quantized = graph.tensors[operator.outputs[0]]
            scales, kind = quantized.quantization, np.dtype(type_name(quantized.type).lower())
            return replace(tensor, dtype=kind, scale=float(scales.scale[0]), zero_point=int(scales.zeroPoint[0]))
    return tensor


def in_range(tensor: IOTensor, array: np.ndarray, *, is_random: bool) -> np.ndarray:
    """Return samples as an input takes them: random ones from [0, 1) are spread over the range of a quantized input.

    Raises:
        ValueError: If most numbers lie outside that range.
    """
    if not tensor.scale:
        return array
    limits = np.iinfo(tensor.dtype)
    low, high = ((limit - tensor.zero_point) * tensor.scale for limit in (limits.min, limits.max))
    if is_random:
        return low + array * (high - low)
    clipped = np.mean((array < low - tensor.scale) | (array > high + tensor.scale))
    if clipped > MAX_CLIPPED:
        raise ValueError(
            f"Expected numbers between {low:.4g} and {high:.4g} for input {tensor.info.name!r}: real numbers, which "
            f"are quantized on the way in. Received: numbers from {array.min():.4g} to {array.max():.4g}, of which "
            f"{clipped:.0%} would be clipped. Scale them as for training"
        )
    return array
