"""Read what a .tflite file holds, without running it and without trusting it."""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from tfprune.export.file import schema
from tfprune.export.file.report import TensorInfo, reason_of
from tfprune.export.file.sparse_tensors import (
    OPERATOR,
    PRUNED,
    WEIGHTS,
    FlatbufferTable,
    SparseDimension,
    TensorValues,
    arrange,
    decode_weight,
    positions,
)

# Check that a flatbuffer is whole. Older interpreters crash on files that are cut short; newer ones refuse them.

IDENTIFIER = b"TFL3"  # bytes 4 to 8 of every TFLite file

# Where the parts of a .tflite lie: for each kind of table the slots that lead on, and to what. A number is a vector
# of entries with so many bytes, a name is a table, a list is a vector of tables, a dict is a table of the kind that
# the slot before it names by a number. Slots not named hold no parts, or parts that no interpreter needs.
_Part = int | str | list[str] | dict[int, str]
_PLACES: _Part = {1: "int32s", 2: "uint16s", 3: "uint8s"}
_LAYOUT: dict[str, dict[int, _Part]] = {
    "model": {
        1: ["code"],
        2: ["graph"],
        3: 1,
        4: ["buffer"],
        5: 4,
        6: ["metadata"],
        7: ["signature"],
        8: ["store"],
        9: ["any"],
    },
    "code": {1: 1},
    "graph": {0: ["tensor"], 1: 4, 2: 4, 3: ["operator"], 4: 1},
    "tensor": {0: 4, 3: 1, 4: "quantization", 6: "sparsity", 7: 4},
    "quantization": {0: 4, 1: 4, 2: 4, 3: 8},
    "sparsity": {0: 4, 1: 4, 2: ["dimension"]},
    "dimension": {3: _PLACES, 5: _PLACES},
    "int32s": {0: 4},
    "uint16s": {0: 2},
    "uint8s": {0: 1},
    "operator": {1: 4, 2: 4, 4: "any", 5: 1, 7: 1, 8: 4},
    "buffer": {0: 1},
    "metadata": {0: 1},
    "store": {0: 1},
    "signature": {0: ["endpoint"], 1: ["endpoint"], 2: 1},
    "endpoint": {0: 1},
    "any": {},
}


def check_structure(data: bytes | memoryview) -> None:
    """Refuse a TFLite flatbuffer of which a part lies outside its bytes.

    What the parts say is not checked: a file that passes can still be wrong.

    Args:
        data: The plain file.

    Raises:
        ValueError: If a table, a vector or a text goes beyond the end, or parts contain each other without end.
    """
    _Walk(data, smallest=len(data)).model()


class Vector(NamedTuple):
    """Where a vector lies in a file.

    Attributes:
        start: Its first byte.
        size: Bytes that it takes.
        row: Bytes of one entry of the first dimension, where it holds the values of a tensor; else all.
    """

    start: int
    size: int
    row: int


def long_vectors(data: bytes, *, smallest: int) -> list[Vector]:
    """Find where weights and other long vectors of a TFLite flatbuffer lie.

    Args:
        data: The plain file.
        smallest: Bytes that a vector needs to be listed, at least 1.

    Returns:
        The vectors in the order of the file. None overlaps another.

    Raises:
        ValueError: If the file is not whole, as `check_structure` has it.
    """
    walk = _Walk(data, smallest=smallest)
    walk.model()
    rows = {start: walk.rows.get(number, 1) for number, start in enumerate(walk.buffers)}
    vectors, end = [], 0
    for start, size in sorted(walk.vectors.items()):
        if start >= end:
            count = rows.get(start, 1)
            vectors.append(Vector(start, size, size if count < 1 or size % count else size // count))
            end = start + size
    return vectors


class _Walk:
    def __init__(self, data: bytes | memoryview, *, smallest: int) -> None:
        self.vectors: dict[int, int] = {}
        self.buffers: list[int] = []  # where the values of each begin; 0 without any
        self.rows: dict[int, int] = {}  # by number of the buffer: first dimension of its tensor
        self._data = data
        self._smallest = smallest
        self._left = len(data)  # a table takes at least four bytes, so a sound file has fewer
        self._room = len(data)  # vectors that together take more overlap: a file made to fill the list

    def model(self) -> None:
        try:
            self.table(_number("<I", self._data, 0), "model")
        except struct.error as error:
            raise ValueError("a part lies outside the file.") from error

    def table(self, start: int, kind: str) -> None:
        self._left -= 1
        if self._left < 0:
            raise ValueError("a part is used without end.")
        slots = start - _number("<i", self._data, start)
        size = _number("<H", self._data, slots)
        self._check_end(slots + size)
        self._check_end(start + _number("<H", self._data, slots + 2))

        def position(slot: int) -> int:
            entry = 4 + 2 * slot
            offset = _number("<H", self._data, slots + entry) if entry < size else 0
            return offset and start + offset

        if kind == "buffer":
            self.buffers.append(position(0) and self._vector(position(0)) + 4)
        if kind == "tensor" and position(0) and position(2):
            self._shape(self._vector(position(0)), _number("<I", self._data, position(2)))
        for slot, part in _LAYOUT[kind].items():
            if isinstance(part, dict):
                named = position(slot - 1)
                part = part.get(_number("<B", self._data, named) if named else 0, "any")
            if position(slot):
                self._part(position(slot), part)

    def _vector(self, position: int) -> int:
        return position + _number("<I", self._data, position)

    def _shape(self, start: int, buffer: int) -> None:
        if _number("<I", self._data, start):  # scalars have no dimension
            self.rows[buffer] = _number("<i", self._data, start + 4)

    def _part(self, position: int, part: int | str | list[str]) -> None:
        start = self._vector(position)
        if isinstance(part, str):
            self.table(start, part)
            return
        length = _number("<I", self._data, start)
        width = part if isinstance(part, int) else 4
        self._check_end(start + 4 + length * width)
        if isinstance(part, list):
            for entry in range(start + 4, start + 4 + 4 * length, 4):
                self.table(entry + _number("<I", self._data, entry), part[0])
        elif self._smallest <= length * width <= self._room and start + 4 not in self.vectors:
            self.vectors[start + 4] = length * width
            self._room -= length * width

    def _check_end(self, end: int) -> None:
        if end > len(self._data):
            raise ValueError("a part goes beyond the end of the file.")


def _number(layout: str, data: bytes | memoryview, position: int) -> int:
    if position < 0:
        raise ValueError("a part begins before the file.")
    return struct.unpack_from(layout, data, position)[0]


# What a .tflite file holds: graphs, operators and tensors.


@dataclass(frozen=True)
class Tensor:
    """A tensor of one graph.

    Attributes:
        name: Its name in the file.
        shape: Its shape, as the interpreter allocates it; free dimensions are 1.
        dtype: Type of its entries, such as `int8`.
        constant: True when its values are in the file.
        sparse: True when only some of the entries are stored.
        size: Number of entries.
        nnz: Entries that do not mean zero (for quantized values: that differ from the zero point). None when
            there are no values in the file, or the type is not a number.
        bytes: What the values take in the file, without the positions of a sparse tensor.
        buffer: Where they lie: tensors with the same buffer share their values.
        values: The values themselves, where `nnz` counts them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool
    sparse: bool
    size: int
    nnz: int | None
    bytes: int
    buffer: int
    values: TensorValues | None = field(default=None, compare=False, repr=False)

    @property
    def weight(self) -> bool:
        """True for a kernel or an embedding: constant real numbers of rank 2 or more."""
        return self.constant and len(self.shape) >= 2 and self.dtype in WEIGHTS and self.nnz is not None


@dataclass(frozen=True)
class Operator:
    """One step of a graph: its name and the indices of its tensors (-1 for an optional one left out)."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Subgraph:
    """A graph: the main one, or the body of a loop or a branch."""

    name: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """The content of a .tflite file.

    Attributes:
        subgraphs: The main graph first.
        inputs: Inputs of the main graph, in the order in which `Runner` takes a list.
        outputs: Outputs of the main graph, in the order in which `Runner` returns a list.
        input_tensors: The tensors of the main graph that `inputs` are, by their indices.
        output_tensors: The same of `outputs`.
    """

    subgraphs: tuple[Subgraph, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    input_tensors: tuple[int, ...]
    output_tensors: tuple[int, ...]

    @property
    def ops(self) -> dict[str, int]:
        """How often each operator occurs, in all graphs, by name."""
        names = [operator.name for graph in self.subgraphs for operator in graph.operators]
        return dict(sorted(Counter(names).items()))

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """Kernels and embeddings of all graphs, those that share their values once."""
        by_buffer = {tensor.buffer: tensor for graph in self.subgraphs for tensor in graph.tensors if tensor.weight}
        return tuple(by_buffer.values())


# The order of a file's inputs and outputs by its signature; the converter's own follows a hash of the names.

_OUTPUT_NUMBER = re.compile(r"output_(\d+)")


def in_order(tensors: Sequence[tuple[int, str]], signature: Mapping[str, tuple[int, str]]) -> dict[str, int]:
    """Name the inputs or outputs of a file, in the order in which a list holds them.

    Args:
        tensors: Index and name of each, as the graph lists them.
        signature: The same by the signature's names; empty when there is none.

    Returns:
        Index by name. Outputs that the converter numbered go by their number, all others as the graph lists
        them; a signature that does not belong to these tensors is not used.
    """
    if not signature or set(signature.values()) != set(tensors):
        return {name: index for index, name in tensors}
    matches = [_OUTPUT_NUMBER.fullmatch(name) for name in signature]
    if all(matches):
        ordered = sorted(signature, key=lambda name: int(name.removeprefix("output_")))
    else:
        ordered = sorted(signature, key=lambda name: tensors.index(signature[name]))
    return {name: signature[name][0] for name in ordered}


def keep_order(data: bytes, inputs: Sequence[str]) -> bytes:
    """Put the inputs and outputs of a file in the order of the Keras model.

    Args:
        data: A .tflite file with one signature, fresh from the converter.
        inputs: Names of the inputs, in the order wanted. Outputs are ordered by their number, or by their key
            where the model returns a dict.

    Returns:
        The same file; only the lists of input and output tensors are permuted.
    """
    edited = bytearray(data)
    model = schema.Model.GetRootAs(edited, 0)
    signature = model.SignatureDefs(0)
    graph = model.Subgraphs(signature.SubgraphIndex())
    input_indices = {_name(signature.Inputs(index)): index for index in range(signature.InputsLength())}
    output_indices = {_name(signature.Outputs(index)): index for index in range(signature.OutputsLength())}
    _arrange(graph.InputsAsNumpy(), [signature.Inputs(input_indices[name]).TensorIndex() for name in inputs])
    ordered = sorted(output_indices, key=_output_key)
    _arrange(graph.OutputsAsNumpy(), [signature.Outputs(output_indices[name]).TensorIndex() for name in ordered])
    return bytes(edited)


def _arrange(tensors: Any, wanted: list[int]) -> None:
    # One tensor can be two outputs; the file then lists it once, and there is no order to keep.
    if sorted(tensors.tolist()) == sorted(wanted):
        tensors[:] = wanted


def _name(entry: Any) -> str:
    return entry.Name().decode()


def _output_key(name: str) -> tuple[int, str]:
    match = _OUTPUT_NUMBER.fullmatch(name)
    return (int(match[1]) if match else 0, name)


_VERSION = 3
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
    root_type = schema.Model  # here, where a missing package is not taken for damage
    if data[4:8] != IDENTIFIER:
        raise ValueError(
            f"Expected a TFLite file (bytes 4 to 8 are {IDENTIFIER!r}). "
            f"Received: {len(data):,} bytes that begin with {bytes(data[:8])!r}."
        )
    try:
        return _Reader(data, root_type).graph()
    except DAMAGE_ERRORS as error:
        raise ValueError(
            f"Expected a whole TFLite file. Received: {len(data):,} bytes that are damaged or cut short "
            f"({reason_of(error)}). Copy the file again."
        ) from error


class _Reader:
    """Walks a flatbuffer table by table. Nothing is copied before its length is compared with the file's."""

    def __init__(self, data: bytes, root_type: Any) -> None:
        self._data = data
        self._model = root_type.GetRootAs(data, 0)
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
        if model.Version() != _VERSION:
            raise ValueError(f"the format's version is {model.Version()}, not {_VERSION}.")
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


# Check that entries of sparse tensors lie inside them: interpreters write where a file says, without looking.

_MAX_ENTRIES_PER_BYTE = 8  # entries looked at for each byte of the file, at most: tensors can share their values
_ENTRY_BYTES = {0: 4, 1: 2, 2: 4, 3: 1, 4: 8, 7: 2, 9: 1, 10: 8}  # bytes of an entry, by the number of its type
_INDEX_VECTOR_TYPES = {1: "<i4", 2: "<u2", 3: "u1"}  # by the number of the kind of a vector


def check_sparse(data: bytes | memoryview) -> None:
    """Refuse a file with a sparse tensor whose segments and indices do not lead to its values one by one.

    Args:
        data: A plain file that `check_structure` lets through.

    Raises:
        ValueError: If there is one.
    """
    try:
        _check_sparse_tensors(FlatbufferTable.root(data), _MAX_ENTRIES_PER_BYTE * len(data))
    except struct.error as error:
        raise ValueError("a part lies outside the file.") from error


def _check_sparse_tensors(model: FlatbufferTable, left: int) -> None:
    buffers = model.tables(4)
    tensors = [tensor for graph in model.tables(2) for tensor in graph.tables(0)]
    for tensor in tensors:
        sparsity, kind, index = tensor.table(6), tensor.number(1, "<b"), tensor.number(2, "<I")
        # A file above 2 GB keeps values behind the flatbuffer, where a second number of its buffer says.
        if sparsity is None or kind not in _ENTRY_BYTES or index >= len(buffers) or buffers[index].number(1, "<Q"):
            continue
        count = len(buffers[index].vector(0, "u1")) // _ENTRY_BYTES[kind]
        left -= count + 1
        if left < 0:
            raise ValueError("sparse tensors share their values too often.")
        positions(_dimensions(tensor, sparsity), count)


def _dimensions(tensor: FlatbufferTable, sparsity: FlatbufferTable) -> tuple[SparseDimension, ...]:
    shape = tuple(tensor.vector(0, "<i4").tolist())
    order, blocks = sparsity.vector(0, "<i4").tolist(), sparsity.vector(1, "<i4").tolist()
    return arrange(shape, order, blocks=blocks, stored=[_dimension(table) for table in sparsity.tables(2)])


def _dimension(table: FlatbufferTable) -> SparseDimension:
    if table.number(0, "<b") == 0:
        return SparseDimension(table.number(1, "<i"))
    kinds, vectors = (table.number(2, "<B"), table.number(4, "<B")), (table.table(3), table.table(5))
    if None in vectors or not set(kinds) <= set(_INDEX_VECTOR_TYPES):
        raise ValueError("a dimension of a sparse tensor has no indices.")
    segments, indices = (
        vector.vector(0, _INDEX_VECTOR_TYPES[kind]) for kind, vector in zip(kinds, vectors, strict=True) if vector
    )
    return SparseDimension(0, 0, segments, indices)


# Check that a whole file holds all that it needs: foreign tools keep weights elsewhere, or forget them.

_RESHAPE, _SHAPE = 22, 1  # an input of it that may lack values, unless it is a row of numbers
_WITHOUT_BYTES = {13, 14}  # resources and variants, by the number of a tensor's type
_CONVERT_AGAIN = "Convert the network again"


class Lack(NamedTuple):
    """What a whole file lacks.

    Attributes:
        expected: What was expected.
        received: How the file is instead, after "which".
        advice: What to do.
    """

    expected: str
    received: str
    advice: str


def find_lack(data: bytes | memoryview) -> Lack | None:
    """Return what a whole file lacks: a known format, its buffers, or what its signatures name; None if nothing.

    Args:
        data: A plain file that `check_structure` lets through.

    Raises:
        ValueError: If a number lies outside of the file.
    """
    try:
        model = FlatbufferTable.root(data)
        graphs, buffers = model.tables(2), model.tables(4)
        lack = _unknown_version(model) or _values_elsewhere(model, graphs, buffers, size=len(data))
        return lack or _missing_buffer(graphs, len(buffers)) or _stale_signature(model.tables(7), graphs)
    except struct.error as error:
        raise ValueError("a part lies outside the file.") from error


def _unknown_version(model: FlatbufferTable) -> Lack | None:
    if (version := model.number(0, "<I")) != _VERSION:
        advice = "Install the newest tfprune and ai-edge-litert, or convert the network with older tools."
        return Lack(f"a TFLite file of version {_VERSION}", f"has version {version}", advice)
    return None


def _values_elsewhere(
    model: FlatbufferTable, graphs: list[FlatbufferTable], buffers: list[FlatbufferTable], *, size: int
) -> Lack | None:
    if model.tables(9) or any(tensor.number(10, "<I") for graph in graphs for tensor in graph.tables(0)):
        names = ", ".join(repr(store.text(0)) for store in model.tables(8)) or "other files"
        advice = f"{_CONVERT_AGAIN}, with all weights in the .tflite file."
        return Lack("a TFLite file with its weights inside", f"keeps weights in {names}", advice)
    end = max(
        (buffer.number(1, "<Q") + buffer.number(2, "<Q") for buffer in buffers if _is_behind(buffer)), default=0
    )
    if end > size:
        received = f"has {size:,} bytes, and names values up to byte {end:,}"
        return Lack("a TFLite file with all of its weights", received, "Copy all of the file again.")
    return None


def _is_behind(buffer: FlatbufferTable) -> bool:
    """Return True if the values of a buffer lie behind the flatbuffer, as in files above 2 GB."""
    return buffer.number(1, "<Q") > 1


def _missing_buffer(graphs: list[FlatbufferTable], count: int) -> Lack | None:
    for tensor in (tensor for graph in graphs for tensor in graph.tables(0)):
        if (index := tensor.number(2, "<I")) >= max(count, 1):
            return _lost_weights(f"has no buffer {index}, in which tensor {tensor.text(3)!r} lies")
    return None


def _lost_weights(received: str) -> Lack:
    return Lack("a TFLite file with its weights", received, f"{_CONVERT_AGAIN}: this file lost its weights.")


def find_missing_values(data: bytes | memoryview) -> Lack | None:
    """Return that an operator of a file reads a tensor that nothing gives values; None if there is no such tensor.

    Args:
        data: A plain file that the checks before this one let through.
    """
    model = FlatbufferTable.root(data)
    reshapes = {index for index, code in enumerate(model.tables(1)) if _builtin_number(code) == _RESHAPE}
    buffers = enumerate(model.tables(4))
    filled = {index for index, buffer in buffers if len(buffer.vector(0, "u1")) or _is_behind(buffer)}
    for graph in model.tables(2):
        name = _without_values(graph, filled, reshapes=reshapes)
        if name is not None:
            return _lost_weights(f"has no values for tensor {name!r}, which an operator reads")
    return None


def _without_values(graph: FlatbufferTable, filled: set[int], *, reshapes: set[int]) -> str | None:
    """Return the name of the first tensor that an operator reads, and that nothing gives values; None without one."""
    tensors, operators = graph.tables(0), graph.tables(3)
    given = {*graph.vector(1, "<i4").tolist()}.union(*(operator.vector(2, "<i4").tolist() for operator in operators))
    for operator in operators:
        for place, index in enumerate(operator.vector(1, "<i4").tolist()):
            if index in given or not 0 <= index < len(tensors):
                continue
            tensor = tensors[index]
            shape, is_variable = tensor.vector(0, "<i4").tolist(), tensor.number(5, "<b")
            needs_none = is_variable or 0 in shape or tensor.number(1, "<b") in _WITHOUT_BYTES
            needs_none |= operator.number(0, "<I") in reshapes and place == _SHAPE and len(shape) != 1
            if not needs_none and tensor.number(2, "<I") not in filled:
                return tensor.text(3)
    return None


def _stale_signature(signatures: list[FlatbufferTable], graphs: list[FlatbufferTable]) -> Lack | None:
    expected, advice = (
        "a TFLite file whose signatures name its own graphs and tensors",
        f"{_CONVERT_AGAIN}: it was edited.",
    )
    for signature in signatures:
        number = signature.number(4, "<I")
        if number >= len(graphs):
            received = f"has a signature {signature.text(2)!r} of graph {number}, of {len(graphs)} graphs"
            return Lack(expected, received, advice)
        count = len(graphs[number].tables(0))
        for end in (*signature.tables(0), *signature.tables(1)):
            if (index := end.number(1, "<I")) >= count:
                tensor = f"tensor {index} {end.text(0)!r}, of {count} tensors"
                received = f"has a signature {signature.text(2)!r} that names {tensor}"
                return Lack(expected, received, advice)
    return None


def _builtin_number(code: FlatbufferTable) -> int:
    return max(code.number(0, "<b"), code.number(3, "<i"))


# Check what interpreters take for granted: that operators fit their tensors, and that integers mean numbers.

# By the operator's number: its name, and the number of its kind of options, which begin with the number of outputs.
_COUNTED = {49: ("SPLIT", 35), 88: ("UNPACK", 64), 102: ("SPLIT_V", 79)}
_COUNTED_INPUTS = {83: ("PACK", 59)}  # the same, with the number of inputs
# The same for convolutions and pooling: the number of their kind of options, and the slots in which strides stand.
_STRIDES = {1: (5, 2), 3: (1, 2), 4: (2, 2), 12: (5, 2), 17: (5, 2), 67: (49, 2), 132: (106, 3), 141: (106, 3)}
# How many inputs an operator needs where it may lack others, such as biases, else all of its inputs, at
# least one. What a custom one needs is its own; those of variables and tables need none.
_NEEDED = {3: 2, 4: 2, 9: 2, 16: 1, 27: 2, 32: 0, 35: 2, 44: 1, 46: 2, 52: 1, 67: 3, 129: 0, 132: 2, 136: 0}
_NEEDED |= {141: 3, 142: 0}
_LAST_KNOWN = 209  # the largest number of an operator here: what later ones need is not known
_LISTED = {4: 3, 45: 4, 126: 2}  # how many some list at least: a depthwise convolution, STRIDED_SLICE, BATCH_MATMUL
_WITHOUT_OUTPUT = {32, 118, 119, 129, 138, 144}  # custom ones, IF, WHILE, and those that set a variable
# Those that compute with real numbers only: integers of 8 and 16 bits need a scale there.
_WITH_SCALES = {0, 3, 4, 9, 11, 14, 18, 19, 20, 21, 25, 28, 41, 42, 50, 54, 67, 76, 98, 99, 111, 114, 117, 126}
_DENSIFY, _FLOAT32, _INT16 = 124, 0, 7
_SUMS, _SQUARED_DIFFERENCE, _PRODUCTS, _COMPARISONS = {0, 41}, 99, {3, 4, 9}, {58, 61, 62, 63, 71, 72}
_OF_ONE_TYPE = {0, 18, 41, 42, 99} | _COMPARISONS  # operators on pairs
_ZERO_POINT_RANGES = {
    3: (0, 255),
    7: (-32768, 32767),
    9: (-128, 127),
}  # of zero points, by the number of a tensor's type
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)  # below it numbers lose digits, and their inverse overflows
# Bytes of a tensor that is not in the file: as many as these, and beyond them so many times the bytes of the file.
_ALWAYS_ALLOWED_BYTES, _MAX_EXPANSION = 2**29, 1000


def check_operators(data: bytes | memoryview) -> None:
    """Refuse a file with an operator that does not fit its tensors.

    That is: one that takes a tensor apart into another number of outputs than it says, or joins another number of
    inputs; one without an input or output that it needs; one that writes over an input of its graph, a constant or
    what another gives; one that unpacks a sparse tensor into another shape; one with strides of 0; and one that
    computes with integers whose scales are missing or do not fit each other. Also a file without a graph; a graph
    with an input or output that is not a tensor of it, or with an output that nothing makes; a tensor that is far
    larger than its file explains; integers with a zero point that is none of them, or with a scale that is not a
    number above zero; and metadata in a buffer, or a signature of a graph, that is not there.

    Args:
        data: A plain file that `check_structure` lets through.

    Raises:
        ValueError: If there is one.
    """
    try:
        model = FlatbufferTable.root(data)
        codes = [_builtin_number(code) for code in model.tables(1)]
        buffers = model.tables(4)
        filled = {index for index, buffer in enumerate(buffers) if len(buffer.vector(0, "u1"))}
        if any(entry.number(1, "<I") >= len(buffers) for entry in model.tables(6)):
            raise ValueError("its metadata are in a buffer that it does not have.")
        graphs = model.tables(2)
        if not graphs:
            raise ValueError("it holds no graph.")
        if any(signature.number(4, "<I") >= len(graphs) for signature in model.tables(7)):
            raise ValueError("a signature starts at a graph that it does not have.")
        most = max(_ALWAYS_ALLOWED_BYTES, _MAX_EXPANSION * len(data))
        for graph in graphs:
            tensors = [_Tensor.of(table) for table in graph.tables(0)]
            for tensor in tensors:
                tensor.check(most)
                if tensor.buffer in filled and 0 in tensor.shape:
                    raise ValueError(f"a constant of shape {tensor.shape} has values.")
            _check_graph(graph, tensors, codes, filled)
    except struct.error as error:
        raise ValueError("a part lies outside the file.") from error


class _Tensor(NamedTuple):
    """What operators have to fit."""

    shape: list[int]
    kind: int
    buffer: int
    is_variable: bool
    scales: np.ndarray
    zeros: np.ndarray

    @classmethod
    def of(cls, table: FlatbufferTable) -> _Tensor:
        quantization = table.table(4)
        return cls(
            table.vector(0, "<i4").tolist(),
            table.number(1, "<b"),
            table.number(2, "<I"),
            bool(table.number(5, "<b")),
            quantization.vector(2, "<f4") if quantization else np.zeros(0, "<f4"),
            quantization.vector(3, "<i8") if quantization else np.zeros(0, "<i8"),
        )

    def check(self, most: int) -> None:
        if math.prod(self.shape) * _ENTRY_BYTES.get(self.kind, 1) > most:
            raise ValueError(f"a tensor of shape {self.shape} takes more than {most:,} bytes.")
        if self.kind not in _ZERO_POINT_RANGES:
            return
        if not (np.isfinite(self.scales) & (self.scales >= _SMALLEST_SCALE)).all():
            raise ValueError("a tensor of integers has a scale that is not a number above zero.")
        low, high = _ZERO_POINT_RANGES[self.kind]
        if not ((low <= self.zeros) & (self.zeros <= high)).all():
            raise ValueError(f"a tensor of integers has a zero point outside {low} to {high}.")


def _check_graph(graph: FlatbufferTable, tensors: list[_Tensor], codes: list[int], filled: set[int]) -> None:
    if any(not 0 <= end < len(tensors) for slot in (1, 2) for end in graph.vector(slot, "<i4").tolist()):
        raise ValueError("a graph takes or gives a tensor that it has not.")
    written = {index for index, tensor in enumerate(tensors) if tensor.buffer in filled}
    written |= set(graph.vector(1, "<i4").tolist())
    for operator in graph.tables(3):
        index = operator.number(0, "<I")
        code = codes[index] if index < len(codes) else -1
        inputs, outputs = operator.vector(1, "<i4").tolist(), operator.vector(2, "<i4").tolist()
        _check_options(operator, code, inputs=len(inputs), outputs=len(outputs))
        needed = _NEEDED.get(code, max(1, len(inputs)) if code <= _LAST_KNOWN else 0)
        if len(inputs) < _LISTED.get(code, needed) or -1 in inputs[:needed]:
            raise ValueError(f"an operator (number {code}) lacks an input that it needs.")
        if outputs[:1] in ([], [-1]) and code not in _WITHOUT_OUTPUT:
            raise ValueError(f"an operator (number {code}) lacks its output.")
        for output in outputs:
            if output in written:
                raise ValueError(f"an operator (number {code}) writes over tensor {output}.")
            written |= {output} - {-1}
        if all(-1 <= end < len(tensors) for end in [*inputs, *outputs]):
            input_tensors, output_tensors = ([tensors[end] for end in ends if end >= 0] for ends in (inputs, outputs))
            _check_tensors(code, input_tensors, output_tensors)
    made_by_none = [tensors[end] for end in set(graph.vector(2, "<i4").tolist()) - written]
    # A variable, and a tensor without entries, need no making.
    if any(all(tensor.shape) and not tensor.is_variable for tensor in made_by_none):
        raise ValueError("a graph gives a tensor that no operator makes.")


def _check_options(operator: FlatbufferTable, code: int, *, inputs: int, outputs: int) -> None:
    kind, options = operator.number(3, "<B"), operator.table(4)
    for counted, count, ends in ((_COUNTED, outputs, "outputs"), (_COUNTED_INPUTS, inputs, "inputs")):
        name, expected = counted.get(code, ("", 0))
        said = options.number(0, "<i") if options and kind == expected else 0
        if name and said != count:
            raise ValueError(f"{name} with {count} {ends} says that it has {said}.")
    if code in _STRIDES:
        expected, count = _STRIDES[code]
        strides = (
            [options.number(slot, "<i") for slot in range(1, 1 + count)] if options and kind == expected else [0]
        )
        if 0 in strides:
            raise ValueError(f"an operator (number {code}) has strides of 0.")


def _check_tensors(code: int, inputs: list[_Tensor], outputs: list[_Tensor]) -> None:
    if code == _DENSIFY:
        shapes = [tensor.shape for tensor in [*inputs, *outputs]]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"DENSIFY makes a tensor of shape {shapes[-1]} from one of {shapes[0]}.")
    if code in _OF_ONE_TYPE and len({tensor.kind for tensor in inputs}) > 1:
        raise ValueError(f"an operator (number {code}) takes numbers of different types.")
    if code in _WITH_SCALES or code in _COMPARISONS and all(tensor.kind != _INT16 for tensor in inputs):
        _check_scales(code, inputs, outputs)


def _check_scales(code: int, inputs: list[_Tensor], outputs: list[_Tensor]) -> None:
    integers = [tensor for tensor in [*inputs, *outputs] if tensor.kind in _ZERO_POINT_RANGES]
    if any(not len(tensor.scales) for tensor in integers):
        raise ValueError(f"an operator (number {code}) computes with integers that have no scale.")
    if not inputs or inputs[0].kind not in _ZERO_POINT_RANGES:
        return  # weights are integers at most
    if any(tensor.kind == _FLOAT32 for tensor in outputs):
        raise ValueError(f"an operator (number {code}) makes real numbers from integers.")
    if not 0 < _multiplier(code, inputs, outputs) < 1:
        raise ValueError(f"an operator (number {code}) has scales that are too far from each other.")


def _multiplier(code: int, input_tensors: list[_Tensor], output_tensors: list[_Tensor]) -> float:
    """Return the factor by which a kernel scales integers, where it ends the process unless that is in (0, 1)."""
    inputs = np.array([tensor.scales.max(initial=0) for tensor in input_tensors], np.float32)
    output, largest = np.float32(output_tensors[0].scales.max(initial=0)), inputs.max()
    with np.errstate(all="ignore"):
        if code in _COMPARISONS:
            return float(largest)
        if code in _SUMS:
            return float(2 * largest / (output * np.float32(2**15 if output_tensors[0].kind == _INT16 else 2**20)))
        if code == _SQUARED_DIFFERENCE:
            return float((2 * largest) ** 2 / (output * np.float32(2**14)))
        return float(inputs[0] * inputs[1] / output / 256) if code in _PRODUCTS else 0.5
