"""The layers of a graph whose weights can be unpacked while the model runs, and what is live beside them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.canonical_order import indices_of
from tfprune.export.file.tflite.editor import inputs_of, operator_name

# The axis of the weight along which the outputs lie; None where parts of a layer cannot be joined.
CUT = {"CONV_2D": 0, "FULLY_CONNECTED": 0, "DEPTHWISE_CONV_2D": 3, "TRANSPOSE_CONV": None}
BY_CHANNEL = "DEPTHWISE_CONV_2D"  # where a part of the outputs needs a part of the input
TYPES: dict[int, Any] = {0: np.dtype("<f4"), 7: np.dtype("<i2"), 9: np.dtype("i1")}  # by the format's number
ALIGNMENT = 16  # bytes to which the interpreter rounds each tensor up


@dataclass(frozen=True, eq=False)
class Layer:
    """An operator with a weight.

    Attributes:
        operator: The operator.
        kind: Its name.
        name: The name of its weight.
        weight: The index of the weight.
        buffer: Where its values lie.
        values: The weight.
        pieces: Into how many parts its outputs can be cut; 1 if they cannot.
        source: Bytes of the input of which each part takes a part; 0 if each takes all of it.
        live: Bytes of all tensors that are needed while it runs, without the weight.
        freed: Bytes of these that nothing needs afterwards.
        output: Bytes of what it makes.
        reason: Why the weight has to stay as it is; empty if it has not.
    """

    operator: schema.OperatorT
    kind: str
    name: str
    weight: int
    buffer: int
    values: np.ndarray
    pieces: int
    source: int
    live: int
    freed: int
    output: int
    reason: str = ""

    @property
    def axis(self) -> int:
        """The axis of the weight along which it is cut."""
        return CUT[self.kind] or 0

    def slice_bytes(self, pieces: int) -> int:
        """Bytes in the arena of the largest part of the weight."""
        return aligned(self._part(self.values.nbytes, pieces))

    def peak(self, pieces: int) -> int:
        """Bytes that are live while the layer runs in so many parts, and while these are put together."""
        if pieces == 1:
            return self.live + self.slice_bytes(1)
        running = self.live + self.slice_bytes(pieces) + aligned(self._part(self.source, pieces))
        return max(running, self.live - self.freed + self.output)

    def _part(self, size: int, pieces: int) -> int:
        return size // self.pieces * -(-self.pieces // pieces) if pieces > 1 else size


def layers_of(model: schema.ModelT) -> list[Layer]:
    """Return the layers of the first graph, in order."""
    graph = model.subgraphs[0]
    live, freed = _live(model, graph)
    readers, takers = _other_readers(model), Counter(_weights_read(model, graph))
    layers = []
    for number, operator in enumerate(graph.operators):
        kind, inputs = operator_name(model, operator), inputs_of(operator)
        if kind not in CUT or not _is_constant(model, graph, inputs[1]):
            continue
        tensor = graph.tensors[inputs[1]]
        dtype = TYPES.get(tensor.type)
        if dtype is None or len(_shape(tensor)) < 2:
            continue
        values = np.asarray(model.buffers[tensor.buffer].data).view(dtype).reshape(_shape(tensor))
        reason = _refusal(model, tensor) or readers.get(tensor.buffer, "")
        source = graph.tensors[inputs[0]]
        pieces = _most_pieces(kind, source, values) if takers[tensor.buffer] == 1 else 1
        output = sum(_bytes(graph.tensors[index]) for index in indices_of(operator.outputs))
        name = (tensor.name or b"").decode("utf-8", "replace")
        layers.append(
            Layer(
                operator,
                kind,
                name,
                inputs[1],
                tensor.buffer,
                values,
                pieces,
                _bytes(source) if kind == BY_CHANNEL else 0,
                live[number],
                freed[number],
                output,
                reason,
            )
        )
    return layers


def largest_live(model: schema.ModelT) -> int:
    """Return the bytes of tensors that are live at once, at most, in the first graph as it is."""
    return max(_live(model, model.subgraphs[0])[0], default=0)


def aligned(size: int) -> int:
    """Return a size as it counts in the arena."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _live(model: schema.ModelT, graph: schema.SubGraphT) -> tuple[list[int], list[int]]:
    """Return for each operator the bytes that are live, and those of them for the last time."""
    first = dict.fromkeys(indices_of(graph.inputs), 0)
    last: dict[int, int] = {}
    for number, operator in enumerate(graph.operators):
        for index in indices_of(operator.outputs):
            first.setdefault(index, number)
            last[index] = number
        last.update({index: number for index in inputs_of(operator) if index in first})
    last.update(dict.fromkeys(indices_of(graph.outputs), len(graph.operators)))
    sizes = {index: _bytes(graph.tensors[index]) for index in first}
    steps = range(len(graph.operators))
    live = [
        sum(size for index, size in sizes.items() if first[index] <= step <= last.get(index, 0)) for step in steps
    ]
    outputs = [{*indices_of(operator.outputs)} for operator in graph.operators]
    freed = [
        sum(size for index, size in sizes.items() if last.get(index) == step and index not in outputs[step])
        for step in steps
    ]
    return live, freed


def _is_constant(model: schema.ModelT, graph: schema.SubGraphT, index: int) -> bool:
    data = model.buffers[graph.tensors[index].buffer].data if index >= 0 else None
    return data is not None and len(data) > 0


def _shape(tensor: schema.TensorT) -> tuple[int, ...]:
    return () if tensor.shape is None else tuple(map(int, tensor.shape))


def _bytes(tensor: schema.TensorT) -> int:
    widths = {schema.TensorType.FLOAT32: 4, schema.TensorType.INT32: 4, schema.TensorType.INT16: 2}
    widths |= {schema.TensorType.INT64: 8}
    return aligned(math.prod(_shape(tensor)) * widths.get(tensor.type, 1))


def _most_pieces(kind: str, source: schema.TensorT, values: np.ndarray) -> int:
    """Return into how many parts a layer can be cut; where each takes a part of the input, by its channels."""
    channels = _shape(source)[-1:]
    if kind == BY_CHANNEL:
        return channels[0] if channels and values.ndim == 4 and values.shape[-1] % channels[0] == 0 else 1
    grouped = values.ndim == 4 and channels != values.shape[-1:]  # filters see a part of the channels
    return 1 if grouped or CUT[kind] is None else len(values)


def _weights_read(model: schema.ModelT, graph: schema.SubGraphT) -> Iterator[int]:
    """Yield the buffers of weights where layers read them."""
    for operator in graph.operators:
        if operator_name(model, operator) in CUT:
            yield graph.tensors[inputs_of(operator)[1]].buffer


def _other_readers(model: schema.ModelT) -> dict[int, str]:
    """Say of buffers what reads them that cannot take them unpacked."""
    main, *others = model.subgraphs
    readers = {tensor.buffer: "another graph reads it, too" for graph in others for tensor in graph.tensors}
    for operator in main.operators:
        kind = operator_name(model, operator)
        for place, index in enumerate(inputs_of(operator)):
            if index >= 0 and (kind not in CUT or place != 1):
                readers[main.tensors[index].buffer] = f"{kind} reads it, too"
    return readers


def _refusal(model: schema.ModelT, tensor: schema.TensorT) -> str:
    if tensor.sparsity is not None:
        return "it is sparse already"
    quantization = tensor.quantization
    if quantization is not None and quantization.zeroPoint is not None and np.any(quantization.zeroPoint):
        return "its zeros are not stored as 0"
    scales = 0 if quantization is None or quantization.scale is None else len(quantization.scale)
    if scales > 1 and quantization.quantizedDimension not in (0, len(_shape(tensor)) - 1):
        return "its scales lie along a dimension that DECODE does not know"
    if any(entry.buffer == tensor.buffer for entry in model.metadata or ()):
        return "metadata name its values"
    return ""
