"""Zeros are put where the outputs change least."""

import itertools

import numpy as np
import pytest

from tfprune.solving.surgery import LEVELS, ErrorCurve, split_by_error


def curves(seed, count=3):
    random = np.random.default_rng(seed)
    return [
        ErrorCurve(int(random.integers(50, 500)), 0.0, random.uniform(0.1, 10) * LEVELS ** random.uniform(1.5, 4))
        for _ in range(count)
    ]


def cost(curve, share):
    """The errors between the levels, by the power law that these curves follow."""
    power = np.log(curve.errors[-1] / curve.errors[0]) / np.log(LEVELS[-1] / LEVELS[0])
    return curve.errors[0] * (share / LEVELS[0]) ** power


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sparsity", [0.3, 0.6, 0.8])
def test_no_other_split_costs_much_less(seed, sparsity):
    some = curves(seed)
    sizes = np.array([curve.size for curve in some])
    shares = split_by_error(some, sparsity)
    assert sizes @ shares == pytest.approx(sparsity * sizes.sum(), rel=0.01)
    ours = sum(map(cost, some, shares))
    grid = np.linspace(0, 0.95, 39)
    others = (
        (*pair, (sparsity * sizes.sum() - sizes[:2] @ pair) / sizes[2]) for pair in itertools.product(grid, repeat=2)
    )
    best = min(sum(map(cost, some, split)) for split in others if 0 <= split[2] <= 0.95)
    assert ours <= 1.05 * best


def test_zeros_that_are_there_stay():
    first, *rest = curves(0)
    some = [ErrorCurve(first.size, 0.9, first.errors * 1000), *rest]
    assert split_by_error(some, 0.2)[0] >= 0.9


def test_more_zeros_than_were_measured_are_spread_evenly():
    assert split_by_error(curves(0), 0.995) == [0.995] * 3


def test_small_weights_on_which_much_depends_are_spared_at_many_zeros():
    large, small = ErrorCurve(10000, 0.0, 0.1 * LEVELS**4), ErrorCurve(300, 0.0, 100 * LEVELS**4)
    first, second = split_by_error([large, small], 0.95)
    assert second < 0.5 and 0.95 < first < 0.98
