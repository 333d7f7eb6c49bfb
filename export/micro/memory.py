"""The RAM that a file takes: weights that are unpacked there, and how to take less, with images strip by strip."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from tfprune.export.micro.interpreter import (
    aligned,
    arena_bytes,
    kept_bytes,
    largest_live,
    layout_bytes,
    live_bytes,
    shape_of,
    tensor_bytes,
)

# The layers of a graph whose weights can be unpacked while the model runs, and what is live beside them.

# The axis of the weight along which the outputs lie; None where parts of a layer cannot be joined.
_CUT = {"CONV_2D": 0, "FULLY_CONNECTED": 0, "DEPTHWISE_CONV_2D": 3, "TRANSPOSE_CONV": None}
_BY_CHANNEL = "DEPTHWISE_CONV_2D"  # where a part of the outputs needs a part of the input
_TYPES: dict[int, Any] = {0: np.dtype("<f4"), 7: np.dtype("<i2"), 9: np.dtype("i1")}  # by the format's number


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
    live, freed = live_bytes(graph)
    readers, takers = _other_readers(model), Counter(_weights_read(model, graph))
    layers = []
    for number, operator in enumerate(graph.operators):
        kind, inputs = operator_name(model, operator), inputs_of(operator)
        if kind not in _CUT or not _is_constant(model, graph, inputs[1]):
            continue
        tensor = graph.tensors[inputs[1]]
        dtype = _TYPES.get(tensor.type)
        if dtype is None or len(shape_of(tensor)) < 2:
            continue
        values = np.asarray(model.buffers[tensor.buffer].data).view(dtype).reshape(shape_of(tensor))
        reason = _refusal(model, tensor) or readers.get(tensor.buffer, "")
        source = graph.tensors[inputs[0]]
        pieces = _most_pieces(kind, source, values) if takers[tensor.buffer] == 1 else 1
        output = sum(tensor_bytes(graph.tensors[index]) for index in indices_of(operator.outputs))
        name = (tensor.name or b"").decode("utf-8", "replace")
        sizes = tensor_bytes(source) if kind == _BY_CHANNEL else 0, live[number], freed[number], output
        layers.append(Layer(operator, kind, name, inputs[1], tensor.buffer, values, pieces, *sizes, reason))
    return layers


def _is_constant(model: schema.ModelT, graph: schema.SubGraphT, index: int) -> bool:
    data = model.buffers[graph.tensors[index].buffer].data if index >= 0 else None
    return data is not None and len(data) > 0


def _most_pieces(kind: str, source: schema.TensorT, values: np.ndarray) -> int:
    """Return into how many parts a layer can be cut; where each takes a part of the input, by its channels."""
    channels = shape_of(source)[-1:]
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
    if scales > 1 and quantization.quantizedDimension not in (0, len(shape_of(tensor)) - 1):
        return "its scales lie along a dimension that DECODE does not know"
    if any(entry.buffer == tensor.buffer for entry in model.metadata or ()):
        return "metadata name its values"
    return ""


# Put DECODE in front of layers, and cut large layers into parts whose weights are unpacked one after the other.

_MAX_CONCATENATED = 10  # tensors that the interpreter's CONCATENATION takes, at most
_INTEGERS_SINCE = 2  # the version of operators that move values that takes int8


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
        output = add_tensor(self._graph, tensor, shape=shape, shapeSignature=None, name=b"")
        return _new_operator(self._model, "SLICE", [source, *constants], output, schema.SliceOptionsT())

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
        axis = len(self._graph.tensors[output].shape) - 1
        return _new_operator(self._model, "CONCATENATION", parts, output, schema.ConcatenationOptionsT(axis=axis))

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


def become(
    model: schema.ModelT, operator: schema.OperatorT, *, name: str, inputs: Sequence[int], options: Any
) -> None:
    """Change an operator of a model into the one of a name, with the same outputs."""
    operator.opcodeIndex = operator_code(model, getattr(schema.BuiltinOperator, name))
    code = model.operatorCodes[operator.opcodeIndex]
    code.version = max(code.version, _INTEGERS_SINCE)
    operator.inputs = np.array(inputs, np.int32)
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
    operator.builtinOptions = options


# Take less RAM for the same outputs, bit for bit: fewer operators, in an order that keeps less alive.

_SLICES = ("STRIDED_SLICE", "SLICE")
_VARIABLES = ("READ_VARIABLE", "ASSIGN_VARIABLE")
_RUN_GRAPHS = ("CALL_ONCE", "IF", "WHILE")  # may read and set variables
_SPLIT_SAVES = 64  # bytes that the interpreter keeps less for SPLIT_V than for a slice, about
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
    """Let SPLIT_V do what a slice does that takes one end of an axis, where the other end does not need more."""
    before, size = copy.copy(operator), layout_bytes(file.graph)
    source, ranges = file.tensors[inputs_of(operator)[0]], _taken(file, operator)
    pairs = [*zip(ranges, map(int, source.shape), strict=False)]
    axes = [axis for axis, (span, length) in enumerate(pairs) if len(span) < length]
    if len(axes) != 1 or not len(ranges[axes[0]]):
        return
    (axis,) = axes
    span, length = pairs[axis]
    if span.start and span.stop < length:
        return
    sizes = [length - len(span), len(span)] if span.start else [len(span), length - len(span)]
    shape = np.array(source.shape, np.int32)
    shape[axis] = length - len(span)
    rest = add_tensor(file.graph, source, shape=shape, shapeSignature=None, name=b"")
    outputs = [rest, *operator.outputs] if span.start else [*operator.outputs, rest]
    constants = [
        add_constant(file.model, file.graph, name=b"", values=np.array(values, np.int32)) for values in (sizes, axis)
    ]
    inputs, options = [inputs_of(operator)[0], *constants], schema.SplitVOptionsT(numSplits=2)
    become(file.model, operator, name="SPLIT_V", inputs=inputs, options=options)
    operator.outputs = np.array(outputs, np.int32)
    if layout_bytes(file.graph) > size + _SPLIT_SAVES:
        vars(operator).update(vars(before))


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
                key = np.asarray(data).tobytes(), shape_of(tensor)
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
    old = [split, joint, *(operator for branch in branches for operator in branch.operators)]
    if is_split and is_joint and is_alike and not is_large and _is_closed(file, old, output):
        whole = copy.copy(branches[0].operators[0])
        whole.inputs = np.array([source, *_joined_constants(file, branches, kernel)], np.int32)
        whole.outputs = np.array([output], np.int32)
        operators = [whole if each is joint else each for each in file.graph.operators]
        file.graph.operators = [each for each in operators if not any(each is other for other in old)]


def _is_closed(file: NamedTensors, operators: Sequence[schema.OperatorT], output: int) -> bool:
    """Return True if nothing but one of the operators takes what they make, each once, except an output."""
    takers = Counter(index for each in file.graph.operators for index in inputs_of(each))
    takers.update(indices_of(file.graph.outputs))
    inside = [index for each in operators for index in indices_of(each.outputs) if index != output]
    return all(takers[index] == 1 for index in inside)


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


# Take less RAM for more work: layers run strip by strip along an image, as in patches of MCUNetV2 (arXiv 2110.15352).

_WINDOWS = ("CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D")
_MARGINS = ("PAD", "PADV2")
_ROW_BY_ROW = (
    *("ABS", "ADD", "CONCATENATION", "DEQUANTIZE", "DIV", "ELU", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "MAXIMUM"),
    *("MINIMUM", "MUL", "NEG", "PRELU", "QUANTIZE", "RELU", "RELU6", "SUB", "TANH"),
)
_NOT_ROWS = 0b1101  # the axes of an image that a slice of rows takes whole
_MOST_OPERATORS = 24  # that run strip by strip, one after the other
_MOST_SLACK = 16  # rows by which a strip grows until its rows lie where the steps of strided windows begin
_MOST_EXTRA_WORK = 0.3  # of the multiplications of the file: what is computed twice, where strips overlap


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
        heights: The rows of these, and of the image that it makes.
        work: The multiplications for a row of what it makes.
        size: How many rows it sees for each row of that.
        step: The rows from one of these windows to the next.
        pads: Whether it adds rows as SAME does.
        margins: The rows that a PAD adds in front and behind; empty for other operators.
    """

    operator: schema.OperatorT
    sources: tuple[int, ...]
    heights: tuple[int, int]
    work: int
    size: int = 1
    step: int = 1
    pads: bool = False
    margins: tuple[int, ...] = ()

    @property
    def output(self) -> int:
        return int(self.operator.outputs[0])

    def needed(self, start: int, stop: int) -> tuple[int, int]:
        """Return the rows of the sources that some rows of the output need."""
        front = self._ahead(self.heights[0])
        first = min(max(start * self.step - front, 0), self.heights[0] - 1)
        return first, max(min((stop - 1) * self.step - front + self.size, self.heights[0]), first + 1)

    def added(self, rows: _Rows) -> tuple[int, ...]:
        """Return the margins of a strip: those of the image, where the strip reaches its ends."""
        ends = rows.start == 0, rows.stop == self.heights[0]
        return tuple(margin if is_end else 0 for margin, is_end in zip(self.margins, ends, strict=False))

    def made(self, rows: _Rows) -> _Rows | None:
        """Return the rows of the output that it makes of a strip; None where windows do not begin as in the image."""
        length, front = rows.stop - rows.start + sum(self.added(rows)), self._ahead(self.heights[0])
        ahead = self.added(rows)[0] if self.margins else self._ahead(length)
        count = -(-length // self.step) if self.pads else (length - self.size) // self.step + 1
        start, rest = divmod(rows.start + front - ahead, self.step)
        if rest or count < 1 or not 0 <= start <= start + count <= self.heights[1]:
            return None
        # At the ends of the image all is as in the image; elsewhere a window has to see right rows only.
        first = start if rows.first == 0 else max(start, -(-(rows.first + front) // self.step))
        last = (rows.last + front - self.size) // self.step + 1
        last = start + count if rows.last == self.heights[0] else min(start + count, last)
        return _Rows(start, start + count, first, last)

    def _ahead(self, rows: int) -> int:
        """Return how many rows are added in front of so many."""
        if self.margins:
            return self.margins[0]
        return max(0, (-(-rows // self.step) - 1) * self.step + self.size - rows) // 2 if self.pads else 0


def _row_operator(file: NamedTensors, operator: schema.OperatorT) -> _RowOperator | None:
    """Describe an operator that can run on some rows of an image; None for others."""
    kind, inputs = file.kind(operator), [index for index in inputs_of(operator) if index >= 0]
    if kind not in (*_WINDOWS, *_MARGINS, *_ROW_BY_ROW):
        return None
    constants = [index for index in inputs if _is_constant(file.model, file.graph, index)]
    sources = tuple(dict.fromkeys(index for index in inputs if index not in constants))
    shapes = [shape_of(file.tensors[index]) for index in (*sources, int(operator.outputs[0]))]
    if not sources or any(len(shape) != 4 or shape[0] != 1 for shape in shapes):
        return None
    options, size = operator.builtinOptions, math.prod(shapes[-1][2:])
    described = _RowOperator(operator, sources, (shapes[0][1], shapes[-1][1]), size)
    if kind in _ROW_BY_ROW:
        is_tall = any(length > 1 for index in constants for length in shape_of(file.tensors[index])[-3:-2])
        is_joint = kind == "CONCATENATION" and (constants or options.axis % 4 < 2)
        return None if is_tall or is_joint or len({shape[1] for shape in shapes}) > 1 else described
    if len(sources) > 1 or inputs[0] != sources[0]:
        return None
    if kind in _MARGINS:
        margins = file.constant(inputs[1])
        if margins is None or margins.shape != (4, 2) or margins[0].any():
            return None
        return replace(described, margins=tuple(margins[1].tolist()))
    if kind in _CUT:
        filters, dilation = shape_of(file.tensors[inputs[1]]), options.dilationHFactor
        rows, taps = filters[1], math.prod(filters[1:3] if kind == _BY_CHANNEL else filters[1:])
    else:
        rows, dilation, taps = options.filterHeight, 1, options.filterHeight * options.filterWidth
    pads, reach = options.padding == schema.Padding.SAME, (rows - 1) * dilation + 1
    return replace(described, work=size * taps, size=reach, step=options.strideH, pads=pads)


@dataclass(frozen=True)
class _Region:
    """Operators that follow each other, of which the first takes one image, and only the last one's is taken later.

    Attributes:
        place: The number of the first operator.
        operators: The operators.
    """

    place: int
    operators: tuple[_RowOperator, ...]

    @property
    def source(self) -> int:
        return self.operators[0].sources[0]

    @property
    def output(self) -> int:
        return self.operators[-1].output


def _regions(file: NamedTensors) -> Iterator[_Region]:
    """Yield the regions of a graph that can run strip by strip."""
    described = [_row_operator(file, operator) for operator in file.graph.operators]
    last = {index: number for number, each in enumerate(file.graph.operators) for index in inputs_of(each)}
    last.update(dict.fromkeys(indices_of(file.graph.outputs), len(described)))
    for place, first in enumerate(described):
        operators: list[_RowOperator] = []
        made: set[int] = set()
        for number, each in enumerate(described[place : place + _MOST_OPERATORS], place):
            if first is None or each is None or len(first.sources) > 1 or {*each.sources} - {*first.sources, *made}:
                break
            operators.append(each)
            made.add(each.output)
            ends = [file.tensors[index].type in _TYPES for index in (*first.sources, each.output)]
            if all(ends) and {index for index in made if last.get(index, 0) > number} == {each.output}:
                yield _Region(place, tuple(operators))


@dataclass(frozen=True, eq=False)
class _Strips:
    """A region in strips.

    Attributes:
        region: The region.
        end: The number of the operator behind it.
        wanted: The rows of its output that each strip gives.
        rows: The rows of each image in each strip, by the tensor.
        work: The multiplications that are done again.
        live: Bytes that are live, at most, while it runs.
        kept: Bytes that the interpreter keeps more than before.
    """

    region: _Region
    end: int
    wanted: tuple[tuple[int, int], ...]
    rows: tuple[dict[int, _Rows], ...]
    work: int
    live: int = 0
    kept: int = 0

    def write(self, file: NamedTensors) -> list[schema.OperatorT]:
        """Add tensors for the strips to a file, and return the operators that make them."""
        added: list[schema.OperatorT] = []
        pieces: list[int] = []
        for (start, stop), rows in zip(self.wanted, self.rows, strict=True):
            added += self._strip(file, rows)
            pieces.append(int(added[-1].outputs[0]))
            made = rows[self.region.output]
            if (start, stop) != (made.start, made.stop):
                added.append(_row_slice(file, pieces[-1], start - made.start, stop - made.start))
                pieces[-1] = int(added[-1].outputs[0])
        options = schema.ConcatenationOptionsT(axis=1)
        return [*added, _new_operator(file.model, "CONCATENATION", pieces, self.region.output, options)]

    def _strip(self, file: NamedTensors, rows: dict[int, _Rows]) -> Iterator[schema.OperatorT]:
        source = self.region.source
        yield (first := _row_slice(file, source, rows[source].start, rows[source].stop))
        tensors = {source: int(first.outputs[0])}
        for each in self.region.operators:
            tensors[each.output] = _with_rows(file, each.output, rows[each.output].start, rows[each.output].stop)
            inputs = [tensors.get(index, index) for index in inputs_of(each.operator)]
            margins = file.constant(inputs[1]) if each.margins else None
            if margins is not None:
                margins[1] = each.added(rows[each.sources[0]])
                inputs[1] = add_constant(file.model, file.graph, name=b"", values=margins)
            part = copy.copy(each.operator)
            part.inputs, part.outputs = np.array(inputs, np.int32), np.array([tensors[each.output]], np.int32)
            yield part


def _with_rows(file: NamedTensors, index: int, start: int, stop: int) -> int:
    """Add a tensor for some rows of an image."""
    tensor = file.tensors[index]
    shape = np.array([1, stop - start, *tensor.shape[2:]], np.int32)
    return add_tensor(file.graph, tensor, shape=shape, shapeSignature=None, name=b"", buffer=0)


def _row_slice(file: NamedTensors, source: int, start: int, stop: int) -> schema.OperatorT:
    values = [0, start, 0, 0], [0, stop, 0, 0], [1, 1, 1, 1]
    bounds = [add_constant(file.model, file.graph, name=b"", values=np.array(each, np.int32)) for each in values]
    options = schema.StridedSliceOptionsT(beginMask=_NOT_ROWS, endMask=_NOT_ROWS)
    output = _with_rows(file, source, start, stop)
    return _new_operator(file.model, "STRIDED_SLICE", [source, *bounds], output, options)


def _new_operator(
    model: schema.ModelT, name: str, inputs: Sequence[int], output: int, options: Any
) -> schema.OperatorT:
    operator = schema.OperatorT(outputs=np.array([output], np.int32))
    become(model, operator, name=name, inputs=inputs, options=options)
    return operator


def _rows_in_strip(region: _Region, start: int, stop: int) -> dict[int, _Rows]:
    """Return the fewest rows of each image that make some of the output, by tensor; none if these are all rows."""
    needs = {region.output: (start, stop)}
    for each in reversed(region.operators):
        ends = each.needed(*needs[each.output])
        for index in each.sources:
            known = needs.get(index, ends)
            needs[index] = min(known[0], ends[0]), max(known[1], ends[1])
    (first, last), height = needs[region.source], region.operators[0].heights[0]
    for slack in range(_MOST_SLACK):
        for ahead in range(min(slack, first) + 1):
            taken = first - ahead, last + slack - ahead
            if taken[1] <= height and taken != (0, height):
                rows = _rows_made(region, _Rows(*taken, *taken))
                made = rows.get(region.output)
                if made and made.first <= start and stop <= made.last:
                    return rows
    return {}


def _rows_made(region: _Region, taken: _Rows) -> dict[int, _Rows]:
    """Return the rows that operators make of some of the source; none if those that meet are not the same."""
    rows = {region.source: taken}
    for each in region.operators:
        ends = [made for index in each.sources if (made := each.made(rows[index]))]
        if len(ends) < len(each.sources) or len({(made.start, made.stop) for made in ends}) > 1:
            return {}
        right = max(made.first for made in ends), min(made.last for made in ends)
        rows[each.output] = _Rows(ends[0].start, ends[0].stop, *right)
    return rows


def _in_strips(file: NamedTensors, region: _Region, count: int, most: float) -> _Strips | None:
    """Describe a region in so many strips; None if they cannot be, or are too much work."""
    bounds = np.linspace(0, region.operators[-1].heights[1], count + 1).round().astype(int).tolist()
    wanted = [*zip(bounds, bounds[1:], strict=False)]
    rows = [rows for start, stop in wanted if (rows := _rows_in_strip(region, start, stop))]
    work = sum(
        each.work * (sum(strip[each.output].stop - strip[each.output].start for strip in rows) - each.heights[1])
        for each in region.operators
    )
    if len(rows) < count or work > most:
        return None
    strips = _Strips(region, region.place + len(region.operators), tuple(wanted), tuple(rows), work)
    graph, more = _with_strips(file, [strips]), len(file.graph.operators) - strips.end
    live = live_bytes(graph)[0][region.place : len(graph.operators) - more]
    return replace(strips, live=max(live), kept=kept_bytes(file.model, graph) - kept_bytes(file.model, file.graph))


def _with_strips(file: NamedTensors, plan: Sequence[_Strips]) -> schema.SubGraphT:
    """Return the graph of a file with regions in strips; the file stays as it is."""
    graph, sizes = copy.copy(file.graph), (len(file.tensors), len(file.model.buffers))
    graph.operators = [*file.graph.operators]
    for strips in reversed(plan):
        graph.operators[strips.region.place : strips.end] = strips.write(file)
    graph.tensors = [*file.tensors]
    del file.tensors[sizes[0] :], file.model.buffers[sizes[1] :]
    return graph


def split_rows(model: schema.ModelT, *, excess: int) -> float | None:
    """Let layers run strip by strip along an image, so that less is live, for the same outputs and more work.

    A strip takes the rows of the image that it needs, and the last operator joins the rows of all strips. Rows that
    several strips need are computed by each. Operators keep their padding: rows that come out wrong where the image
    was cut are computed, and left out.

    Args:
        model: The model, whose first graph is changed.
        excess: Bytes by which the arena is too large. Of the graphs that take so much less, the one with the least
            work is chosen, or if there is none, the one that takes the least.

    Returns:
        The additional multiplications, as a fraction of those that there were; None if nothing was changed.
    """
    file = NamedTensors(model)
    live, target, work = live_bytes(file.graph)[0], arena_bytes(model, file.graph) - excess, _work(file)
    choice = [
        strips
        for region in _regions(file)
        for count in range(2, min(_MAX_CONCATENATED, region.operators[-1].heights[1]) + 1)
        if max(live[region.place : region.place + len(region.operators)]) > min(target, max(live) // 2)
        and (strips := _in_strips(file, region, count, _MOST_EXTRA_WORK * work)) is not None
    ]
    costs: dict[tuple[_Strips, ...], tuple[int, int, int]] = {}
    for plan in ((), *_plans(live, choice, most=_MOST_EXTRA_WORK * work)):
        total = arena_bytes(model, _with_strips(file, plan))
        costs[plan] = max(target, total), sum(strips.work for strips in plan), total
    best = min(costs, key=lambda plan: costs[plan])
    for strips in reversed(best):
        file.graph.operators[strips.region.place : strips.end] = strips.write(file)
    for operator in [each for each in file.graph.operators if best and file.kind(each) in _SLICES[:1]]:
        _split_off(NamedTensors(model), operator)
    _share_numbers(model, file.graph)
    return costs[best][1] / max(1, work) if best else None


def _work(file: NamedTensors) -> int:
    """Return the multiplications of a graph, about."""
    total = 0
    for operator in file.graph.operators:
        each = _row_operator(file, operator)
        if each is not None:
            total += each.work * each.heights[1]
        elif file.kind(operator) in _CUT:
            total += math.prod(shape_of(file.tensors[inputs_of(operator)[1]]))
    return total


def _plans(live: Sequence[int], choice: Sequence[_Strips], *, most: float) -> Iterator[tuple[_Strips, ...]]:
    """Yield regions for less and less bytes that are live: of little work, or few operators, or some of both."""
    prices: tuple[Callable[[_Strips], float], ...] = (
        lambda strips: strips.work,
        lambda strips: strips.kept,
        lambda strips: strips.work / max(1, most) + strips.kept / max(live),
    )
    for cap in sorted({strips.live for strips in choice if strips.live < max(live)}):
        ends: dict[int, list[_Strips]] = {}
        for strips in choice:
            if strips.live <= cap:
                ends.setdefault(strips.end, []).append(strips)
        for price in prices:
            plan = _cheapest([size <= cap for size in live], ends, price)
            if sum(strips.work for strips in plan) <= most:
                yield plan


def _cheapest(
    fits: Sequence[bool], ends: Mapping[int, Sequence[_Strips]], price: Callable[[_Strips], float]
) -> tuple[_Strips, ...]:
    """Return the regions of the lowest price beside which all operators fit; none if there are none."""
    ways: list[tuple[float, tuple[_Strips, ...]]] = [(0.0, ())]  # to each operator
    for number, is_small in enumerate(fits, 1):
        ahead = [ways[-1]] if is_small else []
        for strips in ends.get(number, ()):
            cost, before = ways[strips.region.place]
            ahead.append((cost + price(strips), (*before, strips)))
        ways.append(min(ahead, key=lambda way: way[0], default=(math.inf, ())))
    return ways[-1][1] if ways[-1][0] < math.inf else ()
