"""Read what a .tflite file holds, without running it and without trusting it."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tfprune.export.file.report import TensorInfo, reason_of
from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.check_structure import IDENTIFIER
from tfprune.export.file.tflite.decode_format import OPERATOR, PRUNED, decode_weight
from tfprune.export.file.tflite.model import Model, Operator, Subgraph, Tensor
from tfprune.export.file.tflite.signature_order import in_order
from tfprune.export.file.tflite.sparse_positions import SparseDimension, arrange
from tfprune.export.file.tflite.tensor_values import TensorValues

VERSION = 3
MAX_READS_PER_BYTE = (
    8  # bytes read for each byte of the file, at most: parts that point at each other could go on for ever
)
DAMAGE_ERRORS = (struct.error, IndexError, TypeError, ValueError, OverflowError)  # what reading nonsense raises


def read(data: bytes) -> Model:
    """Describe the content of a .tflite file.

    Args:
        data: The plain file, not packed (`model_file.read_model` unpacks).

    Returns:
        Graphs, operators and tensors, and how many zeros the constant ones hold.

    Raises:
        ValueError: If the bytes are not a whole TFLite file; or (also an ImportError) if
            ai-edge-litert is not installed.
    """
    schema.require_schema()
    if data[4:8] != IDENTIFIER:
        raise ValueError(
            f"Expected a TFLite file (bytes 4 to 8 are {IDENTIFIER!r}). "
            f"Received: {len(data):,} bytes that begin with {bytes(data[:8])!r}."
        )
    try:
        return _Reader(data).graph()
    except DAMAGE_ERRORS as error:
        raise ValueError(
            f"Expected a whole TFLite file. Received: {len(data):,} bytes that are damaged or cut short "
            f"({reason_of(error)}). Copy the file again."
        ) from error


class _Reader:
    """Walks a flatbuffer table by table. Nothing is copied before its length is compared with the file's."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._model = schema.Model.GetRootAs(data, 0)
        self._left = MAX_READS_PER_BYTE * len(data)
        self._counted: dict[tuple[Any, ...], int | None] = {}
        self._unpacked: dict[tuple[Any, ...], Tensor] = {}
        self._types = _names(schema.TensorType)
        self._builtins = _names(schema.BuiltinOperator)
        self._custom = schema.BuiltinOperator.CUSTOM
        self._dense = schema.DimensionType.DENSE
        kinds = schema.SparseIndexVector
        self._vectors = {
            kinds.Uint8Vector: schema.Uint8Vector,
            kinds.Uint16Vector: schema.Uint16Vector,
            kinds.Int32Vector: schema.Int32Vector,
        }

    def graph(self) -> Model:
        model = self._model
        if model.Version() != VERSION:
            raise ValueError(f"the format's version is {model.Version()}, not {VERSION}.")
        codes = [self._code(code) for code in self._tables(model.OperatorCodes, model.OperatorCodesLength())]
        buffers = [*self._tables(model.Buffers, model.BuffersLength())]
        tables = [*self._tables(model.Subgraphs, model.SubgraphsLength())]
        if not tables:
            raise ValueError("it holds no graph.")
        subgraphs = tuple(self._subgraph(table, codes, buffers) for table in tables)
        signatures = [*self._tables(model.SignatureDefs, model.SignatureDefsLength())]
        by_key = {self._text(entry.SignatureKey()): entry for entry in signatures}
        key = "serving_default" if "serving_default" in by_key else min(by_key, default=None)
        signature = by_key[key] if key is not None and by_key[key].SubgraphIndex() == 0 else None
        inputs = signature and self._tables(signature.Inputs, signature.InputsLength())
        outputs = signature and self._tables(signature.Outputs, signature.OutputsLength())
        input_tensors = self._named(subgraphs[0], subgraphs[0].inputs, inputs)
        output_tensors = self._named(subgraphs[0], subgraphs[0].outputs, outputs)
        return Model(
            subgraphs,
            self._infos(tables[0], subgraphs[0], input_tensors),
            self._infos(tables[0], subgraphs[0], output_tensors),
            tuple(input_tensors.values()),
            tuple(output_tensors.values()),
        )

    def _subgraph(self, table: Any, codes: list[str], buffers: list[Any]) -> Subgraph:
        tensors = [self._tensor(entry, buffers) for entry in self._tables(table.Tensors, table.TensorsLength())]
        operators = [
            Operator(
                codes[_in_range(entry.OpcodeIndex(), codes)],
                self._tensor_indices(entry.InputsAsNumpy(), len(tensors)),
                self._tensor_indices(entry.OutputsAsNumpy(), len(tensors)),
            )
            for entry in self._tables(table.Operators, table.OperatorsLength())
        ]
        inputs = self._tensor_indices(table.InputsAsNumpy(), len(tensors))
        outputs = self._tensor_indices(table.OutputsAsNumpy(), len(tensors))
        for index, tensor in self._decoded(table, tensors, operators):
            tensors[index] = tensor
        return Subgraph(self._text(table.Name()), tuple(tensors), tuple(operators), inputs, outputs)

    def _tensor(self, table: Any, buffers: list[Any]) -> Tensor:
        name = self._text(table.Name())
        shape = self._numbers(table.ShapeAsNumpy())
        if min(shape, default=0) < 0:
            raise ValueError(f"tensor {name!r} has the shape {shape}.")
        dtype = self._types.get(table.Type(), f"type_{table.Type()}")
        index = _in_range(table.Buffer(), buffers)
        stored = self._values(buffers[index]) if index else b""
        constant = len(stored) > 0 and not table.IsVariable()
        sparse, size = table.Sparsity() is not None, math.prod(shape)
        values = nnz = None
        if constant and not table.ExternalBuffer():
            zeros, axis = self._zero_points(table) if "int" in dtype else ((0,), 0)
            raw = np.frombuffer(stored, np.uint8)
            values = TensorValues(raw, dtype, shape, zeros, axis, self._dimensions(table.Sparsity(), shape))
            nnz = self._nnz(values, index)
        if nnz is None:
            values = None
        return Tensor(name, shape, dtype, constant, sparse, size, nnz, len(stored), index, values)

    def _decoded(
        self, table: Any, tensors: list[Tensor], operators: Sequence[Operator]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield what DECODE makes of constants as constants with these values."""
        for operator in operators:
            if operator.name != OPERATOR:
                continue
            if len(operator.inputs) != 2 * len(operator.outputs) or -1 in (*operator.inputs, *operator.outputs):
                raise ValueError(f"DECODE makes {len(operator.outputs)} tensors from {len(operator.inputs)}.")
            for index, pair in enumerate(zip(operator.inputs[::2], operator.inputs[1::2], strict=True)):
                output = operator.outputs[index]
                encoded, ancillary = (tensors[tensor] for tensor in pair)
                tensor = self._decode(table.Tensors(output), tensors[output], encoded, ancillary)
                if tensor is not None:
                    yield output, tensor

    def _decode(self, table: Any, tensor: Tensor, encoded: Tensor, ancillary: Tensor) -> Tensor | None:
        if encoded.values is None or ancillary.values is None:
            raise ValueError("DECODE takes a tensor that is no constant.")
        zeros, axis = self._zero_points(table) if "int" in tensor.dtype else ((0,), 0)
        seen = (encoded.buffer, ancillary.buffer, tensor.dtype, tensor.shape, zeros, axis)
        if seen not in self._unpacked:
            raw, more = encoded.values.raw, ancillary.values.raw
            self._spend(raw.nbytes + more.nbytes)
            along = [-1 if number == axis and len(zeros) > 1 else 1 for number in range(len(tensor.shape))]
            spread = np.reshape(np.array(zeros), along)
            decoded = decode_weight(raw, more, dtype=tensor.dtype, shape=tensor.shape, zeros=spread)
            if decoded is None:
                return None
            stored = (decoded[1], raw.nbytes + more.nbytes - decoded[1])
            flat = decoded[0].view(np.uint8)
            values = TensorValues(flat, tensor.dtype, tensor.shape, zeros, axis, stored=stored)
            self._unpacked[seen] = replace(
                tensor,
                constant=True,
                sparse=bool(more[0] == PRUNED),
                nnz=values.nnz(),
                bytes=sum(stored),
                buffer=encoded.buffer,
                values=values,
            )
        return replace(self._unpacked[seen], name=tensor.name)

    def _nnz(self, values: TensorValues, index: int) -> int | None:
        seen = (index, values.dtype, values.shape, values.zeros, values.axis, values.dimensions is None)
        if seen not in self._counted:
            self._spend(values.raw.nbytes)
            self._counted[seen] = values.nnz()
        return self._counted[seen]

    def _dimensions(self, table: Any, shape: tuple[int, ...]) -> tuple[SparseDimension, ...] | None:
        if table is None:
            return None
        tables = self._tables(table.DimMetadata, table.DimMetadataLength())
        stored = [self._dimension(dimension) for dimension in tables]
        order = self._numbers(table.TraversalOrderAsNumpy())
        return arrange(shape, order, blocks=self._numbers(table.BlockMapAsNumpy()), stored=stored)

    def _dimension(self, table: Any) -> SparseDimension:
        if table.Format() == self._dense:
            return SparseDimension(table.DenseSize())
        segments = self._indices(table.ArraySegmentsType(), table.ArraySegments())
        return SparseDimension(0, 0, segments, self._indices(table.ArrayIndicesType(), table.ArrayIndices()))

    def _indices(self, kind: int, table: Any) -> np.ndarray:
        if kind not in self._vectors or table is None:
            raise ValueError("a dimension of a sparse tensor has no indices.")
        vector = self._vectors[kind]()
        vector.Init(table.Bytes, table.Pos)
        numbers = vector.ValuesAsNumpy()
        if isinstance(numbers, int):
            return np.zeros(0, np.uint8)
        self._spend(numbers.nbytes)
        return numbers

    def _zero_points(self, table: Any) -> tuple[tuple[int, ...], int]:
        quantization = table.Quantization()
        if quantization is None:
            return (0,), 0
        zeros = self._numbers(quantization.ZeroPointAsNumpy()) or (0,)
        return (zeros[:1] if len(set(zeros)) == 1 else zeros), quantization.QuantizedDimension()

    def _values(self, buffer: Any) -> Any:
        if buffer.Offset() > 1:  # files above 2 GB keep the values behind the flatbuffer
            start, size = buffer.Offset(), buffer.Size()
            if start + size > len(self._data):
                raise ValueError(f"values end at {start + size:,}.")
            return memoryview(self._data)[start : start + size]
        return b"" if buffer.DataIsNone() else buffer.DataAsNumpy()

    def _code(self, table: Any) -> str:
        # Codes beyond 127 live in a newer field, which old files lack.
        number = max(table.BuiltinCode(), table.DeprecatedBuiltinCode())
        if number == self._custom:
            return self._text(table.CustomCode()) or "CUSTOM"
        return self._builtins.get(number, f"BUILTIN_{number}").upper()

    def _named(self, graph: Subgraph, indices: tuple[int, ...], signature: Any) -> dict[str, int]:
        tensors = [(index, graph.tensors[index].name) for index in indices]
        signed = {}
        for entry in signature or ():
            index = _in_range(entry.TensorIndex(), graph.tensors)
            signed[self._text(entry.Name())] = (index, graph.tensors[index].name)
        return in_order(tensors, signed)

    def _infos(self, table: Any, graph: Subgraph, indices: dict[str, int]) -> tuple[TensorInfo, ...]:
        infos = []
        for name, index in indices.items():
            tensor = graph.tensors[index]
            shape = self._numbers(table.Tensors(index).ShapeSignatureAsNumpy()) or tensor.shape
            infos.append(TensorInfo(name, tuple(None if n < 0 else n for n in shape), tensor.dtype))
        return tuple(infos)

    def _tables(self, get: Callable[[int], Any], length: int) -> Iterator[Any]:
        self._spend(4 * length)
        return map(get, range(length))

    def _numbers(self, vector: Any) -> tuple[int, ...]:
        if isinstance(vector, int):  # what the schema gives for a vector that is not there
            return ()
        self._spend(vector.nbytes)
        return tuple(vector.tolist())

    def _tensor_indices(self, vector: Any, count: int) -> tuple[int, ...]:
        indices = self._numbers(vector)
        if any(not -1 <= index < count for index in indices):
            raise ValueError(f"a tensor's index is outside 0 to {count - 1}.")
        return indices

    def _text(self, raw: bytes | None) -> str:
        self._spend(len(raw or b""))
        return (raw or b"").decode()

    def _spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise ValueError("its parts together are longer than it is.")


def _in_range(index: int, items: Any) -> int:
    if not 0 <= index < len(items):
        raise IndexError(f"index {index} is outside 0 to {len(items) - 1}")
    return index


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name.lower() for name, value in vars(enumeration).items() if isinstance(value, int)}
