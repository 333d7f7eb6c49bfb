"""Put DECODE in front of layers, and cut large layers into parts whose weights are unpacked one after the other."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.decode_format import OPERATOR, DecodeConstants, encode_pruned, encode_table
from tfprune.export.file.tflite.editor import add_constant, add_tensor, add_values, inputs_of, operator_code
from tfprune.export.micro.layers import Layer

MAX_CONCATENATED = 10  # tensors that the interpreter's CONCATENATION takes, at most
INTEGERS_SINCE = 2  # the version of CONCATENATION and SLICE that takes int8


def encode_smallest(values: np.ndarray) -> DecodeConstants:
    """Return a weight in the form that takes fewer bytes."""
    table, pruned = encode_table(values), encode_pruned(values)
    return pruned if table is None or pruned.bytes <= table.bytes else table


class Unpacker:
    """Changes the layers of a model's first graph.

    Args:
        model: The model, which is changed.
    """

    def __init__(self, model: schema.ModelT) -> None:
        self._model, self._graph = model, model.subgraphs[0]
        self._encoded: dict[int, list[int]] = {}  # by the weight's buffer: the two constants

    def unpack(self, layer: Layer, pieces: int) -> list[DecodeConstants]:
        """Let a layer unpack its weight, whole or in parts; return these as they are stored."""
        if pieces > 1:
            return self._unpack_parts(layer, pieces)
        encoded = encode_smallest(layer.values)
        if layer.buffer not in self._encoded:
            self._encoded[layer.buffer] = self._constants(encoded)
        weight = self._without_values(layer.weight)
        place = self._place(layer.operator)
        self._graph.operators.insert(place, self._decode(self._encoded[layer.buffer], weight))
        inputs = inputs_of(layer.operator)
        layer.operator.inputs = np.array([inputs[0], weight, *inputs[2:]], np.int32)
        return [encoded]

    def _unpack_parts(self, layer: Layer, pieces: int) -> list[DecodeConstants]:
        each = layer.values.shape[layer.axis] // layer.pieces
        bounds = (each * np.linspace(0, layer.pieces, pieces + 1).round().astype(int)).tolist()
        stored: list[DecodeConstants] = []
        added: list[schema.OperatorT] = []
        joints: list[int] = []
        waiting: list[int] = []
        for start, end in zip(bounds, bounds[1:], strict=False):
            encoded = encode_smallest(layer.values.take(range(start, end), layer.axis))
            weight = self._without_values(layer.weight, rows=slice(start, end), axis=layer.axis)
            part = self._part(layer.operator, weight, start, end)
            if layer.source:
                channel_slice = self._channels(part.inputs[0], start // each, end // each)
                part.inputs[0] = channel_slice.outputs[0]
                added.append(channel_slice)
            added += [self._decode(self._constants(encoded), weight), part]
            stored.append(encoded)
            waiting.append(int(added[-1].outputs[0]))
            if len(waiting) == MAX_CONCATENATED and pieces > MAX_CONCATENATED:
                added.append(self._joined(waiting, self._output(layer.operator, sum(map(self._width, waiting)))))
                joints, waiting = [*joints, int(added[-1].outputs[0])], []
        added.append(self._joined([*joints, *waiting], int(layer.operator.outputs[0])))
        place = self._place(layer.operator)
        self._graph.operators[place : place + 1] = added
        return stored

    def _place(self, operator: schema.OperatorT) -> int:
        return next(index for index, other in enumerate(self._graph.operators) if other is operator)

    def _constants(self, encoded: DecodeConstants) -> list[int]:
        return [
            add_constant(self._model, self._graph, name=b"", values=raw) for raw in (encoded.bits, encoded.ancillary)
        ]

    def _without_values(self, weight: int, rows: slice | None = None, axis: int = 0) -> int:
        tensor = self._graph.tensors[weight]
        changes = {} if rows is None else self._of_rows(tensor, rows, axis)
        return add_tensor(self._graph, tensor, buffer=0, **changes)

    def _of_rows(self, tensor: schema.TensorT, rows: slice, axis: int = 0) -> dict[str, object]:
        """Return shape and scales of some indices along a dimension, along which the scales lie."""
        shape = np.array(tensor.shape, np.int32)
        shape[axis] = rows.stop - rows.start
        quantization = copy.copy(tensor.quantization)
        if quantization is not None and np.size(quantization.scale) > 1:
            for name in ("scale", "zeroPoint", "min", "max"):
                values = getattr(quantization, name)
                setattr(quantization, name, values[rows] if np.size(values) > 1 else values)
        return {"shape": shape, "quantization": quantization}

    def _part(self, operator: schema.OperatorT, weight: int, start: int, end: int) -> schema.OperatorT:
        source, _, *bias = inputs_of(operator)
        part = copy.copy(operator)
        part.inputs = np.array([source, weight, *(self._bias(index, start, end) for index in bias)], np.int32)
        part.outputs = np.array([self._output(operator, end - start)], np.int32)
        return part

    def _channels(self, source: int, start: int, end: int) -> schema.OperatorT:
        """Take some channels of an input."""
        tensor = self._graph.tensors[source]
        shape = np.array([*tensor.shape[:-1], end - start], np.int32)
        bounds = [np.array([0] * (len(shape) - 1) + [start], np.int32), shape]
        constants = [add_constant(self._model, self._graph, name=b"", values=values) for values in bounds]
        index = operator_code(self._model, schema.BuiltinOperator.SLICE)
        code = self._model.operatorCodes[index]
        code.version = max(code.version, INTEGERS_SINCE)
        return schema.OperatorT(
            opcodeIndex=index,
            inputs=np.array([source, *constants], np.int32),
            outputs=np.array([add_tensor(self._graph, tensor, shape=shape, shapeSignature=None, name=b"")], np.int32),
            builtinOptionsType=schema.BuiltinOptions.SliceOptions,
            builtinOptions=schema.SliceOptionsT(),
        )

    def _bias(self, bias: int, start: int, end: int) -> int:
        if bias < 0:
            return bias
        tensor = self._graph.tensors[bias]
        raw = np.asarray(self._model.buffers[tensor.buffer].data)
        values = raw.reshape(int(tensor.shape[0]), -1)[start:end]
        changes = self._of_rows(tensor, slice(start, end))
        return add_tensor(self._graph, tensor, name=b"", buffer=add_values(self._model, values), **changes)

    def _output(self, operator: schema.OperatorT, width: int) -> int:
        tensor = self._graph.tensors[int(operator.outputs[0])]
        shape = np.array([*tensor.shape[:-1], width], np.int32)
        return add_tensor(self._graph, tensor, shape=shape, shapeSignature=None, name=b"")

    def _width(self, tensor: int) -> int:
        return int(self._graph.tensors[tensor].shape[-1])

    def _joined(self, parts: Sequence[int], output: int) -> schema.OperatorT:
        index = operator_code(self._model, schema.BuiltinOperator.CONCATENATION)
        code = self._model.operatorCodes[index]
        code.version = max(code.version, INTEGERS_SINCE)
        axis = len(self._graph.tensors[output].shape) - 1
        return schema.OperatorT(
            opcodeIndex=index,
            inputs=np.array(parts, np.int32),
            outputs=np.array([output], np.int32),
            builtinOptionsType=schema.BuiltinOptions.ConcatenationOptions,
            builtinOptions=schema.ConcatenationOptionsT(axis=axis),
        )

    def _decode(self, constants: Sequence[int], weight: int) -> schema.OperatorT:
        inputs, outputs = np.array(constants, np.int32), np.array([weight], np.int32)
        return schema.OperatorT(opcodeIndex=self._decode_code(), inputs=inputs, outputs=outputs)

    def _decode_code(self) -> int:
        codes, name = self._model.operatorCodes, OPERATOR.encode()
        for index, code in enumerate(codes):
            if code.customCode == name:
                return index
        custom = schema.BuiltinOperator.CUSTOM
        codes.append(
            schema.OperatorCodeT(deprecatedBuiltinCode=custom, builtinCode=custom, customCode=name, version=1)
        )
        return len(codes) - 1
