"""Check that entries of sparse tensors lie inside them: interpreters write where a file says, without looking."""

from __future__ import annotations

import struct

from tfprune.export.file.tflite.flatbuffer_table import FlatbufferTable
from tfprune.export.file.tflite.sparse_positions import SparseDimension, arrange, positions

MAX_ENTRIES_PER_BYTE = 8  # entries looked at for each byte of the file, at most: tensors can share their values
ENTRY_BYTES = {0: 4, 1: 2, 2: 4, 3: 1, 4: 8, 7: 2, 9: 1, 10: 8}  # bytes of an entry, by the number of its type
INDEX_VECTOR_TYPES = {1: "<i4", 2: "<u2", 3: "u1"}  # by the number of the kind of a vector


def check_sparse(data: bytes | memoryview) -> None:
    """Refuse a file with a sparse tensor whose segments and indices do not lead to its values one by one.

    Args:
        data: A plain file that `check_structure` lets through.

    Raises:
        ValueError: If there is one.
    """
    try:
        _check_tensors(FlatbufferTable.root(data), MAX_ENTRIES_PER_BYTE * len(data))
    except struct.error as error:
        raise ValueError("a part lies outside the file.") from error


def _check_tensors(model: FlatbufferTable, left: int) -> None:
    buffers = model.tables(4)
    tensors = [tensor for graph in model.tables(2) for tensor in graph.tables(0)]
    for tensor in tensors:
        sparsity, kind, index = tensor.table(6), tensor.number(1, "<b"), tensor.number(2, "<I")
        # A file above 2 GB keeps values behind the flatbuffer, where a second number of its buffer says.
        if sparsity is None or kind not in ENTRY_BYTES or index >= len(buffers) or buffers[index].number(1, "<Q"):
            continue
        count = len(buffers[index].vector(0, "u1")) // ENTRY_BYTES[kind]
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
    if None in vectors or not set(kinds) <= set(INDEX_VECTOR_TYPES):
        raise ValueError("a dimension of a sparse tensor has no indices.")
    segments, indices = (
        vector.vector(0, INDEX_VECTOR_TYPES[kind]) for kind, vector in zip(kinds, vectors, strict=True) if vector
    )
    return SparseDimension(0, 0, segments, indices)
