"""The range of the numbers that an input of a file expects: from its quantization, its metadata, or its type."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tfprune.export.device.running.io_tensor import IOTensor
from tfprune.export.file.files.metadata_format import ENTRY, read_model_metadata
from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import operator_name
from tfprune.export.pruning.layers.stored_weight import type_name

MAX_CLIPPED = 0.5  # the part of the entries that may lie outside the range of a quantized input
FAR, SMALL = 0.05, 0.1  # the parts outside of a range, and of a range that is used, from which on the user is warned
SLACK = 0.01  # of a range: resized images and sounds overshoot a little
BYTE = 255.0  # the largest value of a pixel, which metadata normalize


@dataclass(frozen=True)
class InputRange:
    """A range of real numbers.

    Attributes:
        low: The lowest.
        high: The highest.
        origin: Where it is from.
        step: The distance of two neighbors; 0 without one.
        is_clipped: Whether numbers outside of it are clipped.
    """

    low: float
    high: float
    origin: str
    step: float = 0.0
    is_clipped: bool = False


def input_range(model: schema.ModelT, tensor: IOTensor) -> InputRange | None:
    """Return the range that an input expects; None if the file does not give any.

    Args:
        model: The objects of the file.
        tensor: One of its inputs.
    """
    quantized = _behind_quantize(model, tensor)
    limits = np.iinfo(quantized.dtype) if quantized.dtype.kind in "iu" else None
    if quantized.scale and limits is not None:
        low, high = ((limit - quantized.zero_point) * quantized.scale for limit in (limits.min, limits.max))
        return InputRange(low, high, "its quantization", step=quantized.scale, is_clipped=True)
    if tensor.dtype.kind == "f":
        return _from_metadata(model, tensor.index)
    if limits is not None and limits.bits == 8:
        return InputRange(limits.min, limits.max, f"its type {tensor.dtype.name}", step=1.0)
    return None


def _behind_quantize(model: schema.ModelT, tensor: IOTensor) -> IOTensor:
    """Return an input as an operator QUANTIZE behind it sees it; the input itself where there is none."""
    graph = model.subgraphs[0]
    for operator in graph.operators or ():
        if operator_name(model, operator) == "QUANTIZE" and operator.inputs[0] == tensor.index and not tensor.scale:
            quantized = graph.tensors[operator.outputs[0]]
            scales, kind = quantized.quantization, np.dtype(type_name(quantized.type).lower())
            return replace(tensor, dtype=kind, scale=float(scales.scale[0]), zero_point=int(scales.zeroPoint[0]))
    return tensor


def _from_metadata(model: schema.ModelT, index: int) -> InputRange | None:
    contents = [model.buffers[entry.buffer].data for entry in model.metadata or () if entry.name == ENTRY.encode()]
    place = [*map(int, model.subgraphs[0].inputs)].index(index)
    try:
        for content in contents:
            limits = _limits(np.asarray(content, np.uint8).tobytes(), place)
            if limits is not None and np.isfinite(limits).all() and limits[0] < limits[1]:
                return InputRange(*limits, "the file's metadata")
    except (IndexError, ValueError):  # damaged: the interpreter does not read them either
        pass
    return None


def _limits(content: bytes, place: int) -> tuple[float, float] | None:
    """Return the limits of an input by the metadata: of its values, or of bytes after the normalization."""
    fields = read_model_metadata(content).tables("subgraph_metadata")[0].tables("input_tensor_metadata")[place].fields
    if "stats" in fields:
        low, high = (fields["stats"].fields.get(name, ()) for name in ("min", "max"))
        if len(low) and len(high):
            return float(np.min(low)), float(np.max(high))
    for unit in fields.get("process_units", ()):
        options = unit.fields.get("options")
        if options is None or options.kind != "NormalizationOptions":
            continue
        mean, deviation = (options.fields.get(name, np.zeros(0)) for name in ("mean", "std"))
        if len(mean) and len(mean) == len(deviation) and (deviation > 0).all():
            return float((-mean / deviation).min()), float(((BYTE - mean) / deviation).max())
    return None


def spread_over(numbers: np.ndarray, expected: InputRange | None) -> np.ndarray:
    """Spread random numbers from [0, 1) over a range."""
    if expected is None:
        return numbers
    spread = (expected.low + numbers * (expected.high - expected.low)).astype(np.float32)
    return spread if expected.is_clipped or not expected.step else np.rint(spread)


def drawn_text(name: str, expected: InputRange | None) -> str:
    """Say from which range random numbers for an input were drawn."""
    if expected is None:
        return (
            f"input {name!r} was drawn from 0 to 1: neither its quantization nor the file's metadata give its range."
        )
    return f"input {name!r} was drawn from {expected.low:.4g} to {expected.high:.4g}, by {expected.origin}."


def check_range(numbers: np.ndarray, expected: InputRange, *, name: str) -> list[str]:
    """Return a warning if the samples of an input lie far off its range.

    Raises:
        ValueError: If most of them would be clipped.
    """
    low, high, span = expected.low, expected.high, expected.high - expected.low
    slack = max(expected.step, SLACK * span)
    outside = float(np.mean((numbers < low - slack) | (numbers > high + slack)))
    received = f"numbers from {numbers.min():.4g} to {numbers.max():.4g}"
    if expected.is_clipped and outside > MAX_CLIPPED:
        raise ValueError(
            f"Expected numbers between {low:.4g} and {high:.4g} for input {name!r}: real numbers, which "
            f"are quantized on the way in. Received: {received}, of which {outside:.0%} would be clipped. Scale them "
            "as for training"
        )
    text = f"input {name!r} expects {low:.4g} to {high:.4g}, by {expected.origin}; the samples have {received}"
    if outside > FAR:
        return [f"{text}, {outside:.0%} of them outside. Check the preprocessing."]
    if numbers.max() - numbers.min() < SMALL * span:
        return [f"{text}, a small part of that. Check the preprocessing."]
    return []
