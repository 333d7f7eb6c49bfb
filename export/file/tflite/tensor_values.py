"""The numbers of a constant tensor: which of its entries mean zero, and where the others lie."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tfprune.export.file.tflite.sparse_positions import SparseDimension, positions

PLAIN = {"float64", "float32", "float16", "int16", "int8", "uint8"}  # weights that NumPy has a type for
WEIGHTS = PLAIN | {"bfloat16", "int4", "uint4", "int2"}
NUMBERS = PLAIN | {"bool", "int32", "uint32", "int64", "uint64", "uint16", "complex64", "complex128"}
BITS_PER_ENTRY = {"int4": 4, "uint4": 4, "int2": 2}  # bits per entry of the types that share bytes
CHUNK_ENTRIES = 2**20  # entries looked at together, which bounds memory


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
        if self.dtype in BITS_PER_ENTRY:
            return BITS_PER_ENTRY[self.dtype]
        return 16 if self.dtype == "bfloat16" else 8 * np.dtype(self.dtype).itemsize

    @property
    def index_bytes(self) -> int:
        """What the positions of a sparse tensor take in the file."""
        return sum(dimension.bytes for dimension in self.dimensions or ())

    @property
    def file_bytes(self) -> tuple[int, int]:
        """What the values take in the file, and their positions."""
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
        for start in range(0, len(stored), CHUNK_ENTRIES):
            nonzero = np.flatnonzero(marks[start : start + CHUNK_ENTRIES]) + start
            if len(nonzero):
                yield (nonzero if indices is None else indices[nonzero]), stored[nonzero]

    def _stored(self) -> np.ndarray | None:
        """Return the stored entries as a flat array of numbers, None for a type that NumPy does not have."""
        count = self.size if self.dimensions is None else None
        if self.dtype in BITS_PER_ENTRY:
            bits = BITS_PER_ENTRY[self.dtype]
            parts = [self.raw >> shift & (2**bits - 1) for shift in range(0, 8, bits)]
            stored = np.stack(parts, axis=-1).ravel()[:count].astype(np.int8)
            if self.dtype.startswith("int"):
                stored[stored >= 2 ** (bits - 1)] -= 2**bits
        elif self.dtype == "bfloat16":
            stored = self.raw.view("<u2") & 0x7FFF  # the sign does not matter: -0.0 is zero
        elif self.dtype in NUMBERS:
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
