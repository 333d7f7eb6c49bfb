"""A large symmetric matrix from which outer products are subtracted late, many at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_TILE = 512  # rows that are computed at once


class LazySymmetric:
    """A symmetric matrix, of which the blocks of rows up to their diagonal are held.

    Columns are asked for one by one, each with what has not been subtracted yet, and outer products are subtracted
    in one product of matrices: that is bound by arithmetic, where subtracting them one by one is bound by memory.

    Args:
        rows: A matrix R of which R^T R is held; with a lower triangle, zeros are not multiplied.
        is_lower: Whether R is a lower triangle.
    """

    def __init__(self, rows: np.ndarray, *, is_lower: bool = False) -> None:
        size = rows.shape[1]
        self._held = np.zeros((size, size))
        for tile, end in _tiles(size):
            some = rows[tile.start :] if is_lower else rows
            self._held[tile, :end] = some[:, tile].T @ some[:, :end]

    def __len__(self) -> int:
        return len(self._held)

    def diagonal_blocks(self, places: np.ndarray) -> np.ndarray:
        """Return the square blocks at some places, of shape (blocks, size), as (blocks, size, size)."""
        rows, columns = places[:, :, np.newaxis], places[:, np.newaxis, :]
        return self._held[np.maximum(rows, columns), np.minimum(rows, columns)]

    def column(self, place: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return a column of the matrix less `left.T @ right`, which is symmetric as a whole."""
        end = min((place // _TILE + 1) * _TILE, len(self._held))
        held = np.concatenate([self._held[place, :end], self._held[end:, place]])
        return held - left[:, place] @ right

    def subtract(self, left: np.ndarray, right: np.ndarray) -> None:
        """Subtract `left.T @ right`."""
        for tile, end in _tiles(len(self._held)):
            self._held[tile, :end] -= left[:, tile].T @ right[:, :end]

    def keep(self, places: np.ndarray) -> None:
        """Keep some rows and columns, in ascending order."""
        self._held = self._held[np.ix_(places, places)]
        for tile, _ in _tiles(len(self._held)):
            lower = np.tril(self._held[tile, tile])
            self._held[tile, tile] = lower + np.tril(lower, -1).T


def _tiles(size: int) -> Iterator[tuple[slice, int]]:
    for start in range(0, size, _TILE):
        end = min(start + _TILE, size)
        yield slice(start, end), end
