"""Eight or four bits for the weights of a float file: of fully connected layers, and of tables.

Eight bits have a scale for each row, and four a scale for each 32 weights of a row. Activations stay floats: a fully
connected layer rounds its inputs to 8 bits by their own range, each time. GATHER knows one scale for a whole table,
EMBEDDING_LOOKUP one for each row, as FULLY_CONNECTED does. So a table that is also the kernel of the scores, as the
vocabulary of a language model, stays one tensor.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.canonical_order import drop_hash, put_in_order
from tfprune.export.file.tflite.editor import (
    add_constant,
    add_operator,
    add_tensor,
    add_values,
    inputs_of,
    operator_code,
    operator_name,
)
from tfprune.export.rewriting.weights.four_bit_weights import LARGEST_INTEGER as LARGEST_OF_FOUR
from tfprune.export.rewriting.weights.four_bit_weights import packed, to_four_bits

LARGEST_INTEGER = 127  # of 8 bits: the integers go from -127 to 127, so that each row needs a scale only
BLOCK = 32  # weights of 4 bits that share a scale, the fewest that XNNPACK takes
CHUNK = 2**16  # blocks that are rounded at a time
LEAST_ENTRIES = 1024  # of a weight, as in the converter: smaller ones gain nothing
PLACES = {"FULLY_CONNECTED": 1, "GATHER": 0}  # of the weight among the inputs
VERSIONS = {"FULLY_CONNECTED": 12, "EMBEDDING_LOOKUP": 4}  # that take a scale for each row beside float activations


@dataclass(frozen=True)
class _Use:
    """An operator that takes a weight."""

    graph: schema.SubGraphT
    operator: schema.OperatorT
    kind: str
    place: int


def narrow_weights(model: schema.ModelT, *, bits: int) -> None:
    """Round the weights of fully connected layers, and of tables, to 8 or 4 bits; zeros stay zeros.

    A weight that another operator takes as well stays as it is, and so does a small one.

    Args:
        model: A file that computes in float32, with any number of graphs. It is changed. Its weights may be arrays
            of floats as well as of bytes.
        bits: 8 or 4. Rows whose length is not a multiple of 32 get 8 bits in any case.
    """
    for buffer, uses in _uses(model).items():
        if all(_fits(use) for use in uses):
            _narrow(model, buffer, uses=uses, bits=bits)
    for code in model.operatorCodes:
        name = next((name for name in VERSIONS if code.builtinCode == getattr(schema.BuiltinOperator, name)), None)
        code.version = max(code.version, VERSIONS.get(name or "", 1))
    drop_hash(model)
    put_in_order(model)


def _uses(model: schema.ModelT) -> dict[int, list[_Use]]:
    """Return the operators of all graphs that take a large constant of two dimensions, by its buffer."""
    uses = defaultdict(list)
    for graph in model.subgraphs:
        for operator in graph.operators or ():
            for place, index in enumerate(inputs_of(operator)):
                tensor = graph.tensors[index] if index >= 0 else None
                if tensor is not None and _is_large(model, tensor):
                    uses[tensor.buffer].append(_Use(graph, operator, operator_name(model, operator), place))
    return uses


def _is_large(model: schema.ModelT, tensor: schema.TensorT) -> bool:
    values = model.buffers[tensor.buffer].data
    is_matrix = tensor.shape is not None and len(tensor.shape) == 2 and tensor.type == schema.TensorType.FLOAT32
    return is_matrix and tensor.sparsity is None and values is not None and values.nbytes >= 4 * LEAST_ENTRIES


def _fits(use: _Use) -> bool:
    if PLACES.get(use.kind) != use.place:
        return False
    if use.kind == "FULLY_CONNECTED":
        return use.graph.tensors[use.operator.inputs[0]].type == schema.TensorType.FLOAT32
    options = use.operator.builtinOptions
    is_of_rows = options is None or (options.axis, options.batchDims) == (0, 0)
    return is_of_rows and use.graph.tensors[use.operator.inputs[1]].type == schema.TensorType.INT32


def _narrow(model: schema.ModelT, buffer: int, *, uses: list[_Use], bits: int) -> None:
    first = uses[0].graph.tensors[uses[0].operator.inputs[uses[0].place]]
    rows = np.asarray(model.buffers[buffer].data).view("<f4").reshape(first.shape)
    narrow = _FourBits(model, rows) if bits == 4 and rows.shape[1] % BLOCK == 0 else _EightBits(model, rows)
    narrowed: dict[tuple[int, int], int] = {}  # the tensor of a graph that an operator takes now
    for use in uses:
        old = int(use.operator.inputs[use.place])
        key = id(use.graph), old
        if key not in narrowed:
            narrowed[key] = add_tensor(
                use.graph,
                use.graph.tensors[old],
                buffer=narrow.integers,
                type=narrow.type,
                quantization=narrow.quantization(use.graph),
            )
        if use.kind == "GATHER":
            _look_up(model, use, narrowed[key])
        else:
            use.operator.inputs = use.operator.inputs.copy()
            use.operator.inputs[use.place] = narrowed[key]
            use.operator.builtinOptions.asymmetricQuantizeInputs = True


class _EightBits:
    """The integers of a weight, and its scales: one for each row."""

    def __init__(self, model: schema.ModelT, rows: np.ndarray) -> None:
        self.type = schema.TensorType.INT8
        parts = np.array_split(rows, -(-rows.size // (CHUNK * BLOCK)))
        largest = np.concatenate([np.abs(part).max(axis=1) for part in parts])
        self._scales = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(LARGEST_INTEGER)
        scales = np.array_split(self._scales[:, None], len(parts))
        integers = [np.rint(part / each).astype(np.int8) for part, each in zip(parts, scales, strict=True)]
        self.integers = add_values(model, np.concatenate(integers))

    def quantization(self, _: schema.SubGraphT) -> schema.QuantizationParametersT:
        return schema.QuantizationParametersT(scale=self._scales, zeroPoint=np.zeros(len(self._scales), np.int64))


class _FourBits:
    """The integers of a weight, and its scales: one for each block of a row, in a tensor of each graph."""

    def __init__(self, model: schema.ModelT, rows: np.ndarray) -> None:
        self.type = schema.TensorType.INT4
        blocks = rows.reshape(-1, BLOCK)
        parts = [_rounded(blocks[start : start + CHUNK]) for start in range(0, len(blocks), CHUNK)]
        self.integers = add_values(model, np.concatenate([packed(integers) for integers, _ in parts]))
        self._shape = np.array([len(rows), rows.shape[1] // BLOCK], np.int32)
        self._scales = add_values(model, np.concatenate([scales for _, scales in parts]))

    def quantization(self, graph: schema.SubGraphT) -> schema.QuantizationParametersT:
        scales = schema.TensorT()
        scales.name, scales.shape, scales.buffer = b"scales", self._shape, self._scales
        scales.type = schema.TensorType.FLOAT16
        graph.tensors.append(scales)
        details = schema.BlockwiseQuantizationT()
        details.scales, details.zeroPoints, details.blockSize = len(graph.tensors) - 1, -1, BLOCK
        kind = schema.QuantizationDetails.BlockwiseQuantization
        return schema.QuantizationParametersT(detailsType=kind, details=details)


def _rounded(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return integers from -7 to 7, and the scale of each block: a float16 of 8 bits, as XNNPACK reads it."""
    _, steps = to_four_bits(blocks, 0)
    bits = steps.astype(np.float32).view(np.uint32)
    scales = ((bits + 0x8000) & 0xFFFF0000).view(np.float32).astype(np.float16)
    scales[scales == 0] = 1  # of weights too small for a float16, which become 0
    integers = np.rint(blocks / scales.astype(np.float32)[:, None])
    return np.clip(integers, -LARGEST_OF_FOUR, LARGEST_OF_FOUR).astype(np.int8), scales


def _look_up(model: schema.ModelT, use: _Use, table: int) -> None:
    """Turn GATHER into EMBEDDING_LOOKUP, which takes a list of ids and returns a matrix."""
    graph, operator = use.graph, use.operator
    ids, output = int(operator.inputs[1]), int(operator.outputs[0])
    count = int(np.prod(graph.tensors[ids].shape))
    size = int(graph.tensors[table].shape[1])
    rows = add_tensor(graph, graph.tensors[output], shape=np.array([count, size], np.int32), shapeSignature=None)
    flat = add_tensor(graph, graph.tensors[ids], shape=np.array([count], np.int32), shapeSignature=None)
    operator.opcodeIndex = operator_code(model, schema.BuiltinOperator.EMBEDDING_LOOKUP)
    operator.inputs, operator.outputs = np.array([flat, table], np.int32), np.array([rows], np.int32)
    operator.builtinOptionsType, operator.builtinOptions = 0, None
    for source, target in ((ids, flat), (rows, output)):
        shape = np.array(graph.tensors[target].shape, np.int32)
        inputs = [source, add_constant(model, graph, name=b"shape", values=shape)]
        options = schema.ReshapeOptionsT(newShape=shape)
        add_operator(model, graph, name="RESHAPE", inputs=inputs, outputs=[target], options=options)
