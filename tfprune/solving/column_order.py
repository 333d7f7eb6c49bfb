"""The order of columns in which the largest scores of each row and group of columns add up to more."""

from __future__ import annotations

import numpy as np

_GROUPS_AT_ONCE = 256  # whose columns are exchanged in one step: time grows with the square
_MOST_ROWS = 1024
_LEAST_GAIN = 3e-5  # of the sum, in one round


def column_order(scores: np.ndarray, *, groups: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Search for the order of columns with which the `n` largest scores of each row and group add up to most.

    One column is taken out of each group, and pairs of groups exchange theirs where both together gain; all other
    columns stay, so that these gains are exact and add up. It starts from the columns as they are, or from columns
    that were dealt out by their size, whichever is better. Of more than 1,024 rows it looks at some.

    Args:
        scores: The scores, of shape (rows, columns).
        groups: The number of the group that each column is in, of shape (columns,). Groups may differ in size.
        n: How many scores of a group are kept in each row.
        seed: Of the columns that are taken out.

    Returns:
        The column to put in place of each, of shape (columns,).

    Example:
        >>> scores = np.array([[3.0, 3.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
        >>> order = column_order(scores, groups=np.repeat([0, 1], 4), n=2)
        >>> scores[:, order].reshape(2, 4).astype(int)
        array([[3, 3, 1, 1],
               [3, 1, 1, 1]])

    Reference:
        Pool & Yu, 2021, "Channel Permutations for N:M Sparsity" (NeurIPS); Zhang et al., 2024, "Plug-and-Play"
        (ICLR), which takes one column out of each group as well, and assigns them all at once.
    """
    some = scores[:: -(-len(scores) // _MOST_ROWS)].astype(np.float32)
    columns = np.vstack([some.T - min(some.min(initial=0), 0), np.zeros((1, len(some)), np.float32)])
    slots = _slots(groups)
    start = max((slots, _dealt(columns, slots)), key=lambda held: _kept(columns, held, n))
    best = _improved(columns, start, n=n, seed=seed)
    order = np.empty(groups.size, dtype=np.int64)
    order[slots[slots < groups.size]] = best[slots < groups.size]
    return order


def _slots(groups: np.ndarray) -> np.ndarray:
    """Return the columns of each group, of shape (groups, largest group); the number of columns stands for none."""
    sizes = np.unique(groups, return_counts=True)[1]
    slots = np.full((sizes.size, sizes.max()), groups.size)
    slots[np.arange(sizes.max()) < sizes[:, np.newaxis]] = np.argsort(groups, kind="stable")
    return slots


def _dealt(columns: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Return the columns by their size, the largest in the first slots of all groups."""
    dealt = slots.T.copy()
    is_there = dealt < len(columns) - 1
    dealt[is_there] = np.argsort(-columns[:-1].sum(axis=1), kind="stable")
    return np.ascontiguousarray(dealt.T)


def _kept(columns: np.ndarray, held: np.ndarray, n: int) -> float:
    return sum(float(np.partition(columns[some], -n, axis=0)[-n:].sum(dtype=np.float64)) for some in held)


def _improved(columns: np.ndarray, start: np.ndarray, *, n: int, seed: int) -> np.ndarray:
    """Exchange columns until a round, which takes most pairs of columns out of two groups, gains little."""
    generator = np.random.default_rng(seed)
    held, sizes = start.copy(), (start < len(columns) - 1).sum(axis=1)
    least = _LEAST_GAIN * columns.sum(dtype=np.float64)
    gained = np.inf if len(held) > 1 else 0.0
    while gained > least:
        gained = 0.0
        for _ in range(2 * held.shape[1] ** 2):
            some = generator.permutation(len(held))[:_GROUPS_AT_ONCE]
            slot = generator.integers(sizes[some])
            gained += _exchange(columns, held, groups=some, slot=slot, n=n)
    return held


def _exchange(columns: np.ndarray, held: np.ndarray, *, groups: np.ndarray, slot: np.ndarray, n: int) -> float:
    """Exchange the columns in one slot of each of some groups, pair by pair, and return the gain."""
    before = held[groups, slot]
    moved = columns[before]
    gains = np.empty((groups.size, groups.size))
    for row, (group, place) in enumerate(zip(groups, slot, strict=True)):
        rest = columns[np.delete(held[group], place)]
        least = np.partition(rest, -n, axis=0)[-n]  # that a column has to exceed
        gains[row] = np.maximum(least, moved).sum(axis=1)
    both = gains + gains.T - gains.diagonal() - gains.diagonal()[:, np.newaxis]
    firsts, seconds = np.triu_indices(groups.size, 1)
    gained, is_free = 0.0, np.ones(groups.size, dtype=bool)
    for pair in np.argsort(-both[firsts, seconds]):
        first, second = firsts[pair], seconds[pair]
        if both[first, second] <= 0:
            break
        if is_free[first] and is_free[second]:
            held[groups[[first, second]], slot[[first, second]]] = before[[second, first]]
            is_free[[first, second]] = False
            gained += both[first, second]
    return gained
