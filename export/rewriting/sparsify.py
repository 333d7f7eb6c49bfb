"""Sparsify: store zeros of weights as what they are, nothing; which may be sparse, and what unpacks them."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_number
from tfprune.export.file import schema
from tfprune.export.file.container import Source
from tfprune.export.file.document import (
    QUANTIZED,
    REDUCED_PRECISION,
    add_operator,
    add_tensor,
    add_values,
    builtin_code,
    drop_hash,
    indices_of,
    inputs_of,
    numbers_operators,
    operator_name,
)
from tfprune.export.file.model_file import ModelFile, fitting
from tfprune.export.file.reader import Model, Operator, Subgraph, Tensor
from tfprune.export.file.report import fraction_of_zeros, shape_text
from tfprune.export.file.sparse_tensors import TensorValues
from tfprune.export.rewriting.shapes import make_pointwise, pointwise_refusal, scales_of
from tfprune.report import Report, table

# Which weights of a .tflite file may be stored sparse: those whose operators take what DENSIFY unpacks.

_Users = dict[int, list[tuple[Operator, int]]]  # operators and their slots, by the tensor that they take

# Where an operator has its weight, and where the activations that tell in which type it computes.
_WEIGHT = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 1,
    "FULLY_CONNECTED": 1,
    "TRANSPOSE_CONV": 1,
    "BATCH_MATMUL": 1,
    "GATHER": 0,
    "EMBEDDING_LOOKUP": 1,
}
_ACTIVATION = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 0, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 2, "BATCH_MATMUL": 0}
# XNNPACK unpacks what stands before DEQUANTIZE for its own operators only: others would read memory never written.
_CHAINED = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
INTEGER = "FULLY_CONNECTED takes no unpacked weights where it computes in int8"
TYPES = ("float32", "float16", "int8")  # those that DENSIFY unpacks


@dataclass(frozen=True)
class _WeightUse:
    """A constant tensor of rank 2 or more in one graph, and what its operators allow.

    Attributes:
        tensor: Its index in the graph.
        hybrid: True when its operators compute in float32 with its 8-bit values.
        native: True when all its operators have a kernel for blocks.
        pointwise: True when its operators have to become 1x1 convolutions first.
        reason: Why it has to stay dense; empty when it may be sparse.
    """

    tensor: int
    hybrid: bool
    native: bool
    pointwise: bool
    reason: str


def _weight_uses(graph: Subgraph) -> list[_WeightUse]:
    """Find the weights of a graph, and say of each whether it may be sparse.

    Args:
        graph: A graph as `reader.read` describes it.

    Returns:
        One entry for each constant tensor of rank 2 or more that holds real numbers and is not sparse already.
    """
    users: _Users = defaultdict(list)
    for operator in graph.operators:
        for slot, tensor in enumerate(operator.inputs):
            users[tensor].append((operator, slot))
    return [
        _weight_use(graph, number, users)
        for number, tensor in enumerate(graph.tensors)
        if tensor.weight and not tensor.sparse
    ]


def has_hybrid_layers(model: Model) -> bool:
    """Return True if layers compute in float32 with 8-bit weights as they are, as converters write them."""
    return any(
        operator.name in _CHAINED and _is_hybrid(graph, graph.tensors[operator.inputs[1]], operator)
        for graph in model.subgraphs
        for operator in graph.operators
    )


def _weight_use(graph: Subgraph, number: int, users: _Users) -> _WeightUse:
    tensor = graph.tensors[number]
    direct = [end for end in users[number] if end[0].name != "DEQUANTIZE"]
    unpacked = [index for operator, _ in users[number] if operator.name == "DEQUANTIZE" for index in operator.outputs]
    chained = [user for index in unpacked for user in users[index]]
    kinds, border = {operator.name for operator, _ in users[number]}, {*graph.inputs, *graph.outputs}
    mixed = {_is_hybrid(graph, tensor, operator) for operator, _ in users[number]}
    hybrid = mixed == {True}
    connected = kinds == {"FULLY_CONNECTED"} and len(tensor.shape) == 2
    native, pointwise = connected and tensor.dtype == "float32", connected and tensor.dtype == "int8" and not hybrid
    if tensor.dtype not in TYPES:
        reason = f"DENSIFY does not unpack {tensor.dtype}"
    elif {number, *unpacked} & border:
        reason = "it is an input or output of its graph"
    elif not direct + chained:
        reason = "no operator computes with it"
    elif len(mixed) > 1:
        reason = "operators use it in two ways"
    else:
        reason = _refusal_at_ends(direct + chained) or _chain(chained + direct * hybrid)
        reason = reason or ("" if hybrid or pointwise or tensor.dtype != "int8" else _integer(direct))
    return _WeightUse(number, hybrid and kinds <= _CHAINED and number not in border, native, pointwise, reason)


def _refusal_at_ends(ends: list[tuple[Operator, int]]) -> str:
    bad = [operator.name for operator, slot in ends if _WEIGHT.get(operator.name) != slot]
    return f"{bad[0]} may need a constant there" if bad else ""


def _chain(ends: list[tuple[Operator, int]]) -> str:
    bad = [operator.name for operator, _ in ends if operator.name not in _CHAINED]
    return f"{bad[0]} cannot follow DENSIFY and DEQUANTIZE" if bad else ""


def _integer(ends: list[tuple[Operator, int]]) -> str:
    # XNNPACK refuses to load such a file, on every machine.
    if any(operator.name == "FULLY_CONNECTED" for operator, _ in ends):
        return INTEGER
    return ""


def _is_hybrid(graph: Subgraph, tensor: Tensor, operator: Operator) -> bool:
    """Return True if an operator computes in float32 with the 8-bit values of a tensor."""
    slot = _ACTIVATION.get(operator.name, 0)
    if tensor.dtype != "int8" or operator.name not in _ACTIVATION or slot >= len(operator.inputs):
        return False
    return graph.tensors[operator.inputs[slot]].dtype == "float32"


# Sparse forms of one array: the stored values, and where they belong.

_INDEX_TYPES = (np.dtype("<u1"), np.dtype("<u2"), np.dtype("<i4"))  # those that the format has, smallest first
_BLOCK = 4  # entries: the only length for which the runtime has a kernel


@dataclass(frozen=True)
class _SparseEncoding:
    """An array, stored as its runs of non-zero entries.

    The array is walked in `order`; all dimensions are walked in full, but for the last of the order, of which only
    the entries named in `indices` are stored.

    Attributes:
        values: The stored entries, in order.
        order: Dimensions, outermost first.
        segments: Where the entries of each row begin in `indices`, and where the last one ends.
        indices: Indices along the last dimension, counted in blocks.
        block: Consecutive entries of the last dimension that are stored together; 1 for single entries.
    """

    values: np.ndarray
    order: tuple[int, ...]
    segments: np.ndarray
    indices: np.ndarray
    block: int = 1

    @property
    def form(self) -> str:
        """How reports call it."""
        return "csr" if self.block == 1 else "block"

    @property
    def raw(self) -> np.ndarray:
        """The values as plain bytes."""
        return np.ascontiguousarray(self.values).view(np.uint8)

    @property
    def bytes(self) -> int:
        """The bytes of values and indices together."""
        return self.bytes_for(1)

    def bytes_for(self, tensors: int) -> int:
        """Their bytes if several tensors share the values: each tensor has separate indices."""
        return self.values.nbytes + tensors * (self.segments.nbytes + self.indices.nbytes)


def _encode_rows(array: np.ndarray) -> _SparseEncoding:
    """Keep the entries that are not zero, walked in the order that takes the fewest bytes.

    A dimension of at most 256 entries needs one byte for an index, so it can pay to walk another one last.

    Args:
        array: Any numbers, of rank 1 or more.

    Returns:
        The smallest form; of two equal ones that with the later dimension last.

    Example:
        >>> _encode_rows(np.array([[0, 7, 0], [5, 0, 6]], np.int8)).indices
        array([1, 0, 2], dtype=uint8)
    """
    return min((_rows(array, order) for order in _orders(array.shape)), key=lambda encoded: encoded.bytes)


def _encode_blocks(array: np.ndarray) -> _SparseEncoding:
    """Keep the blocks of four entries along the last dimension that are not all zero.

    Args:
        array: Any numbers; the length of the last dimension is a multiple of four.

    Returns:
        The blocks in row-major order.
    """
    blocks = array.reshape(-1, array.shape[-1] // _BLOCK, _BLOCK)
    mask = (blocks != 0).any(axis=-1)
    return _encoded(mask, blocks[mask].ravel(), tuple(range(array.ndim)), _BLOCK)


def _orders(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the orders worth a try: with each dimension last that is longer than one entry."""
    dimensions = range(len(shape))
    for last in [index for index in reversed(dimensions) if shape[index] > 1] or [len(shape) - 1]:
        yield (*(index for index in dimensions if index != last), last)


def _rows(array: np.ndarray, order: tuple[int, ...]) -> _SparseEncoding:
    rows = array.transpose(order).reshape(-1, array.shape[order[-1]])
    mask = rows != 0
    return _encoded(mask, rows[mask], order, 1)


def _encoded(kept: np.ndarray, values: np.ndarray, order: tuple[int, ...], block: int) -> _SparseEncoding:
    segments = np.concatenate([[0], np.cumsum(np.count_nonzero(kept, axis=1))])
    return _SparseEncoding(values, order, _narrow(segments), _narrow(np.nonzero(kept)[1]), block)


def _narrow(numbers: np.ndarray) -> np.ndarray:
    """Store whole numbers in the smallest type that holds them all."""
    most = numbers.max(initial=0)
    return numbers.astype(next(kind for kind in _INDEX_TYPES if most <= np.iinfo(kind).max))


# Put sparse tensors, and the operators that unpack them, into the graphs of a model.

_BLOCKS_SINCE = 8  # version of FULLY_CONNECTED that takes sparse weights
_LAST_OLD_VERSION = 10  # of tflite-runtime 2.14; with 8 and 8-bit weights unpacked, outputs were wrong


class _Rewriter:
    """Changes the weights of one graph.

    The operators that compute with a weight are left as they are: its tensor becomes what new operators make.
    """

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT) -> None:
        self._model = model
        self._graph = graph

    def store(self, tensor: int, encoded: _SparseEncoding) -> None:
        """Make a tensor sparse where it is: its operators have a kernel for that."""
        weight = self._graph.tensors[tensor]
        weight.sparsity = _sparsity(encoded, weight.shape)
        for operator in self._graph.operators:
            if tensor in inputs_of(operator):
                code = self._model.operatorCodes[operator.opcodeIndex]
                code.version = max(code.version, _BLOCKS_SINCE)

    def unpack(self, tensor: int, encoded: _SparseEncoding) -> None:
        """Make a tensor the output of DENSIFY on a sparse one, which takes its buffer."""
        weight = self._graph.tensors[tensor]
        sparse = self._constant(weight, b"/dense", sparsity=_sparsity(encoded, weight.shape))
        add_operator(self._model, self._graph, name="DENSIFY", inputs=[sparse], outputs=[tensor])

    def dequantize(self, tensor: int) -> int:
        """Make an 8-bit tensor the float32 output of DEQUANTIZE; return the index of the 8-bit one."""
        weight = self._graph.tensors[tensor]
        small = self._constant(weight, b"/float32", quantization=weight.quantization)
        weight.quantization, weight.type = None, schema.TensorType.FLOAT32
        add_operator(self._model, self._graph, name="DEQUANTIZE", inputs=[small], outputs=[tensor])
        return small

    def _constant(self, weight: schema.TensorT, suffix: bytes, **fields: Any) -> int:
        """Add a constant that takes a weight's name and buffer; the weight has no values of its own from now on."""
        plain = schema.TensorT(shape=weight.shape, type=weight.type, buffer=weight.buffer, name=weight.name)
        weight.buffer, weight.name = 0, (weight.name or b"") + suffix
        return add_tensor(self._graph, plain, **fields)


def _lower_versions(model: schema.ModelT) -> None:
    """Ask for no newer FULLY_CONNECTED than float32 weights need, so that older interpreters take the file."""
    newer = {
        operator.opcodeIndex
        for graph in model.subgraphs
        for operator in graph.operators or ()
        if any(graph.tensors[tensor].type != schema.TensorType.FLOAT32 for tensor in inputs_of(operator)[1:2])
    }
    for index, code in enumerate(model.operatorCodes):
        if builtin_code(code) == schema.BuiltinOperator.FULLY_CONNECTED and index not in newer:
            code.version = min(code.version, _LAST_OLD_VERSION)


def _sparsity(encoded: _SparseEncoding, shape: Any) -> schema.SparsityParametersT:
    """Describe the walk: all dimensions in full, the last one by its indices, a block's entries in full."""
    walked = [int(shape[dimension]) for dimension in encoded.order[:-1]]
    dimensions = [_full(length) for length in walked] + [_compressed(encoded)]
    order = list(encoded.order)
    blocks = None
    if encoded.block > 1:
        dimensions.append(_full(encoded.block))
        order.append(len(order))
        blocks = np.array(encoded.order[-1:], np.int32)
    return schema.SparsityParametersT(
        traversalOrder=np.array(order, np.int32), blockMap=blocks, dimMetadata=dimensions
    )


def _full(length: int) -> schema.DimensionMetadataT:
    return schema.DimensionMetadataT(format=schema.DimensionType.DENSE, denseSize=length)


def _compressed(encoded: _SparseEncoding) -> schema.DimensionMetadataT:
    segments, indices = _vector(encoded.segments), _vector(encoded.indices)
    return schema.DimensionMetadataT(
        format=schema.DimensionType.SPARSE_CSR,
        arraySegmentsType=segments[0],
        arraySegments=segments[1],
        arrayIndicesType=indices[0],
        arrayIndices=indices[1],
    )


def _vector(numbers: np.ndarray) -> tuple[int, Any]:
    name = {1: "Uint8Vector", 2: "Uint16Vector", 4: "Int32Vector"}[numbers.itemsize]
    return getattr(schema.SparseIndexVector, name), getattr(schema, f"{name}T")(values=numbers)


# Let operators take one tensor where several hold the same values, as each step of an unrolled network has its own.
#
# A sparse tensor has its own indices, so the copies of a weight would cost as much as the weight. And the other way
# round: where the converter lets layers share a bias that means another number to each, each gets one of its own.

_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")  # with a bias as their third input


def merge_constants(model: schema.ModelT) -> bool:
    """Merge constants of one graph that share their values and have the same shape, type and scales.

    Args:
        model: An open file.

    Returns:
        Whether there was something to merge.
    """
    return sum(_merge(model, graph) for graph in model.subgraphs) > 0


def own_biases(model: schema.ModelT) -> bool:
    """Give each 16-bit layer a bias in units of its own: the scale of its input times those of its weight.

    Steps of an unrolled network share a bias, but not the scale of their inputs; the converter writes one bias for
    all of them, in the units of the first.

    Args:
        model: An open file of the converter.

    Returns:
        Whether a bias had to change.
    """
    operators = [(graph, operator) for graph in model.subgraphs for operator in graph.operators or ()]
    return sum(_own_bias(model, graph, operator) for graph, operator in operators) > 0


def _own_bias(model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT) -> bool:
    layers = {getattr(schema.BuiltinOperator, name) for name in _LAYERS}
    widths = {schema.TensorType.INT32: "<i4", schema.TensorType.INT64: "<i8"}
    if builtin_code(model.operatorCodes[operator.opcodeIndex]) not in layers or not (operator.inputs[2:] >= 0).all():
        return False
    source, weight, *others = (graph.tensors[index] for index in operator.inputs)
    if source.type != schema.TensorType.INT16 or not others or others[0].type not in widths:
        return False
    (bias,) = others
    wanted = (source.quantization.scale * weight.quantization.scale).astype(np.float32)
    if np.allclose(bias.quantization.scale, wanted, rtol=1e-5, atol=0):
        return False
    width = widths[bias.type]
    values = np.asarray(model.buffers[bias.buffer].data).view(width) * (bias.quantization.scale / wanted)
    quantization = copy.copy(bias.quantization)
    quantization.scale = wanted
    buffer = add_values(model, np.rint(values).astype(width))
    inputs = operator.inputs.copy()
    inputs[2] = add_tensor(graph, bias, buffer=buffer, quantization=quantization)
    operator.inputs = inputs
    return True


def _merge(model: schema.ModelT, graph: schema.SubGraphT) -> bool:
    border = {*indices_of(graph.inputs), *indices_of(graph.outputs)}
    first: dict[Hashable, int] = {}
    merged = np.arange(len(graph.tensors) + 1, dtype=np.int32)
    merged[-1] = -1  # no tensor
    for index, tensor in enumerate(graph.tensors):
        filled = model.buffers[tensor.buffer].data is not None and len(model.buffers[tensor.buffer].data)
        if filled and index not in border and tensor.sparsity is None and not tensor.isVariable:
            merged[index] = first.setdefault(_identity(tensor), index)
    operators = [operator for operator in graph.operators or () if operator.inputs is not None]
    changed = [operator for operator in operators if (merged[operator.inputs] != operator.inputs).any()]
    for operator in changed:
        operator.inputs = merged[operator.inputs]
    return bool(changed)


def _identity(tensor: schema.TensorT) -> Hashable:
    # Custom quantization is compared by what holds it: it has a form of its own.
    custom = None if tensor.quantization is None else id(tensor.quantization.details or None)
    return tensor.buffer, np.asarray(tensor.shape).tobytes(), custom, scales_of(tensor)


# Put operators that only move values, and that the converter left in float, back among their 8-bit neighbours.
#
# The integer converter may leave such an operator in float when one of its results is unused, as in the first step
# of an unrolled LSTM, which needs no forget gate. That depends on where the converter's objects lie in memory, so
# the same model gives different files from run to run. On integers the outputs are the same, bit for bit.

_INTEGERS_SINCE = 2  # the version of each of `_MOVES` that takes 8-bit values
_MOVES = {"SPLIT": 1, "SPLIT_V": 0, "UNPACK": 0}  # operators with several results, and the index of their input


def join_islands(model: schema.ModelT) -> bool:
    """Let operators that move 8-bit values as float32 move them as integers.

    That is DEQUANTIZE, or an input of the model, then one of `_MOVES`, and QUANTIZE with one scale on all results
    that are taken.

    Args:
        model: An open file of the converter.

    Returns:
        True, also without islands: in canonical order, and without the converter's hash, files that differ by such
        islands become the same bytes.
    """
    for graph in model.subgraphs:
        if graph.operators:
            _Joining(model, graph).apply()
    drop_hash(model)
    return True


class _Joining:
    """Changes one graph."""

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT) -> None:
        self._model = model
        self._graph = graph
        self._inputs = indices_of(graph.inputs)
        self._outputs = {*indices_of(graph.outputs)}
        self._takers: dict[int, list[schema.OperatorT]] = defaultdict(list)
        self._producer: dict[int, schema.OperatorT] = {}
        for operator in graph.operators:
            self._producer.update(dict.fromkeys(indices_of(operator.outputs), operator))
            for index in {*indices_of(operator.inputs)}:
                self._takers[index].append(operator)

    def apply(self) -> None:
        """Join every island of the graph."""
        gone = {id(unneeded) for operator in [*self._graph.operators] for unneeded in self._join(operator)}
        self._graph.operators = [operator for operator in self._graph.operators if id(operator) not in gone]

    def _join(self, operator: schema.OperatorT) -> list[schema.OperatorT]:
        """Let an operator work on integers if it is such an island; return the operators that are then unused."""
        if self._kind(operator) not in _MOVES:
            return []
        floating, results = int(operator.inputs[_MOVES[self._kind(operator)]]), indices_of(operator.outputs)
        if self._graph.tensors[floating].type != schema.TensorType.FLOAT32:
            return []
        after = [taker for index in results for taker in self._takers[index]]
        targets = [int(taker.outputs[0]) for taker in after]
        if self._outputs & {*results, *targets} or any(self._kind(taker) != "QUANTIZE" for taker in after):
            return []
        source = self._integers(floating, targets)
        if source is None:
            return []
        self._retake(operator, floating, source)
        code = self._model.operatorCodes[operator.opcodeIndex]
        code.version = max(code.version, _INTEGERS_SINCE)
        for index in results:
            tensor = self._graph.tensors[index]
            tensor.type, tensor.quantization = self._values_of(source)
            for taker in self._takers.pop(index, ()):
                for follower in [*self._takers[int(taker.outputs[0])]]:
                    self._retake(follower, int(taker.outputs[0]), index)
        unneeded = not self._takers[floating] and floating not in self._outputs and floating in self._producer
        return [*after, self._producer[floating]] if unneeded else after

    def _integers(self, floating: int, targets: list[int]) -> int | None:
        """Return integers with the targets' scale that a float tensor came from or, if it is an input, becomes."""
        before = self._producer.get(floating)
        sources = [int(before.inputs[0])] if before is not None and self._kind(before) == "DEQUANTIZE" else []
        if floating in self._inputs:
            quantizing = [taker for taker in self._takers[floating] if self._kind(taker) == "QUANTIZE"]
            sources += [int(taker.outputs[0]) for taker in quantizing]
        fitting = [index for index in sources if all(self._mean_the_same(index, target) for target in targets)]
        if fitting or floating not in self._inputs or not targets:
            return fitting[0] if fitting else None
        same = all(self._mean_the_same(targets[0], target) for target in targets)
        return self._quantized(floating, targets[0]) if same else None

    def _quantized(self, floating: int, target: int) -> int:
        """Add an operator that quantizes an input as the target's operator quantizes a part of it."""
        kind, quantization = self._values_of(target)
        self._model.buffers.append(schema.BufferT())  # empty and of its own, as the converter gives it
        like, buffer = self._graph.tensors[floating], len(self._model.buffers) - 1
        index = add_tensor(self._graph, like, name=QUANTIZED, buffer=buffer, type=kind, quantization=quantization)
        operator = copy.copy(self._producer[target])
        operator.inputs, operator.outputs = np.array([floating], np.int32), np.array([index], np.int32)
        self._graph.operators.append(operator)
        self._producer[index] = operator
        self._takers[floating].append(operator)
        return index

    def _mean_the_same(self, index: int, target: int) -> bool:
        (old_kind, old), (new_kind, new) = self._values_of(index), self._values_of(target)
        return (
            old_kind == new_kind
            and np.array_equal(old.scale, new.scale)
            and np.array_equal(old.zeroPoint, new.zeroPoint)
        )

    def _retake(self, operator: schema.OperatorT, old: int, new: int) -> None:
        """Replace a tensor among the inputs of an operator."""
        operator.inputs = np.array([new if index == old else index for index in operator.inputs.tolist()], np.int32)
        self._takers[old] = [taker for taker in self._takers[old] if taker is not operator]
        self._takers[new].append(operator)

    def _values_of(self, index: int) -> tuple[int, schema.QuantizationParametersT]:
        return self._graph.tensors[index].type, self._graph.tensors[index].quantization

    def _kind(self, operator: schema.OperatorT) -> str:
        return operator_name(self._model, operator)


# Sparsify: store the weights of a .tflite file without their zeros.
#
# The stock converter's sparse modes write files that crash or give wrong outputs, so the encoding is written here.
# These forms are right in every interpreter tried:
#
# - float32 and float16: a sparse tensor, DENSIFY, and the operators as they were (through their
#          DEQUANTIZE, if any); - 8-bit weights and activations: the same, but for FULLY_CONNECTED, which XNNPACK
#          then refuses: it becomes a 1x1
#   convolution (`pointwise`); - 8-bit weights with float32 activations: no kernel takes what DENSIFY
#            unpacks, so DEQUANTIZE follows, and operators
#   compute in float32. Those of the same graph whose weights stay dense do so too: XNNPACK cannot mix
#            the two; - float32 weights of FULLY_CONNECTED whose zeros come in fours, without DENSIFY: the runtime
#            has a kernel for them.

_FORMS = ("csr", "block", "pointwise")
_DENSE = "dense"
_SHARED = "it shares its values with a tensor that stays dense"
_GAINLESS = "the file would not be smaller"
_OF_OTHERS = "other graphs than the first read it, and stay as they are"
_KERNELLESS = "no kernel takes its blocks"
_EMPTY = "it holds zeros only, and the runtime takes a sparse tensor without values for one that is computed"
_SPARSE_OVERHEAD_BYTES = 400  # bytes that a sparse tensor and its operators take besides values and indices, about


@dataclass(frozen=True)
class SparseRow(Report):
    """A weight of a file, and how it is stored now.

    Attributes:
        name: The tensor's name.
        shape: Its shape in the file.
        dtype: Type of its values.
        sparsity: Fraction of its entries that are zero, or that mean zero.
        form: `"csr"`, `"block"`, `"pointwise"` or `"dense"`.
        dense_bytes: What its values take stored densely.
        bytes: What it takes now: values and indices.
        reason: Why it is dense; empty when it is not.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    sparsity: float
    form: str
    dense_bytes: int
    bytes: int
    reason: str = ""


@dataclass(frozen=True)
class Sparsified(Report):
    """A file after `sparsify`.

    Attributes:
        data: The file; the bytes given where nothing became smaller.
        bytes_before: Size of the file given.
        bytes: Size of `data`.
        rows: What became of each weight that was not sparse before.
    """

    JSON_NAMES = ("bytes_before", "bytes", "rows")  # without the file

    data: bytes = field(repr=False)
    bytes_before: int
    bytes: int
    rows: tuple[SparseRow, ...]

    def __str__(self) -> str:
        lines = [
            [row.name, shape_text(row.shape), row.dtype, row.form, f"{row.sparsity:.1%}"]
            + [f"{row.dense_bytes:,}", f"{row.bytes:,}", row.reason]
            for row in self.rows
        ]
        total = ["file", "", "", "", "", f"{self.bytes_before:,}", f"{self.bytes:,}", ""]
        header = ["weight", "shape", "type", "form", "zeros", "dense", "bytes", "reason"]
        return table(header, [*lines, total], left=4)


def sparsify(source: Source, *, forms: Collection[str] = _FORMS, min_sparsity: float = 0.0) -> Sparsified:
    """Store the weights of a .tflite file sparse wherever that makes the file smaller.

    The outputs stay the same, but for 8-bit weights with float32 activations: these compute in float32 afterwards,
    closer to the weights. Tensors that are sparse already stay as they are. Labels and metadata stay, but for the
    entry `reduced_precision_support`, with which no sparse kernel runs on ARM processors with half precision.

    Of a file with signatures that start at other graphs than the first, weights become sparse that only the first one
    reads. The other graphs stay as they are.

    Args:
        source: A path, or the bytes of a .tflite file, plain or packed.
        forms: `"csr"` (indices of single entries), `"block"` (float32 blocks of four inputs, which FULLY_CONNECTED
            computes with as they are) and `"pointwise"` (indices of single entries in 8-bit weights of
            FULLY_CONNECTED, which becomes a 1x1 convolution and takes activations of 8 bits as before).
        min_sparsity: Weights with a smaller fraction of zeros stay dense; 0 (the default) to 1.

    Returns:
        A report with the file as `data`, and a row for each weight.

    Raises:
        TypeError: If `source` is neither a path nor bytes, or an argument has another type.
        ValueError: If the file cannot be read or is not a whole TFLite file, or an argument does not fit; or (also an
            ImportError) if ai-edge-litert is not installed.

    Example:
        >>> print(sparsify("digits.tflite"))
        weight ... shape   type     form  zeros   dense  bytes  reason
        ...
        ...hidden... 200x64  float32  csr   90.0%  51,200  6,...
        file ...
    """
    _check(forms, min_sparsity)
    file = ModelFile.open(source)
    result, rows = SparseForms(file).form(forms, min_sparsity=min_sparsity)
    sizes = len(file.content), len(result.content)
    return Sparsified(data=result.content, bytes_before=sizes[0], bytes=sizes[1], rows=rows)


class SparseForms:
    """The sparse forms of one file: forms that turn out to be the same file are opened once.

    Args:
        file: The file.
    """

    def __init__(self, file: ModelFile) -> None:
        self._file = file
        self._known = {file.content: file}

    def form(self, forms: Collection[str], *, min_sparsity: float = 0.0) -> tuple[ModelFile, tuple[SparseRow, ...]]:
        """Return the file with sparse weights, and what became of each weight, as `sparsify` describes both.

        Raises:
            ValueError: If operators do not fit their tensors.
        """
        with fitting(self._file):
            result, rows = self._sparse(forms, min_sparsity, _KERNELLESS)
            if any(row.form in ("csr", "pointwise") for row in rows) and result.hazards:
                rest = [form for form in forms if form == "block"]
                reason = f"with sparse weights XNNPACK fails on ARM or in browsers, at {result.hazards[0]}"
                return self._sparse(rest, min_sparsity, reason)
            return result, rows

    def _sparse(
        self, forms: Collection[str], min_sparsity: float, otherwise: str
    ) -> tuple[ModelFile, tuple[SparseRow, ...]]:
        file, result = self._file, self._file
        groups = _groups(file.graph.subgraphs)
        if "pointwise" in forms and any(group.pointwise for group in groups):
            file = self._once(file.after(merge_constants))
            groups = _groups(file.graph.subgraphs)
        model = file.objects()
        for group in groups:
            _choose(group, model, forms, min_sparsity)
            group.reason = group.reason or ("" if group.encoded else otherwise)
        if any(group.encoded for group in groups):
            _rewrite(model, groups)
            result = self._once(file.saved(model))
        if len(result.content) >= len(self._file.content):
            result, groups = self._file, [replace(group, reason=group.reason or _GAINLESS) for group in groups]
        return result, tuple(group.row() for group in groups)

    def _once(self, file: ModelFile) -> ModelFile:
        return self._known.setdefault(file.content, file)


@dataclass
class _Group:
    """The tensors that share one buffer, and the form that they get."""

    tensor: Tensor
    members: list[tuple[int, _WeightUse]]  # number of the graph, and where in it
    reason: str = ""
    encoded: _SparseEncoding | None = None

    @property
    def pointwise(self) -> bool:
        """True when its operators have to become 1x1 convolutions."""
        return any(use.pointwise for _, use in self.members)

    def row(self) -> SparseRow:
        encoded = None if self.reason else self.encoded
        tensor = self.tensor
        return SparseRow(
            name=tensor.name,
            shape=tensor.shape,
            dtype=tensor.dtype,
            sparsity=fraction_of_zeros(tensor.nnz or 0, tensor.size),
            form=_DENSE if encoded is None else "pointwise" if self.pointwise else encoded.form,
            dense_bytes=tensor.bytes,
            bytes=tensor.bytes if encoded is None else encoded.bytes_for(len(self.members)),
            reason=self.reason,
        )


def _check(forms: Collection[str], min_sparsity: float) -> None:
    expected = f"`forms` to name one or more of {list(_FORMS)}"
    if isinstance(forms, str) or not isinstance(forms, Collection):
        received = f"{forms!r} of type {type(forms).__name__}"
        raise ArgumentTypeError("forms", expected, received, advice="Put the names into a list.")
    if not forms or any(form not in _FORMS for form in forms):
        raise ArgumentError("forms", expected, repr(forms))
    check_number(min_sparsity, "min_sparsity", least=0, most=1)


def _groups(graphs: Sequence[Subgraph]) -> list[_Group]:
    groups: dict[int, _Group] = {}
    for number, graph in enumerate(graphs):
        for use in _weight_uses(graph):
            tensor = graph.tensors[use.tensor]
            group = groups.setdefault(tensor.buffer, _Group(tensor, []))
            group.members.append((number, use))
            same = (tensor.shape, tensor.dtype) == (group.tensor.shape, group.tensor.dtype)
            alone = len(group.members) == 1
            group.reason = group.reason or (use.reason if alone else _SHARED if use.reason or not same else "")
    holders = Counter(tensor.buffer for graph in graphs for tensor in graph.tensors)
    for buffer, group in groups.items():
        if holders[buffer] > len(group.members):
            group.reason = group.reason or _SHARED
    return [*groups.values()]


def _choose(group: _Group, model: schema.ModelT, forms: Collection[str], min_sparsity: float) -> None:
    """Encode the values of a group, or give the reason why they stay as they are."""
    tensor = group.tensor
    group.reason = group.reason or _refusal(group, model)
    if not group.reason and tensor.nnz == 0:
        group.reason = _EMPTY
    if not group.reason and fraction_of_zeros(tensor.nnz or 0, tensor.size) < min_sparsity:
        group.reason = f"it has fewer zeros than min_sparsity={min_sparsity:g}"
    if group.pointwise and "pointwise" not in forms:
        group.reason = group.reason or INTEGER
    if group.reason:
        return
    kind = np.dtype(tensor.dtype).newbyteorder("<")
    array = np.asarray(model.buffers[tensor.buffer].data).view(kind).reshape(tensor.shape)
    array = array[:, None, None] if group.pointwise else array
    encodings = []
    if "block" in forms and all(use.native for _, use in group.members) and tensor.shape[-1] % _BLOCK == 0:
        encodings.append(_encode_blocks(array))
    if ("pointwise" if group.pointwise else "csr") in forms:
        encodings.append(_encode_rows(array))
    encoded = min(encodings, key=lambda encoded: encoded.bytes, default=None)
    copies, overhead = len(group.members), _SPARSE_OVERHEAD_BYTES * len(group.members)
    if encoded is not None and encoded.bytes_for(copies) + overhead >= tensor.bytes:
        group.reason = f"sparse it takes {encoded.bytes_for(copies):,} bytes, and about {overhead} for its operators"
    else:
        group.encoded = encoded


def _refusal(group: _Group, model: schema.ModelT) -> str:
    """Say what in the file as a whole, or in the tensors' quantization, keeps values dense."""
    metadata = model.metadata or ()
    if numbers_operators(model):
        return "the file names its operators by number"
    if any(entry.buffer == group.tensor.buffer for entry in metadata):
        return _SHARED
    starts = {entry.subgraphIndex for entry in model.signatureDefs or ()}
    if starts - {0} and any(number for number, _ in group.members):
        return _OF_OTHERS
    for number, use in group.members:
        quantization = model.subgraphs[number].tensors[use.tensor].quantization
        if quantization is not None and (quantization.details is not None or np.any(quantization.zeroPoint)):
            return "its zeros are not stored as 0"
    if not group.pointwise:
        return ""
    reasons = [pointwise_refusal(model, model.subgraphs[number], weight=use.tensor) for number, use in group.members]
    return next(filter(None, reasons), "")


def _rewrite(model: schema.ModelT, groups: Sequence[_Group]) -> None:
    rewriters = [_Rewriter(model, graph) for graph in model.subgraphs]
    pointwise = [member for group in groups if group.encoded and group.pointwise for member in group.members]
    for number in {number for number, _ in pointwise}:
        weights = {use.tensor for which, use in pointwise if which == number}
        make_pointwise(model, model.subgraphs[number], weights=weights)
    floating = {number for group in groups if group.encoded for number, use in group.members if use.hybrid}
    for group in groups:
        if group.encoded:
            model.buffers[group.tensor.buffer].data = group.encoded.raw
        for number, use in group.members:
            rewriter, tensor = rewriters[number], use.tensor
            if use.hybrid and number in floating:
                tensor = rewriter.dequantize(tensor)
            if group.encoded and group.encoded.block > 1:
                rewriter.store(tensor, group.encoded)
            elif group.encoded:
                rewriter.unpack(tensor, group.encoded)
    # With it, LiteRT 2.2 and 2.3 run the zeros as if they were dense on ARMv8.2, and 2.1 gives NaN.
    model.metadata = [entry for entry in model.metadata or () if entry.name != REDUCED_PRECISION.encode()]
    _lower_versions(model)


# Back to dense weights, which other rewritings read.


def with_dense_weights(file: ModelFile, *, types: Collection[str] = ("float32",)) -> ModelFile:
    """Return a file with the sparse weights of its main graph as dense constants, without their DENSIFY or DECODE.

    All other tensors stay as they are stored, and so do all in a file that names operators by their indices.

    Args:
        file: The file.
        types: The types of the weights.
    """
    tensors = file.graph.subgraphs[0].tensors
    weights = [number for number, each in enumerate(tensors) if each.sparse and each.dtype in types]
    return file.after(partial(_unpack, tensors=tensors, weights=weights)) if weights else file


def _unpack(model: schema.ModelT, *, tensors: Sequence[Tensor], weights: Sequence[int]) -> bool:
    for number in weights:
        values = tensors[number].values
        assert values is not None
        make_dense(model, model.subgraphs[0], tensor=number, buffer=add_values(model, unpacked(values)))
    return True


def unpacked(values: TensorValues) -> np.ndarray:
    """Return the numbers of a constant, flat, with the entries that are not stored."""
    flat = np.zeros(values.size, np.dtype(values.dtype).newbyteorder("<"))
    for positions, entries in values.pieces():
        flat[positions] = entries
    return flat


def make_dense(model: schema.ModelT, graph: schema.SubGraphT, *, tensor: int, buffer: int) -> None:
    """Make a sparse tensor dense, and let it stand for what DENSIFY makes of it, or DECODE made."""
    own = graph.tensors[tensor]
    own.buffer, own.sparsity = buffer, None
    for step in [each for each in graph.operators if tensor in indices_of(each.outputs)]:  # a DECODE
        place = indices_of(step.outputs).index(tensor)
        step.inputs = np.delete(step.inputs, [2 * place, 2 * place + 1])
        step.outputs = np.delete(step.outputs, place)
        if not len(step.outputs):
            graph.operators.remove(step)
    for step in [each for each in graph.operators if operator_name(model, each) == "DENSIFY"]:
        if indices_of(step.inputs) != [tensor]:
            continue
        output = int(step.outputs[0])
        own.quantization = graph.tensors[output].quantization or own.quantization
        graph.operators.remove(step)
        for operator in graph.operators:
            if operator.inputs is not None:
                operator.inputs = np.where(np.asarray(operator.inputs) == output, tensor, operator.inputs)
