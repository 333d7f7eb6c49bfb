"""Keep the largest entries, exactly and fast."""

from __future__ import annotations

import numpy as np

SAMPLE = 1 << 14  # the fewest values in a sample
STRIDE = 1 << 8  # the most values that one of a sample stands for


def kept_count(size: int, sparsity: float, *, round_to: int = 1) -> int:
    """Return how many of `size` entries stay: size - round(sparsity * size), half to even, and at least one.

    Args:
        size: The number of entries, at least 1.
        sparsity: The fraction of zeros, in [0, 1).
        round_to: The number that stays is rounded up to a multiple of this, but to no more than `size`.

    Example:
        >>> kept_count(6, 0.5), kept_count(100, 0.9), kept_count(10, 0.99), kept_count(100, 0.9, round_to=8)
        (3, 10, 1, 16)
    """
    kept = max(size - round(sparsity * size), 1)
    return min(-(-kept // round_to) * round_to, size)


def keep_largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Return a mask that keeps the `count` largest scores; among equal scores the earlier in row-major order stay.

    It selects instead of sorting, in time linear in the number of entries.

    Args:
        scores: Finite numbers, in an array of any shape.
        count: How many to keep, from 1 to `scores.size`.

    Example:
        >>> keep_largest(np.array([0.1, 0.1, 0.3, 0.1]), 2)
        array([ True, False,  True, False])
    """
    if count >= scores.size:
        return np.ones_like(scores, dtype=bool)
    # Memory order needs no copy, and the threshold is the same in any order.
    threshold = _ranked(scores.ravel(order="K"), scores.size - count)
    keep = scores >= threshold
    surplus = np.count_nonzero(keep) - count
    if surplus:
        ties = np.flatnonzero(scores == threshold)
        keep[np.unravel_index(ties[-surplus:], scores.shape)] = False
    return keep


def rank_first(scores: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return scores in which some entries rank before all others, both in their own order.

    Args:
        scores: Numbers in an array of any shape; NaN, which has no rank, stays.
        first: Booleans of the same shape: the entries whose scores stay. The others are lowered.

    Example:
        >>> rank_first(np.array([1.0, 4.0, 2.0, 3.0]), np.array([True, False, True, False]))
        array([ 1., -2.,  2., -3.])
    """
    with np.errstate(over="ignore"):  # of a spread beyond all numbers only the order among the lowered is lost
        spread = np.nanmax(scores) - np.nanmin(scores)
        return np.where(first, scores, scores - (2 * spread or 1))


def _ranked(values: np.ndarray, rank: int) -> np.floating:
    """Return the value that would stand at `rank` if the values were sorted.

    A sorted sample gives a bracket for the value, so that only the few values in the bracket are searched.

    Reference:
        Floyd & Rivest, 1975, "Expected time bounds for selection", Communications of the ACM 18(3).
    """
    sample = np.sort(values[:: min(max(values.size // SAMPLE, 1), STRIDE)])
    index, margin = rank * sample.size // values.size, 2 * int(sample.size**0.5)
    low = sample[index - margin] if index > margin else -np.inf
    high = sample[index + margin] if index + margin < sample.size else np.inf
    is_inside = values >= low
    is_inside &= values <= high
    inside = values[np.flatnonzero(is_inside)]
    rank_inside = rank - int(np.count_nonzero(values < low))
    if not 0 <= rank_inside < inside.size:  # the sample misled: unlikely, and only slower
        inside, rank_inside = values.copy(), rank
    inside.partition(rank_inside)
    return inside[rank_inside]
