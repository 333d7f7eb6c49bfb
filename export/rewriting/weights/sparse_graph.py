"""Put sparse tensors, and the operators that unpack them, into the graphs of a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import add_operator, add_tensor, builtin_code, inputs_of
from tfprune.export.rewriting.weights.sparse_encoding import SparseEncoding

BLOCKS_SINCE = 8  # version of FULLY_CONNECTED that takes sparse weights
LAST_OLD_VERSION = 10  # of tflite-runtime 2.14; with 8 and 8-bit weights unpacked, outputs were wrong


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
                code.version = max(code.version, BLOCKS_SINCE)

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
            code.version = min(code.version, LAST_OLD_VERSION)


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
