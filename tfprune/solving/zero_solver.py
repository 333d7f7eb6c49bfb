"""Zeros in the matrices of one weight, and new values for its other entries: the step of each layer, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tfprune.patterns import Block, Pattern
from tfprune.solving.alps import alps
from tfprune.solving.least_squares import GramMoments, solve
from tfprune.solving.rounding import Grid
from tfprune.solving.split_by_error import LEVEL_FELT, LEVELS, TINY
from tfprune.solving.weight_masks import elimination_factor, sparse_gpt

RIDGE = 0.1  # of the mean square of the inputs, where there are ten rows or more for each input
RIDGE_WITHOUT = 0.001  # the same where whole inputs go: the others have to change more than around single zeros
THREADS = 2  # each takes a few copies of the weights
OUTPUTS_OF_SHAPE = 128  # of which the shape of an error curve is measured: its height is that of all outputs


class ZeroSolver:
    """The dense matrices of one weight, one for each of its groups, and how they get zeros.

    Args:
        weights: The matrices, of shape (groups, outputs, inputs): positions before inputs, and a bias last.
        inputs: The number of inputs that may be removed: all but the one of the bias.
        positions: The number of positions of the kernel.
        ridge: The number added to the diagonal of the moments, as a fraction of its mean; more where rows are few.

    Reference:
        Frantar & Alistarh, 2023, "SparseGPT", arXiv:2301.00774.
    """

    def __init__(self, weights: np.ndarray, *, inputs: int, positions: int = 1, ridge: float = RIDGE) -> None:
        self.weights = weights.astype(np.float64)
        self.inputs, self.positions, self._least_ridge = inputs, positions, ridge

    def _ridge(self, moments: GramMoments, *, least: float | None = None) -> float:
        """Hold the solution back, the more so where rows are few."""
        least = self._least_ridge if least is None else least
        return least * max(1.0, 10 * len(moments.gram) / max(moments.count, 1))

    def refit(self, moments: Sequence[GramMoments]) -> np.ndarray:
        """Return dense weights that come closer to the outputs that the moments ask for."""
        pairs = zip(moments, self.weights, strict=True)
        return np.stack(
            [solve(sums, own, free=np.ones(own.shape, bool), ridge=self._ridge(sums)) for sums, own in pairs]
        )

    def masking(
        self, moments: Sequence[GramMoments], start: np.ndarray, *, pattern: Pattern
    ) -> Callable[..., np.ndarray]:
        """Return a function from a sparsity, a grid for each group or None, and outputs to weights with zeros.

        Args:
            moments: What the weight sees, and what it should return, for each group.
            start: The dense weights to start from: those of `refit`, or the weights themselves.
            pattern: The shape of the zeros.
        """
        ridges = [self._ridge(sums) for sums in moments]
        factors = [elimination_factor(sums, ridge) for sums, ridge in zip(moments, ridges, strict=True)]

        def masked(
            sparsity: float, grids: Sequence[Grid] | None = None, outputs: np.ndarray | slice = slice(None)
        ) -> np.ndarray:
            solved = np.empty_like(self.weights[:, outputs])
            for group, sums in enumerate(_of(moments, outputs)):
                mask, updated = sparse_gpt(
                    sums,
                    start[group][outputs],
                    inputs=self.inputs,
                    pattern=pattern,
                    sparsity=sparsity,
                    ridge=ridges[group],
                    positions=self.positions,
                    grid=None if grids is None else grids[group],
                    factor=factors[group],
                )
                as_it_was = self.weights[group][outputs].copy()
                if grids is not None:
                    as_it_was[:, : self.inputs] = grids[group].nearest(as_it_was[:, : self.inputs])
                solved[group] = sums.better(np.where(mask, as_it_was, 0), updated)
            return solved

        return masked

    def by_alps(
        self, moments: Sequence[GramMoments], start: np.ndarray, *, pattern: Pattern, sparsity: float
    ) -> np.ndarray:
        """Return weights with zeros whose places and values are found together.

        Args:
            moments: As in `masking`.
            start: As in `masking`.
            pattern: The shape of the zeros.
            sparsity: The fraction of zeros.
        """
        solved = np.empty_like(self.weights)
        for group, sums in enumerate(moments):
            mask, updated = alps(
                sums,
                start[group],
                inputs=self.inputs,
                pattern=pattern,
                sparsity=sparsity,
                ridge=self._ridge(sums),
                positions=self.positions,
            )
            solved[group] = sums.better(np.where(mask, self.weights[group], 0), updated)
        return solved

    def without(self, moments: Sequence[GramMoments], kept: np.ndarray) -> np.ndarray:
        """Return weights that are zero for some inputs of all outputs, with new values for the others.

        Args:
            moments: What the weight sees, and what it should return, for each group.
            kept: Whether each input is kept, of shape (inputs,), without the bias.
        """
        solved = np.zeros_like(self.weights)
        free = np.ones(self.weights.shape[1:], dtype=bool)
        free[:, : self.inputs] = kept
        for group, sums in enumerate(moments):
            ridge = self._ridge(sums, least=RIDGE_WITHOUT)
            solved[group] = solve(sums, self.weights[group] * free, free=free, ridge=ridge)
        return solved

    def at_levels(self, moments: Sequence[GramMoments], *, pattern: Pattern) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights at `LEVEL_FELT`, with zeros in this weight alone, and the errors at each of `LEVELS`.

        The error at `LEVEL_FELT` is that of all outputs, and the others relate to it as they do for some outputs.
        """
        masked = self.masking(moments, self.weights, pattern=pattern)
        at_level = masked(float(LEVELS[LEVEL_FELT]))
        outputs = _outputs_of_shape(moments, pattern)
        some = _of(moments, outputs)

        def measured(level: float) -> float:
            return relative_error(some, masked(float(level), outputs=outputs))

        with ThreadPoolExecutor(THREADS) as pool:  # NumPy gives up Python's lock
            errors = np.array([*pool.map(measured, LEVELS)])
        return at_level, errors * relative_error(moments, at_level) / max(errors[LEVEL_FELT], TINY)


def _outputs_of_shape(moments: Sequence[GramMoments], pattern: Pattern) -> np.ndarray:
    """Return outputs of all sizes, from the one of most energy on; whole blocks of them for a pattern of blocks."""
    height = pattern.rows if isinstance(pattern, Block) else 1
    energy = np.sum([sums.energy for sums in moments], axis=0)
    blocks = np.argsort(-np.add.reduceat(energy, np.arange(0, len(energy), height)))
    count = min(len(blocks), max(OUTPUTS_OF_SHAPE // height, 1))
    starts = np.sort(blocks[np.arange(count) * len(blocks) // count]) * height
    outputs = (starts[:, np.newaxis] + np.arange(height)).ravel()
    return outputs[outputs < len(energy)]


def _of(moments: Sequence[GramMoments], outputs: np.ndarray | slice) -> list[GramMoments]:
    return [sums.of(outputs) for sums in moments]


def relative_error(moments: Sequence[GramMoments], weights: np.ndarray) -> float:
    """Return the squared error of the outputs of all groups, as a fraction of their squares."""
    energy = sum(float(sums.energy.sum()) for sums in moments) or 1.0
    pairs = zip(moments, weights, strict=True)
    return sum(float(sums.errors(each).sum()) * sums.count for sums, each in pairs) / energy
