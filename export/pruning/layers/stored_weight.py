"""A constant of a file as real numbers, and back: on its own scales, which grow where values no longer fit."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import add_tensor, add_values
from tfprune.export.rewriting.weights.four_bit_weights import packed

RANGES = {"INT8": (-127, 127), "UINT8": (0, 255), "INT4": (-7, 7)}
FLOATS = {"FLOAT32": "<f4", "FLOAT16": "<f2"}
BIASES = {"FLOAT32": "<f4", "INT32": "<i4", "INT64": "<i8"}


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """A weight: its integers or floats, and the grid that they lie on.

    Attributes:
        kind: The name of its type, such as `"INT8"`.
        shape: Its shape.
        axis: The dimension with a scale for each index; None if there is one scale for all.
        scales: The scales, of shape (1,) or (length of `axis`,); empty for floats.
        zero_point: The integer that means zero.
    """

    kind: str
    shape: tuple[int, ...]
    axis: int | None
    scales: np.ndarray
    zero_point: int

    @classmethod
    def of(cls, tensor: schema.TensorT) -> StoredWeight | str:
        """Describe a tensor; a string says why it is left alone."""
        kind, shape = type_name(tensor.type), tuple(int(length) for length in tensor.shape)
        if tensor.sparsity is not None:
            return "its weights are stored sparse already"
        if kind in FLOATS:
            return cls(kind, shape, None, np.zeros(0), 0)
        quantization = tensor.quantization
        if kind not in RANGES or quantization is None or quantization.scale is None:
            return f"weights of type {kind.lower()} are not pruned"
        if quantization.details is not None:
            return "its weights have scales for blocks"
        scales, zeros = np.asarray(quantization.scale, np.float64), np.unique(quantization.zeroPoint)
        if len(zeros) > 1:
            return "its weights have several zero points"
        if not (scales > 0).all():
            return "its weights have scales that are not positive"
        axis = int(quantization.quantizedDimension) if len(scales) > 1 else None
        return cls(kind, shape, axis, scales, int(zeros[0]) if len(zeros) else 0)

    @property
    def is_integer(self) -> bool:
        """Whether it lies on a grid."""
        return self.kind in RANGES

    def read(self, buffer: schema.BufferT) -> np.ndarray:
        """Return its real numbers, in its shape."""
        raw = np.asarray(buffer.data, np.uint8)
        if self.kind in FLOATS:
            return raw.view(FLOATS[self.kind]).astype(np.float32).reshape(self.shape)
        if self.kind == "INT4":
            halves = np.stack([raw & 15, raw >> 4], axis=-1).ravel()[: int(np.prod(self.shape))].astype(np.int8)
            integers = np.where(halves > 7, halves - 16, halves)
        else:
            integers = raw.view(self.kind.lower())
        steps = integers.reshape(self.shape).astype(np.float32) - self.zero_point
        return steps * self._along(self.scales).astype(np.float32)

    def grown(self, values: np.ndarray) -> StoredWeight:
        """Return the same weight with scales so large that some values fit."""
        if not self.is_integer:
            return self
        low, high = RANGES[self.kind]
        wanted = np.maximum(values / (high - self.zero_point), -values / max(self.zero_point - low, 1))
        others = tuple(axis for axis in range(values.ndim) if axis != self.axis)
        scales = np.maximum(self.scales, wanted.max(axis=others).reshape(-1)).astype(np.float32)
        changed = copy.copy(self)
        object.__setattr__(changed, "scales", scales.astype(np.float64))
        return changed

    def write(self, values: np.ndarray) -> np.ndarray:
        """Return the bytes of real numbers."""
        if self.kind in FLOATS:
            return np.ascontiguousarray(values.astype(FLOATS[self.kind])).reshape(-1).view(np.uint8)
        integers = np.rint(values / self._along(self.scales)) + self.zero_point
        integers = np.clip(integers, *RANGES[self.kind])
        if self.kind == "INT4":
            return packed(integers.astype(np.int8))
        return integers.astype(self.kind.lower()).reshape(-1).view(np.uint8)

    def steps(self) -> np.ndarray:
        """Return the distance of two neighboring values, in a shape that broadcasts to the weight."""
        return np.broadcast_to(self._along(self.scales), self.shape)

    def _along(self, numbers: np.ndarray) -> np.ndarray:
        lengths = [1] * len(self.shape)
        if self.axis is not None:
            lengths[self.axis] = -1
        return numbers.reshape(lengths)


def read_bias(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray:
    """Return a bias as real numbers."""
    raw = np.asarray(model.buffers[tensor.buffer].data, np.uint8).view(BIASES[type_name(tensor.type)])
    return raw.astype(np.float64) * bias_scale(tensor)


def bias_scale(tensor: schema.TensorT) -> np.ndarray:
    """Return the scale of a bias; 1 for floats."""
    if type_name(tensor.type) == "FLOAT32":
        return np.ones(1)
    return np.asarray(tensor.quantization.scale, np.float64)


def own_bias(
    model: schema.ModelT, graph: schema.SubGraphT, *, tensor: int, values: np.ndarray, growth: np.ndarray
) -> int:
    """Return the index of a new bias with other values, and with scales that are larger by some factors."""
    old = graph.tensors[tensor]
    kind = BIASES[type_name(old.type)]
    if kind == "<f4":
        return add_tensor(graph, old, buffer=add_values(model, values.astype(kind)))
    quantization = copy.copy(old.quantization)
    quantization.scale = (bias_scale(old) * growth).astype(np.float32)
    limits = np.iinfo(kind)
    steps = np.rint(values / quantization.scale.astype(np.float64))
    buffer = add_values(model, np.clip(steps, limits.min, limits.max).astype(kind))
    return add_tensor(graph, old, buffer=buffer, quantization=quantization)


def type_name(kind: int) -> str:
    """Return the name of a type of the format, such as `"FLOAT32"`."""
    names = {number: name for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
    return names.get(kind, f"type {kind}")


def real(tensor: schema.TensorT, x: np.ndarray) -> np.ndarray:
    """Return what a tensor of the file means, as float32."""
    quantization = tensor.quantization
    if x.dtype.kind == "f" or quantization is None or quantization.scale is None or not len(quantization.scale):
        return x.astype(np.float32, copy=False)
    return (x.astype(np.float32) - np.float32(quantization.zeroPoint[0])) * np.float32(quantization.scale[0])
