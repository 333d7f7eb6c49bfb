"""Faults planted in the constants and operators of an open .tflite file: what a check of the file has to find."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.export.file import schema
from tfprune.export.file.document import add_values, inputs_of, operator_name
from tfprune.export.rewriting.weights import packed

CHANNELS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}  # the axis of the outputs
WEIGHT, BIAS = 1, 2  # places among the inputs
RELUS = (schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.RELU6)
TYPES = {"FLOAT32": "<f4", "FLOAT16": "<f2", "INT8": "i1", "INT32": "<i4", "INT64": "<i8"}


@dataclass
class Layer:
    """An operator with a constant kernel, in a file that is open for changes."""

    file: Any
    operator: Any
    kernel: Any
    bias: Any
    axis: int

    def values(self, tensor: Any) -> np.ndarray:
        """Return the numbers of a constant as the file holds them."""
        data = np.asarray(self.file.buffers[tensor.buffer].data)
        if tensor.type == schema.TensorType.INT4:
            halves = np.stack([data & 15, data >> 4], axis=1).ravel()[: np.prod(tensor.shape)].astype(np.int8)
            return np.where(halves > 7, halves - 16, halves).reshape(tensor.shape)
        return data.view(_type(tensor)).reshape(tensor.shape)

    def put(self, tensor: Any, values: np.ndarray) -> None:
        """Give a tensor other numbers; others that shared its own keep them."""
        is_narrow = tensor.type == schema.TensorType.INT4
        tensor.buffer = add_values(self.file, packed(values) if is_narrow else values.astype(_type(tensor)))

    @property
    def rows(self) -> np.ndarray:
        """The kernel with its channels along the first axis; a copy."""
        return np.moveaxis(self.values(self.kernel), self.axis, 0).copy()

    def put_rows(self, rows: np.ndarray) -> None:
        self.put(self.kernel, np.moveaxis(rows, 0, self.axis))

    @property
    def scales(self) -> np.ndarray:
        """The steps of the kernel, one for all channels or one for each; empty if it holds floats."""
        quantization = self.kernel.quantization
        return np.zeros(0) if quantization is None or quantization.scale is None else quantization.scale

    def put_scales(self, scales: np.ndarray) -> None:
        self.kernel.quantization = copy.copy(self.kernel.quantization)
        self.kernel.quantization.scale = scales.astype(np.float32)


def _type(tensor: Any) -> str:
    return next(dtype for name, dtype in TYPES.items() if getattr(schema.TensorType, name) == tensor.type)


def layers(file: Any) -> Iterator[Layer]:
    """Yield the layers of all graphs whose kernels hold something else than zeros."""
    for graph in file.subgraphs:
        makers = {int(operator.outputs[0]): operator for operator in graph.operators or ()}
        for operator in graph.operators or ():
            kind, inputs = operator_name(file, operator), inputs_of(operator)
            if kind not in CHANNELS:
                continue
            kernel, bias = (_constant(file, graph, makers, index) for index in [*inputs, -1, -1][WEIGHT : BIAS + 1])
            layer = Layer(file, operator, kernel, bias, CHANNELS[kind])
            if kernel is not None and layer.values(kernel).any():
                yield layer


def _constant(file: Any, graph: Any, makers: dict[int, Any], index: int) -> Any:
    if index in makers and operator_name(file, makers[index]) in ("DEQUANTIZE", "DENSIFY"):
        index = int(makers[index].inputs[0])
    data = file.buffers[graph.tensors[index].buffer].data if index >= 0 else None
    return None if data is None or not len(data) else graph.tensors[index]


def scaled(factor: float) -> Callable[[Layer, Any], bool]:
    def change(layer: Layer, rng: Any) -> bool:
        if len(layer.scales):
            layer.put_scales(layer.scales * factor)
        else:
            layer.put(layer.kernel, layer.values(layer.kernel) * factor)
        return True

    return change


def channel_scaled(factor: float) -> Callable[[Layer, Any], bool]:
    def change(layer: Layer, rng: Any) -> bool:
        rows, scales = layer.rows, layer.scales.copy()
        channel = _channel(rows, rng)
        if len(scales) == 1:
            return False
        if len(scales):
            scales[channel] *= factor
            layer.put_scales(scales)
        else:
            rows[channel] *= factor
            layer.put_rows(rows)
        return True

    return change


def negated(layer: Layer, rng: Any) -> bool:
    """Negate the largest weight."""
    rows = layer.rows
    steps = layer.scales.reshape([-1, *[1] * (rows.ndim - 1)]) if len(layer.scales) else 1
    rows.flat[np.abs(rows.astype(np.float64) * steps).argmax()] *= -1
    layer.put_rows(rows)
    return True


def without_bias(layer: Layer, rng: Any) -> bool:
    if layer.bias is None or not layer.values(layer.bias).any():
        return False
    layer.put(layer.bias, np.zeros_like(layer.values(layer.bias)))
    return True


def without_relu(layer: Layer, rng: Any) -> bool:
    options = copy.copy(layer.operator.builtinOptions)
    if getattr(options, "fusedActivationFunction", 0) not in RELUS:
        return False
    options.fusedActivationFunction = schema.ActivationFunctionType.NONE
    layer.operator.builtinOptions = options
    return True


def exchanged(layer: Layer, rng: Any) -> bool:
    """Exchange the weights of two channels."""
    rows = layer.rows
    first, second = rng.choice(len(rows), 2, replace=False) if len(rows) > 1 else (0, 0)
    if (rows[first] == rows[second]).all():
        return False
    rows[[first, second]] = rows[[second, first]]
    layer.put_rows(rows)
    return True


def channel_zeroed(layer: Layer, rng: Any) -> bool:
    rows = layer.rows
    rows[_channel(rows, rng)] = 0
    layer.put_rows(rows)
    return True


def _channel(rows: np.ndarray, rng: Any) -> int:
    """Draw a channel with weights."""
    return int(rng.choice(np.flatnonzero(rows.reshape(len(rows), -1).any(axis=1))))


# Each changes a layer, and returns whether there was something to change.
FAULTS: dict[str, Callable[[Layer, Any], bool]] = {
    "scale x1.1": scaled(1.1),
    "scale x1.5": scaled(1.5),
    "a channel's scale x1.1": channel_scaled(1.1),
    "a channel's scale x1.5": channel_scaled(1.5),
    "largest weight negated": negated,
    "bias zeroed": without_bias,
    "ReLU removed": without_relu,
    "two channels exchanged": exchanged,
    "a channel zeroed": channel_zeroed,
}
