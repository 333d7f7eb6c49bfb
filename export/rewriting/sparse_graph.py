"""Put sparse tensors, and the operators that unpack them, into the graphs of a model."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from tfprune.export.rewriting.sparse_encoding import Encoded
from tfprune.export.tflite import schema
from tfprune.export.tflite.editor import builtin_code, operator_code

BLOCKS_SINCE = 8  # version of FULLY_CONNECTED that takes sparse weights
OLD = 10  # the last version that tflite-runtime 2.14 has; with 8 and 8-bit weights unpacked, outputs were wrong


class Rewriter:
    """Changes one graph: tensors at once, operators when `finish` is called.

    What computes with a weight is left as it is: the weight's tensor becomes what new operators give.
    """

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT) -> None:
        self._schema = schema
        self._model = model
        self._graph = graph
        self._before: dict[int, list[schema.OperatorT]] = defaultdict(list)

    def store(self, tensor: int, encoded: Encoded) -> None:
        """Make a tensor sparse where it is: its operators have a kernel for that."""
        weight = self._graph.tensors[tensor]
        weight.sparsity = self._sparsity(encoded, weight.shape)
        for operator in self._graph.operators:
            if tensor in _inputs(operator):
                code = self._model.operatorCodes[operator.opcodeIndex]
                code.version = max(code.version, BLOCKS_SINCE)

    def unpack(self, tensor: int, encoded: Encoded) -> None:
        """Make a tensor the output of DENSIFY on a sparse one, which takes its buffer."""
        weight = self._graph.tensors[tensor]
        sparse = self._constant(weight, b"/dense")
        self._graph.tensors[sparse].sparsity = self._sparsity(encoded, weight.shape)
        self._add("DENSIFY", sparse, tensor)

    def dequantize(self, tensor: int) -> int:
        """Make an 8-bit tensor the float32 output of DEQUANTIZE; return the place of the 8-bit one."""
        weight = self._graph.tensors[tensor]
        small = self._constant(weight, b"/float32")
        self._graph.tensors[small].quantization, weight.quantization = weight.quantization, None
        weight.type = self._schema.TensorType.FLOAT32
        self._add("DEQUANTIZE", small, tensor)
        return small

    def finish(self) -> None:
        """Put each new operator in front of the first that needs it."""
        placed: list[Any] = []
        for operator in self._graph.operators or ():
            for tensor in _inputs(operator):
                self._place(tensor, placed)
            placed.append(operator)
        self._graph.operators = placed

    def _place(self, tensor: int, placed: list[Any]) -> None:
        for operator in self._before.pop(tensor, ()):
            self._place(int(operator.inputs[0]), placed)
            placed.append(operator)

    def _constant(self, weight: schema.TensorT, suffix: bytes) -> int:
        """Add a constant that takes a weight's name and buffer; the weight has no values of its own from now on."""
        constant = self._schema.TensorT(shape=weight.shape, type=weight.type, buffer=weight.buffer, name=weight.name)
        weight.buffer, weight.name = 0, (weight.name or b"") + suffix
        self._graph.tensors.append(constant)
        return len(self._graph.tensors) - 1

    def _add(self, name: str, source: int, target: int) -> None:
        builtin = getattr(self._schema.BuiltinOperator, name)
        operator = self._schema.OperatorT(opcodeIndex=operator_code(self._model, builtin))
        operator.inputs, operator.outputs = np.array([source], np.int32), np.array([target], np.int32)
        self._before[target].append(operator)

    def _sparsity(self, encoded: Encoded, shape: Any) -> schema.SparsityParametersT:
        """Describe the walk: all dimensions in full, the last one by places, a block's entries in full."""
        walked = [int(shape[dimension]) for dimension in encoded.order[:-1]]
        levels = [self._full(length) for length in walked] + [self._places(encoded)]
        order = list(encoded.order)
        blocks = None
        if encoded.block > 1:
            levels.append(self._full(encoded.block))
            order.append(len(order))
            blocks = np.array(encoded.order[-1:], np.int32)
        return self._schema.SparsityParametersT(
            traversalOrder=np.array(order, np.int32), blockMap=blocks, dimMetadata=levels
        )

    def _full(self, length: int) -> schema.DimensionMetadataT:
        return self._schema.DimensionMetadataT(format=self._schema.DimensionType.DENSE, denseSize=length)

    def _places(self, encoded: Encoded) -> schema.DimensionMetadataT:
        segments, indices = self._vector(encoded.segments), self._vector(encoded.indices)
        return self._schema.DimensionMetadataT(
            format=self._schema.DimensionType.SPARSE_CSR,
            arraySegmentsType=segments[0],
            arraySegments=segments[1],
            arrayIndicesType=indices[0],
            arrayIndices=indices[1],
        )

    def _vector(self, numbers: np.ndarray) -> tuple[int, Any]:
        name = {1: "Uint8Vector", 2: "Uint16Vector", 4: "Int32Vector"}[numbers.itemsize]
        kinds = self._schema.SparseIndexVector
        return getattr(kinds, name), getattr(self._schema, f"{name}T")(values=numbers)


def lower_versions(model: schema.ModelT) -> None:
    """Ask for no newer FULLY_CONNECTED than float32 weights need, so that older interpreters take the file."""
    newer = {
        operator.opcodeIndex
        for graph in model.subgraphs
        for operator in graph.operators or ()
        if any(graph.tensors[tensor].type != schema.TensorType.FLOAT32 for tensor in _inputs(operator)[1:2])
    }
    for place, code in enumerate(model.operatorCodes):
        if builtin_code(code) == schema.BuiltinOperator.FULLY_CONNECTED and place not in newer:
            code.version = min(code.version, OLD)


def _inputs(operator: schema.OperatorT) -> list[int]:
    """Return the tensors that an operator takes; one without any may have no list of them."""
    return [] if operator.inputs is None else operator.inputs.tolist()
