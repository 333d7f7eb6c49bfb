"""Greedy removal with late updates, against the plain algorithm, which solves anew for every removal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfprune.solving import least_squares, surgery
from tfprune.solving.surgery import Surgeon, _greedy_obs, removals


@pytest.fixture
def small_blocks(monkeypatch):
    """Make every part of the algorithm happen with few inputs."""
    monkeypatch.setattr(surgery, "_PENDING", 3)
    monkeypatch.setattr(surgery, "_LARGE", 4)
    monkeypatch.setattr(least_squares, "_TILE", 5)


def moments(seed, inputs, rows=120):
    """Return the moments of inputs that share a few causes."""
    generator = np.random.default_rng(seed)
    causes = generator.normal(size=(rows, max(inputs // 2, 1)))
    x = causes @ generator.normal(size=(causes.shape[1], inputs)) + 0.5 * generator.normal(size=(rows, inputs))
    return x.T @ x


def error_without(gram, weights, gone):
    """Return the squared error of the best weights without some inputs, by the normal equations."""
    left = np.setdiff1d(np.arange(len(gram)), gone)
    cross = weights @ gram[:, left]
    best = np.linalg.solve(gram[np.ix_(left, left)], cross.T).T
    return np.trace(weights @ gram @ weights.T) - np.trace(best @ cross.T)


def plain_removals(maps, channels):
    """Yield the cheapest channel and what it adds to the error, by solving for every choice."""
    gone, error, left = [], 0.0, list(range(channels))
    while left:
        errors = [
            sum(
                error_without(gram, weights, np.setdiff1d(np.concatenate([where[g] for g in [*gone, channel]]), [-1]))
                for gram, weights, where in maps
            )
            for channel in left
        ]
        best = int(np.argmin(errors))
        yield left[best], errors[best] - error
        error = errors[best]
        gone.append(left.pop(best))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    channels=st.integers(2, 12),
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=2),
    outputs=st.integers(1, 5),
)
@pytest.mark.usefixtures("small_blocks")
def test_removals_are_those_of_the_plain_algorithm(seed, channels, sizes, outputs):
    generator = np.random.default_rng(seed)
    maps = []
    for number, size in enumerate(sizes):
        inputs = channels * size + 1  # the last one is that of the bias, and stays
        where = generator.permutation(inputs - 1).reshape(channels, size)
        where[: number * channels // 2] = -1  # the second map does not read some
        maps.append((moments(seed + number, inputs), generator.normal(size=(outputs, inputs)), where))
    surgeons = [Surgeon(gram, weights, channels=where, ridge=0) for gram, weights, where in maps]
    pairs, expected = list(removals(surgeons, channels)), list(plain_removals(maps, channels))
    assert [channel for channel, _ in pairs] == [channel for channel, _ in expected]
    np.testing.assert_allclose([cost for _, cost in pairs], [cost for _, cost in expected], rtol=1e-6)


@pytest.mark.slow
def test_many_inputs_go_in_the_order_of_removing_them_one_by_one():
    """More than fit into one block of rows, with rows dropped on the way."""
    inputs, keep = 1300, 900
    generator = np.random.default_rng(0)
    x, weights = generator.normal(size=(3000, inputs)), generator.normal(size=(3, inputs))
    gram = x.T @ x
    inverse, left, order = np.linalg.inv(gram), weights.copy(), []
    alive = np.ones(inputs, dtype=bool)
    for _ in range(inputs - keep):
        costs = np.where(alive, np.square(left).sum(axis=0) / np.where(alive, inverse.diagonal(), 1), np.inf)
        gone = int(np.argmin(costs))
        row = inverse[gone] / inverse[gone, gone]
        left -= np.outer(left[:, gone], row)
        inverse -= np.outer(inverse[gone], row)
        alive[gone] = False
        order.append(gone)
    surgeon = Surgeon(gram, weights, channels=np.arange(inputs)[:, np.newaxis], ridge=0)
    pairs = [channel for channel, _ in zip(removals([surgeon], inputs), range(inputs - keep), strict=False)]
    assert [channel for channel, _ in pairs] == order
    np.testing.assert_array_equal(_greedy_obs(gram, weights, keep=keep, ridge=0), alive)


@pytest.mark.usefixtures("small_blocks")
def test_permuted_and_repeated_inputs():
    """Of inputs that repeat others, as many go as repeat; permuted ones give the same choice."""
    gram = moments(1, 8)
    twice = np.tile(gram, (2, 2))
    weights = np.random.default_rng(2).normal(size=(3, 16))
    kept = _greedy_obs(twice, weights, keep=8)
    assert (kept[:8] ^ kept[8:]).all()
    order = np.random.default_rng(3).permutation(16)
    permuted = _greedy_obs(twice[np.ix_(order, order)], weights[:, order], keep=8)
    np.testing.assert_array_equal(permuted, kept[order])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), rank=st.integers(1, 12), dead=st.integers(0, 4), keep=st.integers(1, 20))
@pytest.mark.usefixtures("small_blocks")
def test_fewer_rows_than_inputs(seed, rank, dead, keep):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rank, 20))
    x[:, :dead] = 0
    weights = generator.normal(size=(2, 20))
    kept = _greedy_obs(x.T @ x, weights, keep=keep)
    assert kept.sum() == keep
    if keep <= 20 - dead:
        assert not kept[:dead].any()
    y = x @ weights.T
    solved = np.linalg.lstsq(x[:, kept], y, rcond=None)[0]
    if keep >= rank:
        assert np.sum((x[:, kept] @ solved - y) ** 2) < 1e-5 * np.sum(y**2)
