"""A table of a file, of which indices pick rows: nothing is multiplied, and no entry can make up for another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfprune.export.pruning.layers.file_layer import FileLayer
from tfprune.export.pruning.layers.linear_operators import LinearOperator
from tfprune.export.pruning.layers.pieces import Pieces
from tfprune.patterns import Pattern
from tfprune.solving.least_squares import GramMoments
from tfprune.solving.zero_solver import ZeroSolver

UNSEEN = 1.0  # how often a row counts that no sample picks: it may be picked later


class RowCounts(GramMoments):
    """Moments of inputs that are 1 for the row picked and 0 for all others: a diagonal, the number of picks.

    Args:
        table: The table, of shape (rows, columns).
    """

    def __init__(self, table: np.ndarray) -> None:
        self.count, self._table = 1, table
        self.picks = np.full(len(table), UNSEEN)

    def pick(self, rows: np.ndarray) -> None:
        """Count indices; those outside of the table pick nothing."""
        there = rows[(rows >= 0) & (rows < len(self.picks))].astype(np.int64)
        self.picks += np.bincount(there, minlength=len(self.picks))
        self.energy = self.errors(np.zeros_like(self._table))

    def aimed_at(self, weights: np.ndarray) -> RowCounts:
        """Return the same: what a table should return are its own rows."""
        return self

    def of(self, outputs: np.ndarray | slice) -> RowCounts:
        """Return the same: a table is always measured whole, which costs little."""
        return self

    def errors(self, weights: np.ndarray) -> np.ndarray:
        """Return the summed squared error of each row."""
        return self.picks * np.square(weights - self._table).sum(axis=1)


class TableSolver(ZeroSolver):
    """Chooses zeros of a table: an entry costs its square times the number of picks of its row."""

    def refit(self, moments: Sequence[Any]) -> np.ndarray:
        """Return the table as it is."""
        return self.weights

    def masking(self, moments: Sequence[Any], start: np.ndarray, *, pattern: Pattern) -> Callable[..., np.ndarray]:
        """Return a function from a sparsity to the table with zeros, whichever outputs it is asked for."""
        costs = moments[0].picks[:, np.newaxis] * np.square(start[0])

        def masked(sparsity: float, grids: Any = None, outputs: np.ndarray | slice = slice(None)) -> np.ndarray:
            return np.where(pattern(costs, sparsity), start[0], 0)[np.newaxis]

        return masked


class TableLayer(FileLayer):
    """A table of rows, of which frequent ones keep more entries."""

    @property
    def solver(self) -> TableSolver:
        """Puts zeros into the table."""
        return TableSolver(self.weights, inputs=self.inputs)

    @property
    def is_in_parallel(self) -> bool:
        """Whether it is solved for on the dense file alone: zeros do not change which rows are picked."""
        return True

    def moments(self) -> list[GramMoments]:
        """Return counts before the first sample."""
        return [RowCounts(self.weights[0])]

    def rows(self, pieces: Pieces, operator: LinearOperator, x: np.ndarray, *, run: int) -> np.ndarray:
        """Return the indices of one run."""
        return x.reshape(-1)

    def add(self, moments: list[Any], rows: np.ndarray, *, dense: np.ndarray | None = None) -> None:
        """Count the indices of a run."""
        moments[0].pick(rows)
