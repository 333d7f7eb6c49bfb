"""Where the stored entries of a sparse tensor lie in the dense one, read off the file's dimension metadata."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

MAX_DENSE_ENTRIES = 2**48  # entries of the dense tensor: positions times the cells of a picture still fit 64 bits


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
        """What segments and indices take in the file."""
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
    if math.prod(shape) > MAX_DENSE_ENTRIES:
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
