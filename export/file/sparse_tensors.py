"""Values of constant tensors, dense and sparse, and weights that DECODE unpacks; tables without a schema."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tfprune.report import shortened

# Where the stored entries of a sparse tensor lie in the dense one, read off the file's dimension metadata.

_MAX_DENSE_ENTRIES = 2**48  # entries of the dense tensor: positions times the cells of a picture still fit 64 bits


@dataclass(frozen=True, eq=False)
class SparseDimension:
    """One dimension on the way to the entries.

    Attributes:
        size: Number of entries along it; in the file's metadata 0 for a compressed dimension.
        stride: Entries of the dense tensor from one index to the next.
        segments: Where the entries of each parent begin in `indices`; None when all are stored.
        indices: The indices that are stored; None when all are.
    """

    size: int
    stride: int = 0
    segments: np.ndarray | None = None
    indices: np.ndarray | None = None

    @property
    def bytes(self) -> int:
        """The bytes of segments and indices in the file."""
        return sum(vector.nbytes for vector in (self.segments, self.indices) if vector is not None)


def arrange(
    shape: tuple[int, ...], order: Sequence[int], *, blocks: Sequence[int], stored: Sequence[SparseDimension]
) -> tuple[SparseDimension, ...]:
    """Give the dimensions that are stored of a sparse tensor their sizes and strides.

    Args:
        shape: Shape of the dense tensor.
        order: Which axis each stored dimension walks along: those of the tensor, then those within a block.
        blocks: Which axis of the tensor each block dimension cuts.
        stored: The dimensions as the file describes them, in this order.

    Returns:
        The same dimensions with their real sizes and strides.

    Raises:
        ValueError: If the parts do not fit each other.
    """
    rank = len(shape)
    if math.prod(shape) > _MAX_DENSE_ENTRIES:
        raise ValueError(f"a sparse tensor has the shape {shape}.")
    complete = sorted(order) == list(range(rank + len(blocks))) and len(stored) == len(order)
    if not complete or len(set(blocks)) != len(blocks) or any(not 0 <= axis < rank for axis in blocks):
        raise ValueError("the dimensions of a sparse tensor do not fit its shape.")
    sizes = dict(zip(order, (dimension.size for dimension in stored), strict=True))
    cut = {axis: sizes[rank + index] for index, axis in enumerate(blocks)}
    if any(size < 1 or shape[axis] % size for axis, size in cut.items()):
        raise ValueError("the blocks of a sparse tensor do not fit its shape.")
    strides = [math.prod(shape[axis + 1 :]) for axis in range(rank)]
    outer = [(shape[axis] // cut.get(axis, 1), strides[axis] * cut.get(axis, 1)) for axis in range(rank)]
    walks = outer + [(cut[axis], strides[axis]) for axis in blocks]
    pairs = zip(order, stored, strict=True)
    dimensions = [replace(dimension, size=walks[walk][0], stride=walks[walk][1]) for walk, dimension in pairs]
    for original, dimension in zip(stored, dimensions, strict=True):
        if dimension.segments is None and original.size != dimension.size:
            raise ValueError(f"a dimension of a sparse tensor is {original.size} long, not {dimension.size}.")
    return tuple(dimensions)


def positions(dimensions: Sequence[SparseDimension], count: int) -> np.ndarray:
    """Return where each stored entry lies in the flattened dense tensor.

    Args:
        dimensions: What `arrange` returns.
        count: Number of stored entries.

    Raises:
        ValueError: If segments and indices do not lead to so many different entries.
    """
    most = max([count, *(len(dimension.segments) for dimension in dimensions if dimension.segments is not None)])
    flat = np.zeros(1, np.int64)
    for dimension in dimensions:
        flat = _all(dimension, flat, most) if dimension.segments is None else _some(dimension, flat)
    ordered = np.sort(flat)
    if len(flat) != count or np.any(ordered[1:] == ordered[:-1]):
        raise ValueError(f"a sparse tensor has {count:,} values for {len(flat):,} positions.")
    return flat


def _all(dimension: SparseDimension, parents: np.ndarray, most: int) -> np.ndarray:
    if max(1, len(parents)) * dimension.size > most:
        raise ValueError("a sparse tensor has more positions than the file has values.")
    return (parents[:, None] + dimension.stride * np.arange(dimension.size)).ravel()


def _some(dimension: SparseDimension, parents: np.ndarray) -> np.ndarray:
    assert dimension.segments is not None
    assert dimension.indices is not None
    segments, indices = dimension.segments.astype(np.int64), dimension.indices.astype(np.int64)
    whole = len(segments) == len(parents) + 1 and segments[0] == 0 and segments[-1] == len(indices)
    if not whole or np.any(np.diff(segments) < 0):
        raise ValueError("the segments of a sparse tensor do not fit its indices.")
    if np.any(indices < 0) or np.any(indices >= dimension.size):
        raise ValueError(f"an index of a sparse tensor is outside 0 to {dimension.size - 1}.")
    return np.repeat(parents, np.diff(segments)) + dimension.stride * indices


# What TensorFlow Lite for Microcontrollers unpacks while it runs: the two constants that DECODE makes a weight
# from.
#
# The operator `TFLM_DECODE` takes pairs. The encoded tensor holds one bit for each entry, 1 where a value is
# stored, or an index into a table for each; the ancillary tensor holds a header of 16 bytes and then the values, or
# the table.

OPERATOR = "TFLM_DECODE"
_VERSION = 1  # of the header and of what each kind keeps in it
_HEADER_BYTES = 16
_TABLE, PRUNED = 0, 2  # kinds; 1 are Huffman codes, others are for applications
_NO_TABLE_AXIS = 15  # where a table is for: an axis of the weight, with a table for each index along it, or all of it
_MAX_INDEX_BITS = 7  # bits of an index into a table
_TYPES = ("int8", "int16", "int32", "int64", "float32", "bool")


@dataclass(frozen=True, eq=False)
class DecodeConstants:
    """A weight as DECODE takes it.

    Attributes:
        kind: `"pruned"` or `"table"`.
        bits: What stands for each entry, packed into bytes.
        ancillary: The header, and the values or the table.
    """

    kind: str
    bits: np.ndarray
    ancillary: np.ndarray

    @property
    def bytes(self) -> int:
        """The bytes of both constants together."""
        return self.bits.nbytes + self.ancillary.nbytes


def encode_pruned(values: np.ndarray) -> DecodeConstants:
    """Leave out the entries whose bits are all 0: zeros, but not the -0.0 of floats, which may give another sign."""
    marks = _raw(values) != 0
    return DecodeConstants(
        "pruned", np.packbits(marks), _with_header(PRUNED, values.ravel()[marks], bytes([_VERSION]))
    )


def encode_table(values: np.ndarray) -> DecodeConstants | None:
    """Store an index of 1 to 7 bits for each entry, and the different values once; None if there are too many."""
    different, indices = np.unique(_raw(values), return_inverse=True)
    width = max(1, (len(different) - 1).bit_length())
    if width > _MAX_INDEX_BITS:
        return None
    bits = np.unpackbits(indices.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - width :]
    # Runtimes from before there was an axis walk over tables, one for each channel, and step by 0 stays at the first.
    header = bytes([_VERSION, _NO_TABLE_AXIS << 4 | width, 0])
    return DecodeConstants("table", np.packbits(bits), _with_header(_TABLE, different.view(values.dtype), header))


def decode_weight(
    encoded: np.ndarray, ancillary: np.ndarray, *, dtype: str, shape: tuple[int, ...], zeros: np.ndarray
) -> tuple[np.ndarray, int] | None:
    """Return the flat entries of a weight, and how many bytes of the two constants are values.

    Args:
        encoded: The bytes of the first constant.
        ancillary: Those of the second.
        dtype: Type of the weight.
        shape: Its shape.
        zeros: What stands for the entries that are left out: an array that broadcasts to the shape.

    Returns:
        None for a kind that only an application, or only some processors, can read.

    Raises:
        ValueError: If header, bits and values do not fit each other.
    """
    if len(ancillary) < _HEADER_BYTES or ancillary[1] != _VERSION:
        raise ValueError("a constant of DECODE has no header of a version that is known.")
    kind = int(ancillary[0])
    if kind not in (_TABLE, PRUNED):
        return None
    if dtype not in _TYPES or ancillary[4] != _VERSION:
        raise ValueError(f"DECODE makes a tensor of type {dtype} from a header of version {ancillary[4]}.")
    width = int(ancillary[5]) & 0b111 if kind == _TABLE else 1
    size = math.prod(shape)
    if not width or len(encoded) != math.ceil(size * width / 8):
        raise ValueError(f"DECODE makes {size:,} entries from {len(encoded):,} bytes of {width} bits each.")
    if (len(ancillary) - _HEADER_BYTES) % np.dtype(dtype).itemsize:
        raise ValueError(f"values of type {dtype} take {len(ancillary) - _HEADER_BYTES:,} bytes.")
    stored = np.frombuffer(ancillary.tobytes(), np.dtype(dtype).newbyteorder("<"), offset=_HEADER_BYTES)
    bits = np.unpackbits(encoded, count=size * width).reshape(size, width)
    if kind == _TABLE:
        return _looked_up(bits, stored, shape, int(ancillary[5]) >> 4, int(ancillary[6])), stored.nbytes
    marks = bits.ravel().astype(bool)
    if np.count_nonzero(marks) != len(stored):
        raise ValueError(f"a mask of DECODE marks {np.count_nonzero(marks):,} entries for {len(stored):,} values.")
    entries = np.broadcast_to(zeros.astype(stored.dtype), shape).ravel()
    entries[marks] = stored
    return entries, stored.nbytes


def _looked_up(bits: np.ndarray, table: np.ndarray, shape: tuple[int, ...], axis: int, step: int) -> np.ndarray:
    indices = bits @ (1 << np.arange(bits.shape[1])[::-1])
    if axis != _NO_TABLE_AXIS:
        if axis not in (0, len(shape) - 1):
            raise ValueError(f"tables of DECODE for axis {axis} of a tensor of shape {shape}.")
        along = [1] * len(shape)
        along[axis] = shape[axis]
        indices = (indices.reshape(shape) + step * np.arange(shape[axis]).reshape(along)).ravel()
    if indices.max(initial=-1) >= len(table):
        raise ValueError(f"an index of DECODE lies behind a table of {len(table):,} values.")
    return table[indices]


def _with_header(kind: int, values: np.ndarray, fields: bytes) -> np.ndarray:
    header = (bytes([kind, _VERSION, 0, 0]) + fields).ljust(_HEADER_BYTES, b"\0")
    return np.frombuffer(header + np.ascontiguousarray(values).tobytes(), np.uint8)


def _raw(values: np.ndarray) -> np.ndarray:
    """Return the flat entries as integers of their width, which tell every two of them apart."""
    return np.ascontiguousarray(values).reshape(-1).view(f"u{values.dtype.itemsize}")


# The numbers of a constant tensor: which of its entries mean zero, and where the others lie.

PLAIN = {"float64", "float32", "float16", "int16", "int8", "uint8"}  # weights that NumPy has a type for
WEIGHTS = PLAIN | {"bfloat16", "int4", "uint4", "int2"}
_NUMBERS = PLAIN | {"bool", "int32", "uint32", "int64", "uint64", "uint16", "complex64", "complex128"}
_BITS_PER_ENTRY = {"int4": 4, "uint4": 4, "int2": 2}  # bits per entry of the types that share bytes
_CHUNK_ENTRIES = 2**20  # entries looked at together, which bounds memory


@dataclass(frozen=True, eq=False)
class TensorValues:
    """The numbers of a constant tensor, as the file holds them.

    Attributes:
        raw: Their bytes.
        dtype: Their type, such as `int8`.
        shape: Shape of the tensor.
        zeros: The numbers that mean zero: one, or one for each index along `axis`.
        axis: The dimension with a zero point of its own for each index.
        dimensions: The way to the entries of a sparse tensor; None when all of them are stored, in order.
        stored: What values and positions take in the file, where that is not what `raw` and `dimensions` take.
    """

    raw: np.ndarray
    dtype: str
    shape: tuple[int, ...]
    zeros: tuple[int, ...] = (0,)
    axis: int = 0
    dimensions: tuple[SparseDimension, ...] | None = None
    stored: tuple[int, int] | None = None

    @property
    def size(self) -> int:
        """Number of entries of the tensor, stored or not."""
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """Width of one entry."""
        if self.dtype in _BITS_PER_ENTRY:
            return _BITS_PER_ENTRY[self.dtype]
        return 16 if self.dtype == "bfloat16" else 8 * np.dtype(self.dtype).itemsize

    @property
    def index_bytes(self) -> int:
        """The bytes of the positions of a sparse tensor in the file."""
        return sum(dimension.bytes for dimension in self.dimensions or ())

    @property
    def file_bytes(self) -> tuple[int, int]:
        """The bytes of the values and their positions in the file."""
        return self.stored or (self.raw.nbytes, self.index_bytes)

    def nnz(self) -> int | None:
        """Count the entries that do not mean zero; None for a type that is not a number."""
        stored = self._stored()
        return None if stored is None else int(np.count_nonzero(self._marks(stored)))

    def pieces(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield positions in the flattened tensor, ascending, and values of the entries that do not mean zero.

        Raises:
            ValueError: If the positions of a sparse tensor make no sense.
        """
        stored = self._stored()
        if stored is None:
            return
        marks, indices = self._marks(stored), None
        if self.dimensions is not None:
            indices = positions(self.dimensions, len(stored))
            order = np.argsort(indices)
            stored, marks, indices = stored[order], marks[order], indices[order]
        for start in range(0, len(stored), _CHUNK_ENTRIES):
            nonzero = np.flatnonzero(marks[start : start + _CHUNK_ENTRIES]) + start
            if len(nonzero):
                yield (nonzero if indices is None else indices[nonzero]), stored[nonzero]

    def _stored(self) -> np.ndarray | None:
        """Return the stored entries as a flat array of numbers, None for a type that NumPy does not have."""
        count = self.size if self.dimensions is None else None
        if self.dtype in _BITS_PER_ENTRY:
            bits = _BITS_PER_ENTRY[self.dtype]
            parts = [self.raw >> shift & (2**bits - 1) for shift in range(0, 8, bits)]
            stored = np.stack(parts, axis=-1).ravel()[:count].astype(np.int8)
            if self.dtype.startswith("int"):
                stored[stored >= 2 ** (bits - 1)] -= 2**bits
        elif self.dtype == "bfloat16":
            stored = self.raw.view("<u2") & 0x7FFF  # the sign does not matter: -0.0 is zero
        elif self.dtype in _NUMBERS:
            stored = self.raw.view(np.dtype(self.dtype).newbyteorder("<"))
        else:
            return None
        if count is not None and stored.size != count:
            raise ValueError(f"a {self.dtype} tensor of {count:,} entries has {len(self.raw):,} bytes.")
        return stored

    def _marks(self, stored: np.ndarray) -> np.ndarray:
        """Tell for each stored entry whether it differs from what means zero."""
        if len(self.zeros) == 1:
            return stored != self.zeros[0]
        fits = 0 <= self.axis < len(self.shape) and self.shape[self.axis] == len(self.zeros)
        if self.dimensions is not None or not fits:
            raise ValueError(f"{len(self.zeros)} zero points do not fit the tensor.")
        along = [1] * len(self.shape)
        along[self.axis] = len(self.zeros)
        return (stored.reshape(self.shape) != np.reshape(self.zeros, along)).ravel()


# Read single numbers out of a flatbuffer that is known to be whole, without its schema.


_LONGEST_NAME = 80  # characters of a name in an error


class FlatbufferTable:
    """A table of a flatbuffer that is known to be whole; slots are numbered as the format's schema lists them."""

    @classmethod
    def root(cls, data: bytes | memoryview) -> FlatbufferTable:
        """Return the table in which all others lie."""
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def __init__(self, data: bytes | memoryview, start: int) -> None:
        self._data, self._start = data, start
        self._slots = start - struct.unpack_from("<i", data, start)[0]
        self._size = struct.unpack_from("<H", data, self._slots)[0]

    def number(self, slot: int, layout: str) -> int:
        position = self.position(slot)
        return struct.unpack_from(layout, self._data, position)[0] if position else 0

    def table(self, slot: int) -> FlatbufferTable | None:
        position = self.position(slot)
        return FlatbufferTable(self._data, self._follow(position)) if position else None

    def tables(self, slot: int) -> list[FlatbufferTable]:
        position = self.position(slot)
        if not position:
            return []
        offsets, first = self.vector(slot, "<u4"), self._follow(position) + 4
        return [FlatbufferTable(self._data, first + 4 * entry + int(offset)) for entry, offset in enumerate(offsets)]

    def vector(self, slot: int, dtype: str) -> np.ndarray:
        position = self.position(slot)
        if not position:
            return np.zeros(0, dtype)
        start = self._follow(position)
        try:
            return np.frombuffer(self._data, dtype, struct.unpack_from("<I", self._data, start)[0], start + 4)
        except ValueError as error:
            raise IndexError("a list goes beyond the end of the file") from error

    def text(self, slot: int) -> str:
        """Return the beginning of a text."""
        return shortened(self.vector(slot, "u1").tobytes().decode(errors="replace"), _LONGEST_NAME)

    def _follow(self, position: int) -> int:
        return position + struct.unpack_from("<I", self._data, position)[0]

    def position(self, slot: int) -> int:
        """Return where a field lies; 0 if the table has none."""
        entry = 4 + 2 * slot
        offset = struct.unpack_from("<H", self._data, self._slots + entry)[0] if entry < self._size else 0
        return offset and self._start + offset
