"""Masks of single weights from the moments of their inputs, with the other weights updated or not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tfprune.patterns import NM, Pattern
from tfprune.solving.least_squares import GramMoments, damped_factor, inverse_of_lower
from tfprune.solving.rounding import Grid

_COLUMNS_AT_ONCE = 128  # as in the paper


def wanda_mask(
    moments: GramMoments, weights: np.ndarray, *, pattern: Pattern, sparsity: float, positions: int = 1
) -> np.ndarray:
    """Mask the weights whose product with the norm of their input is smallest, output by output.

    Args:
        moments: The moments of the inputs.
        weights: The weights, of shape (outputs, inputs), positions before inputs.
        pattern: `Unstructured()` or `NM(n, m)`.
        sparsity: The fraction of zeros.
        positions: The number of positions of the kernel.

    Returns:
        Booleans of the shape of the weights.

    Example:
        >>> from tfprune.patterns import Unstructured
        >>> moments = GramMoments(3, 2)
        >>> moments.add_inputs(np.diag([10.0, 1.0, 0.1]))
        >>> weights = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
        >>> wanda_mask(moments, weights, pattern=Unstructured(), sparsity=2 / 3).astype(int)
        array([[1, 0, 0],
               [1, 0, 0]])

    Reference:
        Sun et al., 2024, "A Simple and Effective Pruning Approach for Large Language Models", arXiv:2306.11695.
    """
    scores = wanda_scores(moments, weights)
    if isinstance(pattern, NM):
        return pattern(scores.reshape(len(scores), positions, -1), sparsity).reshape(scores.shape)
    return np.concatenate([pattern(row[np.newaxis], sparsity) for row in scores])


def wanda_scores(moments: GramMoments, weights: np.ndarray) -> np.ndarray:
    """Return the size of each weight times the norm of its input, of the shape of the weights."""
    power = moments.gram.diagonal()[: weights.shape[1]]  # without the input of the bias
    return np.abs(weights) * np.sqrt(power)


def ria_mask(
    moments: GramMoments, weights: np.ndarray, *, pattern: Pattern, sparsity: float, positions: int = 1
) -> np.ndarray:
    """Mask the weights that matter least among those of their output and of their input, in the whole matrix.

    The score of a weight is its share in the sizes of its output plus that in the sizes of its input, times the root
    of the norm of its input. No input and no output loses all of its weights as easily as with `wanda_mask`.

    Args:
        moments: The moments of the inputs.
        weights: The weights, of shape (outputs, inputs), positions before inputs.
        pattern: `Unstructured()` or `NM(n, m)`.
        sparsity: The fraction of zeros.
        positions: The number of positions of the kernel.

    Returns:
        Booleans of the shape of the weights.

    Example:
        >>> from tfprune.patterns import Unstructured
        >>> moments = GramMoments(2, 2)
        >>> moments.add_inputs(np.eye(2))
        >>> ria_mask(moments, np.array([[4.0, 1.0], [3.0, 2.0]]), pattern=Unstructured(), sparsity=0.5).astype(int)
        array([[1, 0],
               [0, 1]])

    Reference:
        Zhang et al., 2024, "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models"
        (ICLR), with the exponent 1/2 of the norm.
    """
    sizes = np.abs(weights)
    sums = sizes.sum(axis=1, keepdims=True), sizes.sum(axis=0, keepdims=True)
    shares = sum(np.divide(sizes, total, out=np.zeros_like(sizes), where=total > 0) for total in sums)
    scores = shares * moments.gram.diagonal()[: weights.shape[1]] ** 0.25
    if isinstance(pattern, NM):
        scores = scores.reshape(len(scores), positions, -1)
    return pattern(scores, sparsity).reshape(sizes.shape)


def sparse_gpt(
    moments: GramMoments,
    weights: np.ndarray,
    *,
    inputs: int,
    pattern: Pattern,
    sparsity: float,
    ridge: float,
    positions: int = 1,
    grid: Grid | None = None,
    factor: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mask weights column by column, and update those of later columns to make up for the removed ones.

    Args:
        moments: The moments of the inputs.
        weights: The weights, of shape (outputs, inputs), positions before inputs, and a bias as a last input.
        inputs: The number of inputs that may be removed: all but the one of the bias.
        pattern: `Unstructured()` or `NM(n, m)`.
        sparsity: The fraction of zeros.
        ridge: The number added to the diagonal, as a fraction of its mean.
        positions: The number of positions of the kernel.
        grid: The values that weights may have, the bias aside: later weights then make up for the rounding as well.
            Its anchors stay. None leaves weights unrounded.
        factor: What `elimination_factor` returns for the moments; None computes it.

    Returns:
        The mask and the weights, both of the shape of the weights.

    Example:
        >>> from tfprune.patterns import Unstructured
        >>> moments = GramMoments(2, 1)
        >>> moments.add_inputs(np.array([[1.0, 1.0], [2.0, 2.0]]))
        >>> weights = np.array([[1.0, 3.0]])
        >>> mask, updated = sparse_gpt(
        ...     moments, weights, inputs=2, pattern=Unstructured(), sparsity=0.5, ridge=1e-9
        ... )
        >>> mask, updated.round(3)
        (array([[False,  True]]), array([[0., 4.]]))

    Reference:
        Frantar & Alistarh, 2023, "SparseGPT", arXiv:2301.00774, algorithm 1; section 3.5 joins it
        with rounding.
    """
    mask, updated = np.ones(weights.shape, dtype=bool), weights.astype(np.float64)
    factor = elimination_factor(moments, ridge) if factor is None else factor
    for columns in _chunks(inputs, positions, pattern.m if isinstance(pattern, NM) else _COLUMNS_AT_ONCE):
        start, stop = columns.start, columns.stop
        costs = np.square(updated[:, columns] / factor.diagonal()[columns])
        if grid is not None and grid.anchors is not None:
            costs = np.where(grid.anchors[:, columns], costs.max() + 1, costs)
        mask[:, columns] = pattern(costs, sparsity)
        removed = np.zeros((len(updated), stop - start))
        for column in range(start, stop):
            one = slice(column, column + 1)
            kept = updated[:, one] if grid is None else grid.nearest(updated[:, one], one)
            left = np.where(mask[:, one], kept, 0)
            removed[:, column - start] = (updated[:, one] - left)[:, 0] / factor[column, column]
            updated[:, column:stop] -= np.outer(removed[:, column - start], factor[column, column:stop])
            updated[:, one] = left
        updated[:, stop:] -= removed @ factor[columns, stop:]
    return mask, np.where(mask, updated, 0)


def elimination_factor(moments: GramMoments, ridge: float) -> np.ndarray:
    """Return the upper triangle whose row j says, up to its scale, how inputs after j make up for input j.

    It is the first row of the inverse of the moments of the inputs from j on.
    """
    return inverse_of_lower(damped_factor(moments.gram[::-1, ::-1], ridge))[::-1, ::-1]


def _chunks(inputs: int, positions: int, step: int) -> Iterator[slice]:
    """Yield the columns that are compared at once; they never cover two positions."""
    size = inputs // positions
    for position in range(positions):
        for start in range(position * size, (position + 1) * size, step):
            yield slice(start, min(start + step, (position + 1) * size))
