"""Orders of columns against all orders of small matrices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tfprune.solving.surgery import column_order


def kept(scores, groups, n):
    parts = [scores[:, groups == group] for group in np.unique(groups)]
    return sum(np.sort(part, axis=1)[:, -n:].sum() for part in parts)


def splits(columns, size):
    """Yield all ways to put columns into groups of a size."""
    if not columns:
        yield []
        return
    for others in itertools.combinations(columns[1:], size - 1):
        left = [column for column in columns[1:] if column not in others]
        for rest in splits(left, size):
            yield [columns[0], *others, *rest]


def problem(seed, columns):
    generator = np.random.default_rng(seed)
    return np.abs(generator.normal(size=(5, columns))) * np.exp(generator.normal(size=columns))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("columns", "n", "m"), [(8, 2, 4), (12, 2, 4), (8, 1, 2), (9, 1, 3)])
def test_the_search_finds_most_of_what_the_best_order_keeps(seed, columns, n, m):
    scores, groups = problem(seed, columns), np.arange(columns) // m
    order = column_order(scores, groups=groups, n=n)
    assert sorted(order) == list(range(columns))
    before, after = kept(scores, groups, n), kept(scores[:, order], groups, n)
    best = max(kept(scores[:, split], groups, n) for split in splits(list(range(columns)), m))
    assert before <= after <= best * (1 + 1e-12) and after >= 0.99 * best
    assert after - before >= 0.8 * (best - before)


def test_groups_of_different_sizes_and_negative_scores():
    scores = problem(0, 11) - 3
    groups = np.array([0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3])
    order = column_order(scores, groups=groups, n=2)
    assert sorted(order) == list(range(11))
    assert kept(scores[:, order], groups, 2) > kept(scores, groups, 2)


def test_one_group_stays_as_it_is():
    np.testing.assert_array_equal(np.sort(column_order(problem(1, 4), groups=np.zeros(4, int), n=2)), range(4))
