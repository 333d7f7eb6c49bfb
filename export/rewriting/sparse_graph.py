"""Sparse weights in a file: which may be sparse, how they are encoded, and the operators that unpack them."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.export.file import schema
from tfprune.export.file.document import add_operator, add_tensor, add_values, builtin_code, indices_of, inputs_of
from tfprune.export.file.reader import Model, Operator, Subgraph, Tensor
from tfprune.export.rewriting.shapes import scales_of

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
_TYPES = ("float32", "float16", "int8")  # those that DENSIFY unpacks


@dataclass(frozen=True)
class WeightUse:
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


def weight_uses(graph: Subgraph) -> list[WeightUse]:
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


def _weight_use(graph: Subgraph, number: int, users: _Users) -> WeightUse:
    tensor = graph.tensors[number]
    direct = [end for end in users[number] if end[0].name != "DEQUANTIZE"]
    unpacked = [index for operator, _ in users[number] if operator.name == "DEQUANTIZE" for index in operator.outputs]
    chained = [user for index in unpacked for user in users[index]]
    kinds, border = {operator.name for operator, _ in users[number]}, {*graph.inputs, *graph.outputs}
    mixed = {_is_hybrid(graph, tensor, operator) for operator, _ in users[number]}
    hybrid = mixed == {True}
    connected = kinds == {"FULLY_CONNECTED"} and len(tensor.shape) == 2
    native, pointwise = connected and tensor.dtype == "float32", connected and tensor.dtype == "int8" and not hybrid
    if tensor.dtype not in _TYPES:
        reason = f"DENSIFY does not unpack {tensor.dtype}"
    elif {number, *unpacked} & border:
        reason = "it is an input or output of its graph"
    elif not direct + chained:
        reason = "no operator computes with it"
    elif len(mixed) > 1:
        reason = "operators use it in two ways"
    else:
        reason = _refusal(direct + chained) or _chain(chained + direct * hybrid)
        reason = reason or ("" if hybrid or pointwise or tensor.dtype != "int8" else _integer(direct))
    return WeightUse(number, hybrid and kinds <= _CHAINED and number not in border, native, pointwise, reason)


def _refusal(ends: list[tuple[Operator, int]]) -> str:
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
BLOCK = 4  # entries: the only length for which the runtime has a kernel


@dataclass(frozen=True)
class SparseEncoding:
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
        """What values and indices take together."""
        return self.bytes_for(1)

    def bytes_for(self, tensors: int) -> int:
        """What they take when several tensors share the values: each has indices of its own."""
        return self.values.nbytes + tensors * (self.segments.nbytes + self.indices.nbytes)


def encode_rows(array: np.ndarray) -> SparseEncoding:
    """Keep the entries that are not zero, walked in the order that takes the fewest bytes.

    A dimension of at most 256 entries needs one byte for an index, so it can pay to walk another one last.

    Args:
        array: Any numbers, of rank 1 or more.

    Returns:
        The smallest form; of two equal ones that with the later dimension last.

    Example:
        >>> encode_rows(np.array([[0, 7, 0], [5, 0, 6]], np.int8)).indices
        array([1, 0, 2], dtype=uint8)
    """
    return min((_rows(array, order) for order in _orders(array.shape)), key=lambda encoded: encoded.bytes)


def encode_blocks(array: np.ndarray) -> SparseEncoding:
    """Keep the blocks of four entries along the last dimension that are not all zero.

    Args:
        array: Any numbers; the length of the last dimension is a multiple of four.

    Returns:
        The blocks in row-major order.
    """
    blocks = array.reshape(-1, array.shape[-1] // BLOCK, BLOCK)
    mask = (blocks != 0).any(axis=-1)
    return _encoded(mask, blocks[mask].ravel(), tuple(range(array.ndim)), BLOCK)


def _orders(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the orders worth a try: with each dimension last that is longer than one entry."""
    dimensions = range(len(shape))
    for last in [index for index in reversed(dimensions) if shape[index] > 1] or [len(shape) - 1]:
        yield (*(index for index in dimensions if index != last), last)


def _rows(array: np.ndarray, order: tuple[int, ...]) -> SparseEncoding:
    rows = array.transpose(order).reshape(-1, array.shape[order[-1]])
    mask = rows != 0
    return _encoded(mask, rows[mask], order, 1)


def _encoded(kept: np.ndarray, values: np.ndarray, order: tuple[int, ...], block: int) -> SparseEncoding:
    segments = np.concatenate([[0], np.cumsum(np.count_nonzero(kept, axis=1))])
    return SparseEncoding(values, order, _narrow(segments), _narrow(np.nonzero(kept)[1]), block)


def _narrow(numbers: np.ndarray) -> np.ndarray:
    """Store whole numbers in the smallest type that holds them all."""
    most = numbers.max(initial=0)
    return numbers.astype(next(kind for kind in _INDEX_TYPES if most <= np.iinfo(kind).max))


# Put sparse tensors, and the operators that unpack them, into the graphs of a model.

_BLOCKS_SINCE = 8  # version of FULLY_CONNECTED that takes sparse weights
_LAST_OLD_VERSION = 10  # of tflite-runtime 2.14; with 8 and 8-bit weights unpacked, outputs were wrong


class Rewriter:
    """Changes the weights of one graph.

    The operators that compute with a weight are left as they are: its tensor becomes what new operators make.
    """

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT) -> None:
        self._model = model
        self._graph = graph

    def store(self, tensor: int, encoded: SparseEncoding) -> None:
        """Make a tensor sparse where it is: its operators have a kernel for that."""
        weight = self._graph.tensors[tensor]
        weight.sparsity = _sparsity(encoded, weight.shape)
        for operator in self._graph.operators:
            if tensor in inputs_of(operator):
                code = self._model.operatorCodes[operator.opcodeIndex]
                code.version = max(code.version, _BLOCKS_SINCE)

    def unpack(self, tensor: int, encoded: SparseEncoding) -> None:
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


def lower_versions(model: schema.ModelT) -> None:
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


def _sparsity(encoded: SparseEncoding, shape: Any) -> schema.SparsityParametersT:
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


def _compressed(encoded: SparseEncoding) -> schema.DimensionMetadataT:
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
