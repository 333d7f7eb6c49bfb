"""Write a file without some of its channels: smaller tensors, and constants without their entries."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.canonical_order import drop_hash, indices_of, put_in_order
from tfprune.export.file.tflite.editor import add_tensor, add_values, inputs_of, numbers_operators
from tfprune.export.pruning.layers.pieces import Pieces
from tfprune.export.pruning.layers.stored_weight import type_name
from tfprune.export.pruning.shrinking.channel_groups import FileChannels
from tfprune.export.pruning.shrinking.file_flow import OPTIONS
from tfprune.export.rewriting.weights.four_bit_weights import packed
from tfprune.solving.dependency_graph import Layout, counted

ITEMS = {"FLOAT32": 4, "FLOAT16": 2, "INT8": 1, "UINT8": 1, "INT16": 2, "INT32": 4, "INT64": 8}  # bytes


def cut_channels(channels: FileChannels, keep: np.ndarray) -> None:
    """Remove channels from the model that they were found in.

    Args:
        channels: The channels; their model is changed.
        keep: Whether each bundle of channels stays.
    """
    _Cut(channels, keep).work()
    _leave_out_unused(channels.pieces.model)


class _Cut:
    def __init__(self, channels: FileChannels, keep: np.ndarray) -> None:
        self._channels, self._keep = channels, keep
        self._pieces: Pieces = channels.pieces
        self._model, self._graph = self._pieces.model, self._pieces.graph
        self._cut: dict[tuple, int] = {}  # the new tensor of a constant, by what is kept of it

    def work(self) -> None:
        self._cut_constants()
        for tensor, layout in self._channels.layouts.items():
            self._resize(self._graph.tensors[tensor], self._masks(layout))
        for step, recorded in self._channels.recorded.items():
            for place, numbers in counted(recorded.arguments, self._keep).items():
                self._count(self._pieces.steps[step], place, numbers)

    def _masks(self, layout: Layout) -> list[np.ndarray | None]:
        """Return which entries along each axis stay; None for all."""
        masks = [None if bundles is None else self._keep[bundles] for bundles in layout]
        return [None if mask is None or mask.all() else mask for mask in masks]

    def _cut_constants(self) -> None:
        unpacked: dict[int, tuple[int, list[np.ndarray | None]]] = {}
        uses = [
            (step, place, layout)
            for step, recorded in self._channels.recorded.items()
            for place, layout in recorded.weights.items()
        ]
        for step, place, layout in uses:
            masks = self._masks(layout)
            if all(mask is None for mask in masks):
                continue
            operator = self._pieces.steps[step]
            tensor = inputs_of(operator)[place]
            source = self._pieces.constant_behind(tensor)
            if source == tensor:
                self._take(operator, place, self._constant(source, masks))
            else:  # whatever takes it has the same channels
                unpacked[tensor] = source, masks
        for tensor, (source, masks) in unpacked.items():
            self._unpack(source, self._constant(source, masks))
            self._resize(self._graph.tensors[tensor], masks)

    def _constant(self, tensor: int, masks: Sequence[np.ndarray | None]) -> int:
        key = (tensor, *(None if mask is None else mask.tobytes() for mask in masks))
        if key not in self._cut:
            old = self._graph.tensors[tensor]
            values = _values(self._model, old)
            for axis, mask in enumerate(masks):
                values = values if mask is None else np.compress(mask, values, axis=axis)
            raw = packed(values.view(np.int8)) if type_name(old.type) == "INT4" else values
            buffer = add_values(self._model, raw)
            shape = np.array(values.shape[: len(masks)], np.int32)
            quantization = _quantization(old.quantization, masks)
            self._cut[key] = add_tensor(
                self._graph, old, buffer=buffer, shape=shape, shapeSignature=None, quantization=quantization
            )
        return self._cut[key]

    def _unpack(self, source: int, new: int) -> None:
        for operator in self._graph.operators:
            for place, tensor in enumerate(inputs_of(operator)):
                if tensor == source:
                    self._take(operator, place, new)

    @staticmethod
    def _take(operator: schema.OperatorT, place: int, tensor: int) -> None:
        inputs = inputs_of(operator)
        inputs[place] = tensor
        operator.inputs = np.array(inputs, np.int32)

    @staticmethod
    def _resize(tensor: schema.TensorT, masks: Sequence[np.ndarray | None]) -> None:
        for name in ("shape", "shapeSignature"):
            lengths = getattr(tensor, name)
            if lengths is not None and len(lengths):
                counts = [
                    length if mask is None or length < 0 else np.count_nonzero(mask)
                    for length, mask in zip(lengths, masks, strict=True)
                ]
                setattr(tensor, name, np.array(counts, np.int32))

    def _count(self, operator: schema.OperatorT, place: int, numbers: tuple[int, ...]) -> None:
        if place == OPTIONS:
            options = copy.copy(operator.builtinOptions)
            options.newShape = np.array(numbers, np.int32)
            operator.builtinOptions = options
            return
        old = self._graph.tensors[inputs_of(operator)[place]]
        counted = np.array(numbers, type_name(old.type).lower())
        new = add_tensor(self._graph, old, buffer=add_values(self._model, counted))
        self._take(operator, place, new)


def _values(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray:
    """Return the entries of a constant, in its shape; those of several bytes have another axis for these."""
    raw, shape = np.asarray(model.buffers[tensor.buffer].data, np.uint8), tuple(map(int, tensor.shape))
    kind = type_name(tensor.type)
    if kind == "INT4":
        halves = np.stack([raw & 15, raw >> 4], axis=-1).ravel()[: int(np.prod(shape))].astype(np.int8)
        return np.where(halves > 7, halves - 16, halves).astype(np.int8).reshape(shape)
    return raw.reshape(*shape, ITEMS[kind])


def _quantization(
    old: schema.QuantizationParametersT | None, masks: Sequence[np.ndarray | None]
) -> schema.QuantizationParametersT | None:
    if old is None or old.scale is None or len(old.scale) < 2:
        return old
    axis = int(old.quantizedDimension)
    mask = masks[axis]
    if mask is None:
        return old
    new = copy.copy(old)
    for name in ("scale", "zeroPoint", "min", "max"):
        numbers = getattr(old, name)
        if numbers is not None and len(numbers) == mask.size:
            setattr(new, name, np.asarray(numbers)[mask])
    return new


def _leave_out_unused(model: schema.ModelT) -> None:
    if not numbers_operators(model):
        drop_hash(model)
        put_in_order(model)
        return
    for graph in model.subgraphs:
        lists = [graph.inputs, graph.outputs]
        lists += [tensors for operator in graph.operators or () for tensors in (operator.inputs, operator.outputs)]
        used_tensors = {index for tensors in lists for index in indices_of(tensors)}
        for index, tensor in enumerate(graph.tensors):
            tensor.buffer = tensor.buffer if index in used_tensors else 0
    holders = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    holders |= {entry.buffer for entry in model.metadata or ()}
    model.buffers = [buffer if index in holders else schema.BufferT() for index, buffer in enumerate(model.buffers)]
