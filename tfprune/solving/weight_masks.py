"""Masks of single weights from the moments of their inputs, with the other weights updated or not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tfprune.patterns import NM, Block, Pattern
from tfprune.solving.least_squares import GramMoments, damped_factor, inverse_of_lower
from tfprune.solving.rounding import Grid

_COLUMNS_AT_ONCE = 128  # as in the paper
_COLUMNS_IN_CACHE = 16  # that are updated one by one before those after them


def wanda_mask(
    moments: GramMoments, weights: np.ndarray, *, pattern: Pattern, sparsity: float, positions: int = 1
) -> np.ndarray:
    """Mask the weights whose product with the norm of their input is smallest, output by output.

    Blocks of several outputs are compared with those of the same outputs.

    Args:
        moments: The moments of the inputs.
        weights: The weights, of shape (outputs, inputs), positions before inputs.
        pattern: `Unstructured()`, `NM(n, m)` or `Block(rows, cols)`.
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
    rows = pattern.rows if isinstance(pattern, Block) else len(scores) if isinstance(pattern, NM) else 1
    parts = (scores[start : start + rows] for start in range(0, len(scores), rows))
    masks = [pattern(part.reshape(len(part), positions, -1), sparsity) for part in parts]
    return np.concatenate(masks).reshape(scores.shape)


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
        pattern: `Unstructured()`, `NM(n, m)` or `Block(rows, cols)`.
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
    return pattern(scores.reshape(len(scores), positions, -1), sparsity).reshape(sizes.shape)


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
        pattern: `Unstructured()`, `NM(n, m)` or `Block(rows, cols)`.
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
    width = pattern.cols if isinstance(pattern, Block) else 1
    # Whole groups and blocks are compared at once.
    step = pattern.m if isinstance(pattern, NM) else max(_COLUMNS_AT_ONCE // width, 1) * width
    for columns in _chunks(inputs, inputs // positions, step):
        start, stop = columns.start, columns.stop
        length = min(inputs // positions, stop - start)  # of the columns of one position
        costs = _removal_costs(updated[:, columns], factor[columns, columns], width=width, length=length)
        if grid is not None and grid.anchors is not None:
            # Larger than all others together, so that the mean of a block is, too.
            costs = np.where(grid.anchors[:, columns], costs.sum() + 1, costs)
        mask[:, columns] = pattern(costs.reshape(len(costs), -1, length), sparsity).reshape(costs.shape)
        removed = np.zeros((len(updated), stop - start))
        for first in range(start, stop, _COLUMNS_IN_CACHE):
            last = min(first + _COLUMNS_IN_CACHE, stop)
            for column in range(first, last):
                here = slice(column, column + 1)
                rounded = updated[:, here] if grid is None else grid.nearest(updated[:, here], here)
                left = np.where(mask[:, here], rounded, 0)
                removed[:, column - start] = (updated[:, here] - left)[:, 0] / factor[column, column]
                updated[:, column:last] -= np.outer(removed[:, column - start], factor[column, column:last])
                updated[:, here] = left
            updated[:, last:stop] -= removed[:, first - start : last - start] @ factor[first:last, last:stop]
        updated[:, stop:] -= removed @ factor[columns, stop:]
    return mask, np.where(mask, updated, 0)


def _removal_costs(weights: np.ndarray, factor: np.ndarray, *, width: int, length: int) -> np.ndarray:
    """Return what removing `width` neighboring weights of an output costs, in parts whose sum it is.

    Blocks lie within a position, which has `length` columns. The cost of one weight is the square of it divided by
    its diagonal entry of the factor. In a block, each weight counts as it is after those before it were removed.
    """
    if width == 1:
        return np.square(weights / factor.diagonal())
    costs = np.empty_like(weights)
    for first in range(0, weights.shape[1], length):
        for start in range(first, first + length, width):
            block = slice(start, min(start + width, first + length))
            costs[:, block] = np.square(np.linalg.solve(factor[block, block].T, weights[:, block].T).T)
    return costs


def elimination_factor(moments: GramMoments, ridge: float) -> np.ndarray:
    """Return the upper triangle whose row j says, up to its scale, how inputs after j make up for input j.

    It is the first row of the inverse of the moments of the inputs from j on.
    """
    return inverse_of_lower(damped_factor(moments.gram[::-1, ::-1], ridge))[::-1, ::-1]


def _chunks(inputs: int, length: int, step: int) -> Iterator[slice]:
    """Yield the columns that are compared at once: whole positions, or a part of one that is longer than a step."""
    at_once = max(step // length, 1) * length
    for first in range(0, inputs, at_once):
        last = min(first + at_once, inputs)
        yield from (slice(start, min(start + step, last)) for start in range(first, last, step))
