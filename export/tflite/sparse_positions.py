"""Where the stored entries of a sparse tensor lie in the dense one, read off the file's dimension metadata."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

LARGEST = 2**48  # entries of the dense tensor: positions times the cells of a picture still fit 64 bits


@dataclass(frozen=True, eq=False)
class SparseDimension:
    """One dimension on the way to the entries.

    Attributes:
        size: Number of places along it; in the file's metadata 0 for a compressed dimension.
        stride: TensorValues of the dense tensor from one place to the next.
        segments: Where the places of each parent begin in `indices`; None when all places are stored.
        indices: The places that are stored; None when all are.
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
    """Give the levels of a sparse tensor their sizes and strides.

    Args:
        shape: Shape of the dense tensor.
        order: Which dimension each level walks along: those of the tensor, then those within a block.
        blocks: Which dimension of the tensor each block dimension cuts.
        stored: The levels as the file describes them, in this order.

    Returns:
        The same levels with their real sizes and strides.

    Raises:
        ValueError: If the parts do not fit each other.
    """
    rank = len(shape)
    if math.prod(shape) > LARGEST:
        raise ValueError(f"a sparse tensor has the shape {shape}.")
    complete = sorted(order) == list(range(rank + len(blocks))) and len(stored) == len(order)
    if not complete or len(set(blocks)) != len(blocks) or any(not 0 <= dimension < rank for dimension in blocks):
        raise ValueError("the dimensions of a sparse tensor do not fit its shape.")
    sizes = dict(zip(order, (level.size for level in stored), strict=True))
    cut = {dimension: sizes[rank + place] for place, dimension in enumerate(blocks)}
    if any(size < 1 or shape[dimension] % size for dimension, size in cut.items()):
        raise ValueError("the blocks of a sparse tensor do not fit its shape.")
    strides = [math.prod(shape[dimension + 1 :]) for dimension in range(rank)]
    outer = [(shape[i] // cut.get(i, 1), strides[i] * cut.get(i, 1)) for i in range(rank)]
    ways = outer + [(cut[dimension], strides[dimension]) for dimension in blocks]
    pairs = zip(order, stored, strict=True)
    levels = [replace(level, size=ways[way][0], stride=ways[way][1]) for way, level in pairs]
    for given, level in zip(stored, levels, strict=True):
        if level.segments is None and given.size != level.size:
            raise ValueError(f"a dimension of a sparse tensor is {given.size} long, not {level.size}.")
    return tuple(levels)


def positions(levels: Sequence[SparseDimension], count: int) -> np.ndarray:
    """Return where each stored entry lies in the flattened dense tensor.

    Args:
        levels: What `arrange` returns.
        count: Number of stored entries.

    Raises:
        ValueError: If segments and indices do not lead to so many different entries.
    """
    most = max([count, *(len(level.segments) for level in levels if level.segments is not None)])
    found = np.zeros(1, np.int64)
    for level in levels:
        found = _all(level, found, most) if level.segments is None else _some(level, found)
    ordered = np.sort(found)
    if len(found) != count or np.any(ordered[1:] == ordered[:-1]):
        raise ValueError(f"a sparse tensor has {count:,} values for {len(found):,} places.")
    return found


def _all(level: SparseDimension, parents: np.ndarray, most: int) -> np.ndarray:
    if max(1, len(parents)) * level.size > most:
        raise ValueError("a sparse tensor has more places than the file has values.")
    return (parents[:, None] + level.stride * np.arange(level.size)).ravel()


def _some(level: SparseDimension, parents: np.ndarray) -> np.ndarray:
    assert level.segments is not None
    assert level.indices is not None
    segments, indices = level.segments.astype(np.int64), level.indices.astype(np.int64)
    whole = len(segments) == len(parents) + 1 and segments[0] == 0 and segments[-1] == len(indices)
    if not whole or np.any(np.diff(segments) < 0):
        raise ValueError("the segments of a sparse tensor do not fit its indices.")
    if np.any(indices < 0) or np.any(indices >= level.size):
        raise ValueError(f"an index of a sparse tensor is outside 0 to {level.size - 1}.")
    return np.repeat(parents, np.diff(segments)) + level.stride * indices
