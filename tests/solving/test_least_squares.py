"""Least squares on moments, against NumPy's own solver and exhaustive search."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfprune.solving.least_squares import GramMoments, solve
from tfprune.solving.surgery import _greedy_obs


def correlated(seed: int, *, inputs: int = 10, outputs: int = 4, rows: int = 200):
    """Return inputs that share a few causes, and weights."""
    generator = np.random.default_rng(seed)
    causes = generator.normal(size=(rows, inputs // 2))
    x = causes @ generator.normal(size=(inputs // 2, inputs)) + 0.3 * generator.normal(size=(rows, inputs))
    return x, generator.normal(size=(outputs, inputs))


def moments_of(x: np.ndarray, y: np.ndarray, *, batch: int = 64) -> GramMoments:
    moments = GramMoments(x.shape[1], y.shape[1])
    for start in range(0, len(x), batch):
        moments.add(x[start : start + batch], y[start : start + batch])
    return moments


def only(kept: np.ndarray, outputs: int) -> np.ndarray:
    return np.tile(kept, (outputs, 1))


def best_error(x: np.ndarray, y: np.ndarray, kept) -> float:
    places = np.flatnonzero(kept) if np.asarray(kept).dtype == bool else list(kept)
    solution = np.linalg.lstsq(x[:, places], y, rcond=None)[0]
    return float(np.sum((x[:, places] @ solution - y) ** 2))


def test_moments_are_those_of_all_rows_and_the_errors_those_of_the_outputs():
    x, weights = correlated(0)
    y = x @ weights.T + 1
    moments = moments_of(x.astype("float32"), y.astype("float32"))
    np.testing.assert_allclose(moments.gram, x.T @ x, rtol=1e-5)
    np.testing.assert_allclose(moments.cross, y.T @ x, rtol=1e-4, atol=1e-3)
    assert moments.count == 200 and moments.gram.dtype == np.float64
    other = weights + 0.1
    np.testing.assert_allclose(moments.errors(other), np.mean((x @ other.T - y) ** 2, axis=0), rtol=1e-5)


def test_moments_in_double_precision_survive_a_large_mean():
    x, weights = correlated(1, rows=4000)
    x = (x + 1e4).astype("float32")
    y = x.astype(float) @ weights.T
    assert moments_of(x, y).errors(weights).max() < 1e-4 * np.var(y)


@pytest.mark.parametrize("part", [0.3, 0.5, 0.9])  # rows that lack little share a factorization
@pytest.mark.parametrize("seed", range(5))
def test_solve_finds_what_a_solver_on_the_rows_finds(seed, part):
    x, weights = correlated(seed)
    y = x @ weights.T
    free = np.random.default_rng(seed).random(weights.shape) < part
    solution = solve(moments_of(x, y), weights * free, free=free, ridge=0)
    assert not solution[~free].any()
    for row, pattern, target in zip(solution, free, y.T, strict=True):
        expected = np.linalg.lstsq(x[:, pattern], target, rcond=None)[0]
        np.testing.assert_allclose(row[pattern], expected, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_three_ways_to_remove_a_group_agree(seed):
    """Least squares on what is left, the block formula, and optimal brain surgery of the group."""
    x, weights = correlated(seed)
    kept, gone = [0, 2, 3, 7, 9], [1, 4, 5, 6, 8]
    H = x.T @ x
    block = weights[:, kept] + weights[:, gone] @ H[np.ix_(gone, kept)] @ np.linalg.inv(H[np.ix_(kept, kept)])
    inverse = np.linalg.inv(H)
    surgery = weights - weights[:, gone] @ np.linalg.inv(inverse[np.ix_(gone, gone)]) @ inverse[gone]
    free = only(np.isin(np.arange(10), kept), 4)
    solution = solve(moments_of(x, x @ weights.T), weights * free, free=free, ridge=0)
    np.testing.assert_allclose(solution[:, kept], block, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(solution[:, kept], surgery[:, kept], rtol=1e-10, atol=1e-10)


def test_of_two_equal_channels_one_is_enough():
    x, weights = correlated(2)
    x[:, 3] = x[:, 5]
    y = x @ weights.T
    kept = np.arange(10) != 3
    solution = solve(moments_of(x, y), weights * kept, free=only(kept, 4))
    np.testing.assert_allclose(x @ solution.T, y, atol=1e-6)
    np.testing.assert_allclose(solution[:, 5], weights[:, 3] + weights[:, 5], atol=1e-6)
    assert not _greedy_obs(x.T @ x, weights, keep=9)[[3, 5]].all()


def test_a_bias_takes_the_mean_of_what_goes():
    x, weights = correlated(3)
    x[:, 0], x[:, -1] = 2.5, 1.0  # a channel that is constant, and the input of the bias
    kept = np.arange(10) != 0
    solution = solve(moments_of(x, x @ weights.T), weights * kept, free=only(kept, 4))
    np.testing.assert_allclose(solution[:, -1], weights[:, -1] + 2.5 * weights[:, 0], atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), inputs=st.integers(2, 14), rows=st.integers(1, 30), dead=st.integers(0, 2))
def test_no_output_gets_worse_whatever_the_rank(seed, inputs, rows, dead):
    generator = np.random.default_rng(seed)
    x, weights = correlated(seed, inputs=inputs, rows=rows)
    x[:, :dead] = 0
    y = x @ weights.T
    free = generator.random(weights.shape) < 0.6
    masked = weights * free
    moments = moments_of(x, y)
    solution = solve(moments, masked, free=free)
    assert np.isfinite(solution).all() and not solution[~free].any()
    before, after = (np.sum((x @ candidate.T - y) ** 2, axis=0) for candidate in (masked, solution))
    assert (after <= before + 1e-10 * np.sum(y**2, axis=0)).all()


def test_directions_without_data_stay_as_they_are():
    x, weights = correlated(4)
    x[:, 2] = 0
    free = only(np.arange(10) != 0, 4)
    solution = solve(moments_of(x, x @ weights.T), weights * free, free=free)
    np.testing.assert_array_equal(solution[:, 2], weights[:, 2])


def test_dead_channels_go_first():
    x, weights = correlated(5)
    x[:, [1, 6]] = 0
    assert np.flatnonzero(~_greedy_obs(x.T @ x, weights, keep=8)).tolist() == [1, 6]


def test_more_channels_than_rows():
    x, weights = correlated(6, inputs=40, rows=12)
    kept = _greedy_obs(x.T @ x, weights, keep=20)
    y = x @ weights.T
    assert kept.sum() == 20 and best_error(x, y, kept) < 1e-6 * np.sum(y**2)  # 12 rows need 12 channels


def test_greedy_is_close_to_the_best_of_all_choices():
    ratios = []
    for seed in range(60):
        x, weights = correlated(seed)
        y = x @ weights.T
        best = min(best_error(x, y, kept) for kept in itertools.combinations(range(10), 5))
        ratios.append(best_error(x, y, _greedy_obs(x.T @ x, weights, keep=5)) / best)
    assert min(ratios) >= 1 - 1e-9
    assert np.median(ratios) <= 1.05


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), keep=st.integers(1, 9), data=st.data())
def test_the_order_of_the_channels_does_not_matter(seed, keep, data):
    x, weights = correlated(seed)
    H = x.T @ x
    order = data.draw(st.permutations(range(10)))
    kept = _greedy_obs(H, weights, keep=keep)
    permuted = _greedy_obs(H[np.ix_(order, order)], weights[:, order], keep=keep)
    np.testing.assert_array_equal(permuted, kept[order])


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(6)), keep=st.integers(1, 5))
def test_nor_does_it_among_channels_that_cost_the_same(order, keep):
    """Inputs without correlation, each of which costs 4."""
    H, weights = np.diag([1.0, 4.0, 16.0, 64.0, 0.25, 1 / 16]), np.array([[2.0, 1.0, 0.5, 0.25, 4.0, 8.0]])
    kept = _greedy_obs(H, weights, keep=keep, ridge=0)
    np.testing.assert_array_equal(
        _greedy_obs(H[np.ix_(order, order)], weights[:, order], keep=keep, ridge=0), kept[order]
    )


def test_moments_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite moments"):
        _greedy_obs(np.full((2, 2), np.nan), np.ones((1, 2)), keep=1)
