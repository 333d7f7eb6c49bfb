"""Keep the largest entries, exactly and fast."""

from __future__ import annotations

import numpy as np

SMALLEST_SAMPLE = 1 << 14
LARGEST_STRIDE = 1 << 8  # between the values of a sample
BRACKET_DEVIATIONS = 4  # standard deviations of the rank of a value in a sample
CACHED_VALUES = 1 << 17  # as many as stay in the processor's cache


def kept_count(size: int, sparsity: float, *, round_to: int = 1) -> int:
    """Count the entries to keep of `size`: size - round(sparsity * size), half to even, and at least one.

    Args:
        size: The number of entries, at least 1.
        sparsity: The fraction of zeros, in [0, 1).
        round_to: The count is rounded up to a multiple of this number, but to no more than `size`.

    Example:
        >>> kept_count(6, 0.5), kept_count(100, 0.9), kept_count(10, 0.99), kept_count(100, 0.9, round_to=8)
        (3, 10, 1, 16)
    """
    count = max(size - round(sparsity * size), 1)
    return min(-(-count // round_to) * round_to, size)


def keep_largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Return a mask that keeps the `count` largest scores; among equal scores the earlier in row-major order stay.

    It selects instead of sorting, in time linear in the number of entries.

    Args:
        scores: Finite numbers, in an array of any shape.
        count: The number of scores to keep, from 1 to `scores.size`.

    Example:
        >>> keep_largest(np.array([0.1, 0.1, 0.3, 0.1]), 2)
        array([ True, False,  True, False])
    """
    if count >= scores.size:
        return np.ones_like(scores, dtype=bool)
    order = np.argsort([-abs(stride) for stride in scores.strides], kind="stable")
    laid_out = scores.transpose(order)  # as in memory, where one part after another takes no copy
    threshold, ties = _at_rank(laid_out.reshape(-1), scores.size - count)
    keep = scores >= threshold
    surplus = np.count_nonzero(keep) - count
    if surplus:
        indices = np.array(np.unravel_index(ties, laid_out.shape))[np.argsort(order)]
        in_order = np.sort(np.ravel_multi_index(tuple(indices), scores.shape))
        keep[np.unravel_index(in_order[-surplus:], scores.shape)] = False
    return keep


def rank_first(scores: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Lower scores so that some entries rank before all others, each group in its own order.

    Args:
        scores: Numbers in an array of any shape; NaN, which has no rank, stays NaN.
        first: Booleans of the same shape: True for the entries that come first; the other scores are lowered.

    Example:
        >>> rank_first(np.array([1.0, 4.0, 2.0, 3.0]), np.array([True, False, True, False]))
        array([ 1., -2.,  2., -3.])
    """
    with np.errstate(over="ignore"):  # an infinite spread loses only the order among the lowered
        spread = np.nanmax(scores) - np.nanmin(scores)
        return np.where(first, scores, scores - (2 * spread or 1))


def _at_rank(values: np.ndarray, rank: int) -> tuple[np.floating, np.ndarray]:
    """Return the value that would have the index `rank` if the values were sorted, and its indices.

    A sorted sample gives a bracket for the value, so that only the few values in the bracket are searched.

    Reference:
        Floyd & Rivest, 1975, "Expected time bounds for selection", Communications of the ACM 18(3).
    """
    low, high = _bracket(values, rank)
    rank_inside, positions = rank, []
    for start in range(0, values.size, CACHED_VALUES):
        part = values[start : start + CACHED_VALUES]
        is_inside = part >= low
        rank_inside -= part.size - int(np.count_nonzero(is_inside))
        is_inside &= part <= high
        positions.append(start + np.flatnonzero(is_inside))
    inside = np.concatenate(positions)
    if not 0 <= rank_inside < inside.size:  # the sample misled: unlikely, and only slower
        value = np.partition(values, rank)[rank]
        return value, np.flatnonzero(values == value)
    candidates = values[inside]
    value = np.partition(candidates, rank_inside)[rank_inside]
    return value, inside[candidates == value]


def _bracket(values: np.ndarray, rank: int) -> tuple[float, float]:
    """Return two numbers between which the value of a rank lies, almost certainly."""
    # Odd, or the sample would be of a few columns only: widths are multiples of powers of two.
    sample = np.sort(values[:: min(max(values.size // SMALLEST_SAMPLE, 1), LARGEST_STRIDE) | 1])
    share = rank / values.size
    index, margin = int(share * sample.size), 2 + int(BRACKET_DEVIATIONS * (share * (1 - share) * sample.size) ** 0.5)
    low = sample[index - margin] if index > margin else -np.inf
    high = sample[index + margin] if index + margin < sample.size else np.inf
    return low, high
