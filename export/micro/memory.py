"""The RAM that a file takes: what is live while it runs, weights that are unpacked there, and how to take less."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.export.file import schema
from tfprune.export.file.document import (
    NamedTensors,
    add_constant,
    add_tensor,
    add_values,
    indices_of,
    inputs_of,
    operator_code,
    operator_name,
)
from tfprune.export.file.sparse_tensors import OPERATOR, DecodeConstants, encode_pruned, encode_table
from tfprune.report import Report

# The layers of a graph whose weights can be unpacked while the model runs, and what is live beside them.

# The axis of the weight along which the outputs lie; None where parts of a layer cannot be joined.
_CUT = {"CONV_2D": 0, "FULLY_CONNECTED": 0, "DEPTHWISE_CONV_2D": 3, "TRANSPOSE_CONV": None}
_BY_CHANNEL = "DEPTHWISE_CONV_2D"  # where a part of the outputs needs a part of the input
_TYPES: dict[int, Any] = {0: np.dtype("<f4"), 7: np.dtype("<i2"), 9: np.dtype("i1")}  # by the format's number
_ALIGNMENT = 16  # bytes to which the interpreter rounds each tensor up


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
        return _CUT[self.kind] or 0

    def slice_bytes(self, pieces: int) -> int:
        """Bytes in the arena of the largest part of the weight."""
        return _aligned(self._part(self.values.nbytes, pieces))

    def peak(self, pieces: int) -> int:
        """Bytes that are live while the layer runs in so many parts, and while these are put together."""
        if pieces == 1:
            return self.live + self.slice_bytes(1)
        running = self.live + self.slice_bytes(pieces) + _aligned(self._part(self.source, pieces))
        return max(running, self.live - self.freed + self.output)

    def _part(self, size: int, pieces: int) -> int:
        return size // self.pieces * -(-self.pieces // pieces) if pieces > 1 else size


def layers_of(model: schema.ModelT) -> list[Layer]:
    """Return the layers of the first graph, in order."""
    graph = model.subgraphs[0]
    live, freed = _live(graph)
    readers, takers = _other_readers(model), Counter(_weights_read(model, graph))
    layers = []
    for number, operator in enumerate(graph.operators):
        kind, inputs = operator_name(model, operator), inputs_of(operator)
        if kind not in _CUT or not _is_constant(model, graph, inputs[1]):
            continue
        tensor = graph.tensors[inputs[1]]
        dtype = _TYPES.get(tensor.type)
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
                _bytes(source) if kind == _BY_CHANNEL else 0,
                live[number],
                freed[number],
                output,
                reason,
            )
        )
    return layers


def largest_live(model: schema.ModelT, operators: Sequence[schema.OperatorT] | None = None) -> int:
    """Return the bytes of tensors that are live at once, at most, in the first graph, or with its operators so."""
    return max(_live(model.subgraphs[0], operators)[0], default=0)


@dataclass(frozen=True)
class OperatorMemory(Report):
    """What is live while an operator runs.

    Attributes:
        operator: The number of the operator and its kind, such as `3, CONV_2D`.
        live: Bytes of all tensors that are needed then.
        added: Bytes of what it makes.
    """

    operator: str
    live: int
    added: int


def memory_of_operators(model: schema.ModelT) -> tuple[OperatorMemory, ...]:
    """Return what is live while each operator of the first graph runs, in order."""
    file = NamedTensors(model)
    live, _ = _live(file.graph)
    rows = []
    for number, (operator, size) in enumerate(zip(file.graph.operators, live, strict=True)):
        added = sum(_bytes(file.tensors[index]) for index in indices_of(operator.outputs))
        rows.append(OperatorMemory(f"{number}, {file.kind(operator)}", size, added))
    return tuple(rows)


def _aligned(size: int) -> int:
    """Return a size as it counts in the arena."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _live(
    graph: schema.SubGraphT, operators: Sequence[schema.OperatorT] | None = None
) -> tuple[list[int], list[int]]:
    """Return for each operator the bytes that are live, and those of them for the last time."""
    operators = graph.operators if operators is None else operators
    first = dict.fromkeys(indices_of(graph.inputs), 0)
    last: dict[int, int] = {}
    for number, operator in enumerate(operators):
        for index in indices_of(operator.outputs):
            first.setdefault(index, number)
            last[index] = number
        last.update({index: number for index in inputs_of(operator) if index in first})
    last.update(dict.fromkeys(indices_of(graph.outputs), len(operators)))
    sizes = {index: _bytes(graph.tensors[index]) for index in first}
    steps = range(len(operators))
    live = [
        sum(size for index, size in sizes.items() if first[index] <= step <= last.get(index, 0)) for step in steps
    ]
    outputs = [{*indices_of(operator.outputs)} for operator in operators]
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
    return _aligned(_size(tensor))


def _size(tensor: schema.TensorT) -> int:
    widths = {schema.TensorType.FLOAT32: 4, schema.TensorType.INT32: 4, schema.TensorType.INT16: 2}
    widths |= {schema.TensorType.INT64: 8}
    return math.prod(_shape(tensor)) * widths.get(tensor.type, 1)


def _most_pieces(kind: str, source: schema.TensorT, values: np.ndarray) -> int:
    """Return into how many parts a layer can be cut; where each takes a part of the input, by its channels."""
    channels = _shape(source)[-1:]
    if kind == _BY_CHANNEL:
        return channels[0] if channels and values.ndim == 4 and values.shape[-1] % channels[0] == 0 else 1
    grouped = values.ndim == 4 and channels != values.shape[-1:]  # filters see a part of the channels
    return 1 if grouped or _CUT[kind] is None else len(values)


def _weights_read(model: schema.ModelT, graph: schema.SubGraphT) -> Iterator[int]:
    """Yield the buffers of weights where layers read them."""
    for operator in graph.operators:
        if operator_name(model, operator) in _CUT:
            yield graph.tensors[inputs_of(operator)[1]].buffer


def _other_readers(model: schema.ModelT) -> dict[int, str]:
    """Say of buffers what reads them that cannot take them unpacked."""
    main, *others = model.subgraphs
    readers = {tensor.buffer: "another graph reads it, too" for graph in others for tensor in graph.tensors}
    for operator in main.operators:
        kind = operator_name(model, operator)
        for place, index in enumerate(inputs_of(operator)):
            if index >= 0 and (kind not in _CUT or place != 1):
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


# Put DECODE in front of layers, and cut large layers into parts whose weights are unpacked one after the other.

_MAX_CONCATENATED = 10  # tensors that the interpreter's CONCATENATION takes, at most
_INTEGERS_SINCE = 2  # the version of CONCATENATION and SLICE that takes int8


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
            if len(waiting) == _MAX_CONCATENATED and pieces > _MAX_CONCATENATED:
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
        code.version = max(code.version, _INTEGERS_SINCE)
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
        code.version = max(code.version, _INTEGERS_SINCE)
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


# Take less RAM for the same outputs, bit for bit: fewer operators, in an order that keeps less alive.

_SLICES = ("STRIDED_SLICE", "SLICE")
_VARIABLES = ("READ_VARIABLE", "ASSIGN_VARIABLE")
_RUN_GRAPHS = ("CALL_ONCE", "IF", "WHILE")  # may read and set variables
_MOST_GROWTH = 2  # of kernels that get zeros: they take flash


def save_memory(model: schema.ModelT) -> None:
    """Change the first graph of a model such that it takes less RAM, for the same outputs.

    Slices that take everything are left out, and so are first values of variables that the interpreter sets by
    itself. Depthwise convolutions side by side, each over its own channels and some of the steps of one tensor, as in
    MixConv (arXiv 1907.09595), become one, whose kernels have zeros where they take nothing. What is cut off at an
    end is split off, for which the interpreter keeps less. Operators are put in the order that keeps the fewest bytes
    alive. A file that unpacks weights already stays as it is.
    """
    graph = model.subgraphs[0]
    if any(operator_name(model, operator) == OPERATOR for operator in graph.operators):
        return
    for kinds, change in ((_SLICES, _leave_out), (("CONCATENATION",), _join_branches), (_SLICES[:1], _split_off)):
        for operator in [each for each in graph.operators if operator_name(model, each) in kinds]:
            change(NamedTensors(model), operator)
    _leave_out_first_values(model)
    _share_numbers(model, graph)
    graph.operators = min(_orders(model, graph), key=lambda order: largest_live(model, order))


def _leave_out(file: NamedTensors, operator: schema.OperatorT) -> None:
    """Leave out a slice that takes everything."""
    source, output = inputs_of(operator)[0], int(operator.outputs[0])
    sizes = [len(each) for each in _taken(file, operator)]
    if sizes and sizes == [*file.tensors[source].shape] and output not in indices_of(file.graph.outputs):
        for other in file.graph.operators:
            inputs = [source if index == output else index for index in inputs_of(other)]
            other.inputs = np.array(inputs, np.int32)
        file.graph.operators = [other for other in file.graph.operators if other is not operator]


def _taken(file: NamedTensors, operator: schema.OperatorT) -> list[range]:
    """Return the positions along each axis that a slice takes; none if they are computed or leave some out."""
    source, *bounds = inputs_of(operator)
    shape, options = [*map(int, file.tensors[source].shape)], operator.builtinOptions
    constants = [file.constant(index) for index in bounds]
    if any(each is None or each.size != len(shape) for each in constants):
        return []
    begins, ends, *steps = (each.ravel().tolist() for each in constants if each is not None)
    if not steps:  # a SLICE names sizes
        ends = [length if size < 0 else begin + size for begin, size, length in zip(begins, ends, shape, strict=True)]
        return [range(begin, end) for begin, end in zip(begins, ends, strict=True)]
    if steps[0] != [1] * len(shape) or options.ellipsisMask or options.newAxisMask or options.shrinkAxisMask:
        return []
    for axis in range(len(shape)):
        begins[axis] = None if options.beginMask >> axis & 1 else begins[axis]
        ends[axis] = None if options.endMask >> axis & 1 else ends[axis]
    bounds_of = zip(begins, ends, shape, strict=True)
    return [range(*slice(begin, end).indices(length)) for begin, end, length in bounds_of]


def _split_off(file: NamedTensors, operator: schema.OperatorT) -> None:
    """Let SPLIT_V do what a slice does that takes one end of an axis."""
    source, ranges = file.tensors[inputs_of(operator)[0]], _taken(file, operator)
    pairs = [*zip(ranges, map(int, source.shape), strict=False)]
    cut = [axis for axis, (taken, length) in enumerate(pairs) if len(taken) < length]
    if len(cut) != 1 or not len(ranges[cut[0]]):
        return
    (axis,) = cut
    taken, length = pairs[axis]
    if taken.start and taken.stop < length:
        return
    sizes = [length - len(taken), len(taken)] if taken.start else [len(taken), length - len(taken)]
    shape = np.array(source.shape, np.int32)
    shape[axis] = length - len(taken)
    rest = add_tensor(file.graph, source, shape=shape, shapeSignature=None, name=b"")
    outputs = [rest, *operator.outputs] if taken.start else [*operator.outputs, rest]
    constants = [
        add_constant(file.model, file.graph, name=b"", values=np.array(values, np.int32)) for values in (sizes, axis)
    ]
    operator.opcodeIndex = operator_code(file.model, schema.BuiltinOperator.SPLIT_V)
    code = file.model.operatorCodes[operator.opcodeIndex]
    code.version = max(code.version, _INTEGERS_SINCE)
    operator.inputs = np.array([inputs_of(operator)[0], *constants], np.int32)
    operator.outputs = np.array(outputs, np.int32)
    operator.builtinOptionsType = schema.BuiltinOptions.SplitVOptions
    operator.builtinOptions = schema.SplitVOptionsT(numSplits=len(sizes))


def _leave_out_first_values(model: schema.ModelT) -> None:
    """Leave out graphs that only set variables to what stands for 0, as the interpreter does before the first run."""
    main, *others = model.subgraphs
    calls = [each for each in main.operators if operator_name(model, each) == "CALL_ONCE"]
    if {each.builtinOptions.initSubgraphIndex for each in calls} != {*range(1, 1 + len(others))}:
        return
    zeros = {}
    for name, index in _assigned(model, main):
        quantization = main.tensors[index].quantization
        points = None if quantization is None else quantization.zeroPoint
        zeros[name] = 0 if points is None or not len(points) else int(points[0])
    for graph in others:
        kinds = {operator_name(model, each) for each in graph.operators or ()}
        firsts = [(name, model.buffers[graph.tensors[index].buffer].data) for name, index in _assigned(model, graph)]
        if kinds != {"VAR_HANDLE", "ASSIGN_VARIABLE"} or any(
            name not in zeros or data is None for name, data in firsts
        ):
            return
        if any((np.asarray(data).view(np.int8) != zeros[name]).any() for name, data in firsts):
            return
    main.operators = [each for each in main.operators if not any(each is call for call in calls)]
    model.subgraphs = [main]


def _share_numbers(model: schema.ModelT, graph: schema.SubGraphT) -> None:
    """Let operators take one constant where several hold the same sizes or axes: each is described in RAM."""
    first: dict[tuple[bytes, tuple[int, ...]], int] = {}
    for operator in graph.operators:
        inputs = inputs_of(operator)
        for place, tensor in enumerate(graph.tensors[index] for index in inputs):
            data = model.buffers[tensor.buffer].data
            is_scaled = tensor.quantization is not None and tensor.quantization.scale is not None
            if tensor.type == schema.TensorType.INT32 and not is_scaled and data is not None and inputs[place] >= 0:
                key = np.asarray(data).tobytes(), _shape(tensor)
                inputs[place] = first.setdefault(key, inputs[place])
        operator.inputs = np.array(inputs, np.int32)


def _assigned(model: schema.ModelT, graph: schema.SubGraphT) -> Iterator[tuple[bytes, int]]:
    """Yield the variables that a graph sets, by name, and the tensor that it sets each to."""
    names = _variable_names(model, graph)
    for operator in graph.operators or ():
        if operator_name(model, operator) == "ASSIGN_VARIABLE":
            handle, value = inputs_of(operator)
            yield names.get(handle, b""), value


def _variable_names(model: schema.ModelT, graph: schema.SubGraphT) -> dict[int, bytes]:
    """Return the name of each variable, by the tensors that stand for it."""
    return {
        index: each.builtinOptions.sharedName
        for each in graph.operators or ()
        if operator_name(model, each) == "VAR_HANDLE"
        for index in indices_of(each.outputs)
    }


@dataclass(frozen=True)
class _Branch:
    """A depthwise convolution to one pixel, over some channels of a tensor that an operator splits.

    Attributes:
        operators: It, and the slice ahead of it, if there is one.
        part: The tensor with its channels.
        constants: Its kernel, of shape (1, rows, columns, channels), and its bias if it has one.
        window: Where the kernel lies in the tensor.
        form: What is alike in branches that can be one operator: their activation, and the grid of their output.
    """

    operators: list[schema.OperatorT]
    part: int
    constants: list[np.ndarray]
    window: tuple[slice, slice]
    form: tuple[object, ...]

    @property
    def channels(self) -> int:
        """The number of its channels."""
        return self.constants[0].shape[3]


def _branch(file: NamedTensors, output: int) -> _Branch | None:
    """Return the branch that makes a tensor, if it is one."""
    operator = file.maker.get(output)
    if operator is None or file.kind(operator) != "DEPTHWISE_CONV_2D" or min(inputs_of(operator)) < 0:
        return None
    part, *indices = inputs_of(operator)
    constants = [each for index in indices if (each := file.constant(index)) is not None]
    operators, slicing = [operator], file.maker.get(part)
    ranges = [range(int(length)) for length in file.tensors[part].shape]
    if slicing is not None and file.kind(slicing) in _SLICES:
        part, ranges, operators = inputs_of(slicing)[0], _taken(file, slicing), [operator, slicing]
    options = operator.builtinOptions
    is_plain = options.padding == schema.Padding.VALID and options.dilationHFactor == options.dilationWFactor == 1
    if not is_plain or len(constants) < len(indices) or constants[0].dtype != np.int8:
        return None
    if [len(each) for each in ranges[1:]] != [*constants[0].shape[1:]]:  # to more than a pixel, or of other channels
        return None
    rows, columns = (slice(each.start, each.stop) for each in ranges[1:3])
    form = _activation(operator), len(constants), *_steps(file, output)
    return _Branch(operators, part, constants, (rows, columns), form)


def _activation(operator: schema.OperatorT) -> int:
    return int(operator.builtinOptions.fusedActivationFunction)


def _steps(file: NamedTensors, index: int) -> tuple[bytes, ...]:
    """Return the grid of a tensor's integers, to compare."""
    grid = file.grid(index)
    return () if grid is None else (grid.scale.tobytes(), grid.zero.tobytes())


def _join_branches(file: NamedTensors, joint: schema.OperatorT) -> None:
    """Put one depthwise convolution in the place of those that a CONCATENATION joins, if they see one tensor."""
    ends, output = inputs_of(joint), int(joint.outputs[0])
    branches = [branch for index in ends if (branch := _branch(file, index)) is not None]
    split = file.maker.get(branches[0].part) if len(branches) == len(ends) else None
    if split is None or file.kind(split) not in ("SPLIT", "SPLIT_V"):
        return
    source = inputs_of(split)[1 if file.kind(split) == "SPLIT" else 0]
    kernel = np.zeros((1, *map(int, file.tensors[source].shape[1:])), np.int8)
    channels = [sum(branch.channels for branch in branches)]
    is_split = [branch.part for branch in branches] == [*map(int, split.outputs)] and [*kernel.shape[3:]] == channels
    is_joint = [*file.tensors[output].shape[1:]] == [
        1,
        1,
        *channels,
    ] and not joint.builtinOptions.fusedActivationFunction
    is_alike = {branch.form for branch in branches} == {(*branches[0].form[:2], *_steps(file, output))}
    is_large = kernel.size > _MOST_GROWTH * sum(branch.constants[0].size for branch in branches)
    replaced = [split, joint, *(operator for branch in branches for operator in branch.operators)]
    if is_split and is_joint and is_alike and not is_large and _is_closed(file, replaced, output):
        whole = copy.copy(branches[0].operators[0])
        whole.inputs = np.array([source, *_joined_constants(file, branches, kernel)], np.int32)
        whole.outputs = np.array([output], np.int32)
        operators = [whole if each is joint else each for each in file.graph.operators]
        file.graph.operators = [each for each in operators if not any(each is other for other in replaced)]


def _is_closed(file: NamedTensors, operators: Sequence[schema.OperatorT], output: int) -> bool:
    """Return True if nothing but one of the operators takes what they make, each once, except an output."""
    takers = Counter(index for each in file.graph.operators for index in inputs_of(each))
    takers.update(indices_of(file.graph.outputs))
    made = [index for each in operators for index in indices_of(each.outputs) if index != output]
    return all(takers[index] == 1 for index in made)


def _joined_constants(file: NamedTensors, branches: Sequence[_Branch], kernel: np.ndarray) -> Iterator[int]:
    """Add the kernel, in which those of all branches are put, and the joined bias; yield the tensors."""
    weights = [file.tensors[inputs_of(branch.operators[0])[1]] for branch in branches]
    scales = []
    end = 0
    for branch, weight in zip(branches, weights, strict=True):
        start, end = end, end + branch.channels
        kernel[(slice(None), *branch.window, slice(start, end))] = branch.constants[0]
        scales.append(np.broadcast_to(weight.quantization.scale, branch.channels))
    quantization = schema.QuantizationParametersT(
        scale=np.concatenate(scales).astype(np.float32), zeroPoint=np.zeros(end, np.int64), quantizedDimension=3
    )
    buffer, shape = add_values(file.model, kernel), np.array(kernel.shape, np.int32)
    yield add_tensor(file.graph, weights[0], shape=shape, buffer=buffer, quantization=quantization)
    if len(branches[0].constants) > 1:
        bias = np.concatenate([branch.constants[1] for branch in branches])
        yield add_constant(file.model, file.graph, name=b"", values=bias)  # its scales are known by the others


def _orders(model: schema.ModelT, graph: schema.SubGraphT) -> list[list[schema.OperatorT]]:
    """Return orders of operators: theirs, and two in which each comes right before those that take what it makes."""
    operators = [*graph.operators]
    before = _dependences(model, operators)
    ends = {*range(len(operators))}.difference(*before)
    orders = [operators]
    for is_last_first in (False, True):
        ordered: dict[int, schema.OperatorT] = {}
        ahead = sorted(ends, reverse=True)
        while ahead:
            missing = before[ahead[-1]] - ordered.keys()
            ahead += sorted(missing, reverse=not is_last_first)
            if not missing:
                last = ahead.pop()
                ordered.setdefault(last, operators[last])
        orders.append([*ordered.values()])
    return orders


def _dependences(model: schema.ModelT, operators: Sequence[schema.OperatorT]) -> list[set[int]]:
    """Return for each operator those that come before it: makers of its inputs, earlier uses of its variables."""
    maker = {index: number for number, each in enumerate(operators) for index in indices_of(each.outputs)}
    names = _variable_names(model, model.subgraphs[0])
    readers: dict[Any, set[int]] = {name: set() for name in (None, *names.values())}  # since it was last set
    setters = {name: set[int]() for name in readers}
    before = []
    for number, operator in enumerate(operators):
        kind, inputs = operator_name(model, operator), inputs_of(operator)
        own = {maker[index] for index in inputs if index in maker}
        variables = [*readers] if kind in _RUN_GRAPHS else [names.get(inputs[0])] if kind in _VARIABLES else []
        for name in variables:
            own |= setters[name]
            if kind == "READ_VARIABLE":
                readers[name].add(number)
            else:
                own |= readers[name]
                readers[name], setters[name] = set(), {number}
        before.append(own)
    return before


# Take less RAM for more work: run layers strip by strip along an image, as in patches (arXiv 2110.15352).

_WINDOWS = ("CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D")
_MARGINS = ("PAD", "PADV2")
_ROW_BY_ROW = """
ABS ADD CONCATENATION DEQUANTIZE DIV ELU HARD_SWISH LEAKY_RELU LOGISTIC MAXIMUM MINIMUM MUL NEG PRELU QUANTIZE RELU
RELU6 SUB TANH
""".split()
_MOST_STRIPS = _MAX_CONCATENATED
_MOST_IN_STRIPS = 24  # operators that run strip by strip, one after the other
_MOST_SLACK = 16  # rows by which a strip grows until its rows lie where the steps of strided windows begin
_MOST_EXTRA_WORK = 0.3  # of the multiplications of the file: what is computed twice, where strips overlap
_NOT_ROWS = 0b1101  # the axes of an image that a slice takes whole
_SLICE_BYTES = 160
_NODE_BYTES, _TENSOR_BYTES, _PLANNED_BYTES = 48, 12, 72  # that the interpreter keeps, and needs to plan a tensor


@dataclass(frozen=True)
class _Rows:
    """Rows of an image in a strip: `start` to `stop` are computed, of which `first` to `last` are right."""

    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class _RowOperator:
    """An operator that can run on some of the rows of an image.

    Attributes:
        operator: The operator.
        sources: The images that it takes.
        output: The image that it makes.
        heights: The rows of these.
        window: How many rows it sees for each row of the output, and the step between two of these.
        pads: Whether it adds rows of zeros as SAME does.
        margins: The rows that a PAD adds in front and behind; None for other operators.
        work: The multiplications for a row of the output.
        kept: The bytes that the interpreter keeps for it.
    """

    operator: schema.OperatorT
    sources: tuple[int, ...]
    output: int
    heights: tuple[int, int]
    window: tuple[int, int] = (1, 1)
    pads: bool = False
    margins: tuple[int, int] | None = None
    work: int = 0
    kept: int = _NODE_BYTES

    def ahead(self, rows: int) -> int:
        """Return how many rows are added in front of so many."""
        size, step = self.window
        return max(0, (-(-rows // step) - 1) * step + size - rows) // 2 if self.pads else 0

    def needed(self, wanted: tuple[int, int]) -> tuple[int, int]:
        """Return the rows of the source that the output needs."""
        size, step = self.window
        front = self.ahead(self.heights[0]) + (self.margins[0] if self.margins else 0)
        start = min(max(wanted[0] * step - front, 0), self.heights[0] - 1)
        return start, max(min((wanted[1] - 1) * step - front + size, self.heights[0]), start + 1)

    def added(self, rows: _Rows) -> tuple[int, int]:
        """Return the rows that a PAD adds to a strip: at the ends of the image."""
        front, behind = self.margins or (0, 0)
        return front if rows.start == 0 else 0, behind if rows.stop == self.heights[0] else 0

    def made(self, rows: _Rows) -> _Rows | None:
        """Return the rows of the output that come of those of the source; None where steps begin elsewhere."""
        (size, step), (height, made) = self.window, self.heights
        front = self.ahead(height)
        if self.margins:
            front, size = self.margins[0], 1
            first, last = self.added(rows)
            start, stop = rows.start + front - first, rows.stop + front + last
        else:
            length = rows.stop - rows.start
            offset = rows.start - self.ahead(length) + front
            count = -(-length // step) if self.pads else (length - size) // step + 1
            if offset % step or count < 1:
                return None
            start, stop = offset // step, offset // step + count
        # The first and the last rows are right at the ends of the image, which the operator sees as they are.
        first = start if rows.first == 0 else -(-(rows.first + front) // step)
        last = stop if rows.last == height else (rows.last + front - size) // step + 1
        return None if start < 0 or stop > made else _Rows(start, stop, max(first, start), min(last, stop))


def _row_operator(file: NamedTensors, operator: schema.OperatorT) -> _RowOperator | None:
    """Describe an operator that can run on some rows of an image; None for others."""
    kind, inputs = file.kind(operator), inputs_of(operator)
    if kind not in (*_WINDOWS, *_MARGINS, *_ROW_BY_ROW) or len(operator.outputs) != 1:
        return None
    output = int(operator.outputs[0])
    constants = [index for index in inputs if index >= 0 and _is_constant(file.model, file.graph, index)]
    sources = tuple(dict.fromkeys(index for index in inputs if index >= 0 and index not in constants))
    shapes = [_shape(file.tensors[index]) for index in (output, *sources)]
    if not sources or any(len(shape) != 4 or shape[0] != 1 for shape in shapes):
        return None
    options, made = operator.builtinOptions, math.prod(shapes[0][2:])
    heights = shapes[1][1], shapes[0][1]
    if kind in _ROW_BY_ROW:
        tall = any(_shape(file.tensors[index])[-3:-2] not in ((), (1,)) for index in constants)
        if kind == "CONCATENATION" and (constants or options.axis % 4 < 2):
            return None
        is_alike = all(shape[1] == heights[1] for shape in shapes)
        return None if tall or not is_alike else _RowOperator(operator, sources, output, heights, work=made)
    if len(sources) != 1 or inputs[0] != sources[0]:
        return None
    if kind in _MARGINS:
        margins = file.constant(inputs[1])
        if margins is None or margins.shape != (4, 2) or margins[0].any():
            return None
        margins = tuple(margins[1].tolist())
        return _RowOperator(operator, sources, output, heights, margins=margins)
    if kind in _CUT:
        filters, dilation = _shape(file.tensors[inputs[1]]), int(options.dilationHFactor or 1)
        size, taps = filters[1], math.prod(filters[1:3] if kind == _BY_CHANNEL else filters[1:])
    else:
        size, dilation, taps = options.filterHeight, 1, options.filterHeight * options.filterWidth
    return _RowOperator(
        operator,
        sources,
        output,
        heights,
        window=((size - 1) * dilation + 1, options.strideH),
        pads=options.padding == schema.Padding.SAME,
        work=made * taps,
        kept=_NODE_BYTES + (_aligned(4 * shapes[0][3]) * 2 + 96 if kind in _CUT else 48),
    )


@dataclass(frozen=True)
class _Strip:
    """The rows of an image that a strip makes, those of each image on the way there, and of the source."""

    wanted: tuple[int, int]
    taken: tuple[int, int]
    rows: tuple[_Rows, ...]  # by operator

    @property
    def is_trimmed(self) -> bool:
        """Whether the last operator makes more rows than are wanted."""
        return self.wanted != (self.rows[-1].start, self.rows[-1].stop)


@dataclass(frozen=True)
class _Region:
    """Operators that follow each other, of which the first takes one image, and only the last one's is taken later.

    Attributes:
        place: The number of the first operator.
        operators: The operators.
        source: The image that is taken.
        beside: Bytes of tensors that are needed later, whatever the operators do; the source is one if it `stays`.
        stays: Whether the source is needed later.
    """

    place: int
    operators: tuple[_RowOperator, ...]
    source: int
    beside: int
    stays: bool

    @property
    def end(self) -> int:
        """The number of the operator behind it."""
        return self.place + len(self.operators)


@dataclass(frozen=True)
class _Split:
    """A region in strips: the bytes that are live, at most, what the interpreter keeps for it, and the extra work."""

    region: _Region
    strips: tuple[_Strip, ...]
    live: int
    kept: int
    planned: int
    work: int


def _regions(file: NamedTensors, live: Sequence[int], *, above: int) -> Iterator[_Region]:
    """Yield the regions in which more than so many bytes are live."""
    graph = file.graph
    described = [_row_operator(file, operator) for operator in graph.operators]
    last = dict.fromkeys(indices_of(graph.outputs), len(described))
    for number, operator in enumerate(graph.operators):
        last.update({index: max(number, last.get(index, 0)) for index in inputs_of(operator)})
    for place, first in enumerate(described):
        operators: list[_RowOperator] = []
        made: dict[int, int] = {}
        for number, each in enumerate(described[place : place + _MOST_IN_STRIPS], place):
            if first is None or each is None or len(first.sources) > 1 or {*each.sources} - {*made, *first.sources}:
                break
            operators.append(each)
            made[each.output] = last.get(each.output, 0)
            later = [index for index, reader in made.items() if reader > number]
            if later == [each.output] and max(live[place : number + 1]) > above and each.heights[1] > 1:
                (source,) = first.sources
                beside = live[place] - _bytes(file.tensors[source]) - _bytes(file.tensors[first.output])
                yield _Region(place, tuple(operators), source, beside, last[source] > number)


def _strip(region: _Region, wanted: tuple[int, int]) -> _Strip | None:
    """Return the fewest rows that make some rows of a region's output; None if these are all rows."""
    needs = {region.operators[-1].output: wanted}
    for each in reversed(region.operators):
        start, stop = each.needed(needs[each.output])
        for index in each.sources:
            known = needs.get(index, (start, stop))
            needs[index] = min(known[0], start), max(known[1], stop)
    (start, stop), height = needs[region.source], region.operators[0].heights[0]
    for slack in range(_MOST_SLACK):
        for before in range(min(slack, start) + 1):
            taken = start - before, stop + slack - before
            if taken[1] > height or taken == (0, height):
                continue
            rows = _rows_made(region, taken)
            if rows and rows[-1].first <= wanted[0] and wanted[1] <= rows[-1].last:
                return _Strip(wanted, taken, rows)
    return None


def _rows_made(region: _Region, taken: tuple[int, int]) -> tuple[_Rows, ...]:
    """Return the rows that each operator makes of some rows of the source; none if they do not fit together."""
    known = {region.source: _Rows(*taken, *taken)}
    for each in region.operators:
        ends = [each.made(known[index]) for index in each.sources]
        if None in ends or len({(end.start, end.stop) for end in ends if end is not None}) > 1:
            return ()
        known[each.output] = _Rows(
            ends[0].start, ends[0].stop, max(end.first for end in ends), min(end.last for end in ends)
        )
    return tuple(known[each.output] for each in region.operators)


def _split(file: NamedTensors, region: _Region, count: int) -> _Split | None:
    """Describe a region in so many strips; None if they cannot be."""
    operators, height = region.operators, region.operators[-1].heights[1]
    bounds = np.linspace(0, height, count + 1).round().astype(int).tolist()
    strips = [strip for ends in zip(bounds, bounds[1:], strict=False) if (strip := _strip(region, ends)) is not None]
    if len(strips) < count:
        return None
    output, source = file.tensors[operators[-1].output], _bytes(file.tensors[region.source])
    joined, live = region.beside, 0
    for strip in strips:
        ahead = joined + (0 if strip is strips[-1] and not region.stays else source)
        inside, piece = _live_in_strip(file, region, strip), _bytes_of_rows(output, strip.wanted)
        live = max(live, joined + source + inside[0], ahead + max(inside[1:]))
        joined += piece
    live = max(live, joined + _bytes(output) + (source if region.stays else 0))
    work = sum(
        each.work * (sum(strip.rows[number].stop - strip.rows[number].start for strip in strips) - each.heights[1])
        for number, each in enumerate(operators)
    )
    slices = sum(1 + strip.is_trimmed for strip in strips)
    kept = (count - 1) * sum(each.kept for each in operators) + (slices + 1) * _SLICE_BYTES
    return _Split(region, tuple(strips), live, kept, (count - 1) * len(operators) + slices * 2, work)


def _live_in_strip(file: NamedTensors, region: _Region, strip: _Strip) -> list[int]:
    """Return the bytes of a strip that are live while its rows are taken, at each operator, and at the end."""
    operators = region.operators
    last = {index: number for number, each in enumerate(operators, 1) for index in each.sources}
    last[operators[-1].output] = len(operators) + strip.is_trimmed
    spans = [(0, last[region.source], _bytes_of_rows(file.tensors[region.source], strip.taken))]
    for number, (each, rows) in enumerate(zip(operators, strip.rows, strict=True), 1):
        size = _bytes_of_rows(file.tensors[each.output], (rows.start, rows.stop))
        spans.append((number, last[each.output], size))
    if strip.is_trimmed:
        size = _bytes_of_rows(file.tensors[operators[-1].output], strip.wanted)
        spans.append((len(operators) + 1, len(operators) + 1, size))
    return [
        sum(size for first, end, size in spans if first <= step <= end)
        for step in range(len(operators) + 1 + strip.is_trimmed)
    ]


def _bytes_of_rows(tensor: schema.TensorT, rows: tuple[int, int]) -> int:
    return _aligned(_size(tensor) // int(tensor.shape[1]) * (rows[1] - rows[0]))


@dataclass(frozen=True)
class _Plan:
    """Regions that run strip by strip.

    Attributes:
        splits: The regions.
        live: The bytes of tensors that are live at once, at most.
        total: These, or what planning takes if that is more, and what is kept.
        work: The multiplications that are done twice, and more often.
    """

    splits: tuple[_Split, ...]
    live: int
    total: int
    work: int


def _plan(
    live: Sequence[int], splits: Sequence[_Split], *, cap: int, price: Callable[[_Split], float]
) -> list[_Split] | None:
    """Choose regions side by side such that at most `cap` bytes are live, at the lowest price; None if there are none."""
    ahead: list[tuple[float, list[_Split]] | None] = [(0.0, [])]
    for number, size in enumerate(live, 1):
        ways = [ahead[-1]] if size <= cap else []
        for split in splits:
            before = ahead[split.region.place] if split.region.end == number and split.live <= cap else None
            if before is not None:
                ways.append((before[0] + price(split), [*before[1], split]))
        ahead.append(min((way for way in ways if way is not None), key=lambda way: way[0], default=None))
    return None if ahead[-1] is None else ahead[-1][1]


def split_rows(model: schema.ModelT, *, room: int, planning: int) -> float:
    """Let layers run strip by strip along an image, such that less is live, for the same outputs and more work.

    A strip takes those rows of the image that it needs, and the last operator joins the rows of all strips. Rows
    at the cut are computed by both neighbors. Operators get the padding that they have; the rows that come out
    wrong at a cut are left out at the end.

    Args:
        model: The model, whose first graph is changed.
        room: The bytes that the interpreter has for tensors, and for what it keeps more than for this graph. Among
            the graphs that keep to it, the one with the least work is taken, else the one that takes the least.
        planning: The bytes that laying out the tensors of this graph takes.

    Returns:
        The additional multiplications, as a fraction of those of the graph; 0 if nothing was changed.
    """
    file = NamedTensors(model)
    live, work = _live(file.graph)[0], _work(file)
    regions = [*_regions(file, live, above=min(room, max(live) // 2))]
    splits = [
        split
        for region in regions
        for count in range(2, min(_MOST_STRIPS, region.operators[-1].heights[1]) + 1)
        if (split := _split(file, region, count)) is not None and split.work <= _MOST_EXTRA_WORK * work
    ]
    best = _best_plan(live, splits, room=room, planning=planning, most=int(_MOST_EXTRA_WORK * work))
    for split in reversed(best.splits):
        _write_strips(file, split)
    return best.work / work if work else 0.0


def _best_plan(live: Sequence[int], splits: Sequence[_Split], *, room: int, planning: int, most: int) -> _Plan:
    plans = [_Plan((), max(live), max(*live, planning), 0)]
    prices: list[Callable[[_Split], float]] = [
        lambda split: split.work,
        lambda split: split.kept,
        lambda split: split.work / max(1, most) + split.kept / max(1, max(live)),
    ]
    for cap in sorted({split.live for split in splits if split.live < max(live)}):
        for price in prices:
            chosen = _plan(live, splits, cap=cap, price=price)
            if chosen is None:
                break
            kept, planned = sum(split.kept for split in chosen), sum(split.planned for split in chosen)
            work = sum(split.work for split in chosen)
            if work <= most:
                total = max(cap, planning + planned * _PLANNED_BYTES) + kept
                plans.append(_Plan(tuple(chosen), cap, total, work))
    return min(plans, key=lambda plan: (max(plan.total, room), plan.work, plan.total))


def _work(file: NamedTensors) -> int:
    """Return the multiplications of a graph, about."""
    total = 0
    for operator in file.graph.operators:
        each = _row_operator(file, operator)
        if each is not None:
            total += each.work * each.heights[1]
        elif file.kind(operator) in _CUT:
            total += math.prod(_shape(file.tensors[inputs_of(operator)[1]]))
    return total


def _write_strips(file: NamedTensors, split: _Split) -> None:
    """Put strips in the place of a region."""
    region, graph, output = split.region, file.graph, split.region.operators[-1].output
    added: list[schema.OperatorT] = []
    pieces: list[int] = []

    def like(index: int, rows: tuple[int, int]) -> int:
        shape = np.array(graph.tensors[index].shape, np.int32)
        shape[1] = rows[1] - rows[0]
        return add_tensor(graph, graph.tensors[index], shape=shape, shapeSignature=None, name=b"", buffer=0)

    for strip in split.strips:
        known = {region.source: like(region.source, strip.taken)}
        added.append(_row_slice(file, region.source, known[region.source], strip.taken))
        rows_of = {region.source: _Rows(*strip.taken, *strip.taken)}
        for each, rows in zip(region.operators, strip.rows, strict=True):
            known[each.output], rows_of[each.output] = like(each.output, (rows.start, rows.stop)), rows
            part = copy.copy(each.operator)
            inputs = [known.get(index, index) for index in inputs_of(part)]
            if each.margins:
                margins = file.constant(inputs[1])
                margins[1] = each.added(rows_of[each.sources[0]])
                inputs[1] = add_constant(file.model, graph, name=b"", values=margins)
            part.inputs, part.outputs = np.array(inputs, np.int32), np.array([known[each.output]], np.int32)
            added.append(part)
        pieces.append(known[output])
        if strip.is_trimmed:
            start = strip.rows[-1].start
            pieces.append(like(output, strip.wanted))
            bounds = strip.wanted[0] - start, strip.wanted[1] - start
            added.append(_row_slice(file, pieces.pop(-2), pieces[-1], bounds))
    options = schema.ConcatenationOptionsT(axis=1)
    added.append(_new_operator(file.model, "CONCATENATION", pieces, output, options))
    graph.operators[region.place : region.end] = added


def _row_slice(file: NamedTensors, source: int, output: int, rows: tuple[int, int]) -> schema.OperatorT:
    bounds = [_numbers(file, [0, row, 0, 0]) for row in rows] + [_numbers(file, [1, 1, 1, 1])]
    options = schema.StridedSliceOptionsT(beginMask=_NOT_ROWS, endMask=_NOT_ROWS)
    return _new_operator(file.model, "STRIDED_SLICE", [source, *bounds], output, options)


def _numbers(file: NamedTensors, values: Sequence[int]) -> int:
    return add_constant(file.model, file.graph, name=b"", values=np.array(values, np.int32))


def _new_operator(
    model: schema.ModelT, name: str, inputs: Sequence[int], output: int, options: Any
) -> schema.OperatorT:
    index = operator_code(model, getattr(schema.BuiltinOperator, name))
    model.operatorCodes[index].version = max(model.operatorCodes[index].version, _INTEGERS_SINCE)
    return schema.OperatorT(
        opcodeIndex=index,
        inputs=np.array(inputs, np.int32),
        outputs=np.array([output], np.int32),
        builtinOptionsType=getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T")),
        builtinOptions=options,
    )
