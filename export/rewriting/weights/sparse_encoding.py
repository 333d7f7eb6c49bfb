"""Sparse forms of one array: the stored values, and where they belong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

INDEX_TYPES = (np.dtype("<u1"), np.dtype("<u2"), np.dtype("<i4"))  # those that the format has, smallest first
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
    return numbers.astype(next(kind for kind in INDEX_TYPES if most <= np.iinfo(kind).max))
