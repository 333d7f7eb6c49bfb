"""Scores of units against what they stand for, worked out by NumPy alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tfprune.methods.one_shot.prune_units import SCORES, _kept_units
from tfprune.solving.least_squares import GramMoments

ALL = [*SCORES, "greedy"]


def problem(seed, inputs=10, outputs=4, rows=200):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 5)) @ generator.normal(size=(5, inputs))
    return x + 0.3 * generator.normal(size=(rows, inputs)), generator.normal(size=(outputs, inputs))


def moments_of(x, weights):
    moments = GramMoments(x.shape[1], len(weights))
    moments.add_inputs(x)
    return moments.aimed_at(weights)


def each(inputs):
    return np.arange(inputs)[:, np.newaxis]


def chosen(score, x, weights, keep):
    return _kept_units(score, moments_of(x, weights), weights=weights, indices=each(x.shape[1]), keep=keep)


def error(x, weights, kept):
    y = x @ weights.T
    return np.sum((x[:, kept] @ np.linalg.lstsq(x[:, kept], y, rcond=None)[0] - y) ** 2)


def test_each_score_is_its_formula():
    x, weights = problem(0)
    moments = moments_of(x, weights)
    found = {name: score(moments, weights, each(10)) for name, score in SCORES.items()}
    norms = np.linalg.norm(x, axis=0)
    np.testing.assert_allclose(found["activation"], norms)
    np.testing.assert_allclose(found["wanda"], norms * np.linalg.norm(weights, axis=0))
    without = [error(x, weights, np.arange(10) != one) for one in range(10)]
    np.testing.assert_allclose(found["obs"], without, rtol=1e-5)
    factor = np.linalg.cholesky(np.linalg.inv(x.T @ x)).T  # upper, with inverse = factor.T @ factor
    power = np.mean((x @ weights.T) ** 2, axis=0)
    np.testing.assert_allclose(found["putri"], power @ weights**2 / factor.diagonal() ** 2, rtol=1e-5)


def test_a_channel_of_several_inputs_counts_as_one():
    x, weights = problem(1, inputs=12)
    indices = np.random.default_rng(2).permutation(12).reshape(4, 3)
    moments = moments_of(x, weights)
    for score in ALL:
        kept = _kept_units(score, moments, weights=weights, indices=indices, keep=2)
        assert kept.sum() == 2 and kept.size == 4
    best = min(
        error(x, weights, np.sort(np.concatenate([indices[a], indices[b]])))
        for a, b in itertools.combinations(range(4), 2)
    )
    kept = _kept_units("greedy", moments, weights=weights, indices=indices, keep=2)
    assert error(x, weights, np.sort(indices[kept].ravel())) <= 1.3 * best


@pytest.mark.parametrize("score", ALL)
def test_only_putris_own_score_depends_on_the_order(score):
    same = []
    for seed in range(20):
        x, weights = problem(seed)
        order = np.random.default_rng(seed).permutation(10)
        kept, permuted = chosen(score, x, weights, 5), chosen(score, x[:, order], weights[:, order], 5)
        same.append((permuted == kept[order]).all())
    assert all(same) == (score != "putri")


@pytest.mark.parametrize("score", ALL)
def test_dead_units_go_first_and_few_rows_do_no_harm(score):
    x, weights = problem(3, inputs=20, rows=30)
    x[:, [2, 7]] = 0
    assert not chosen(score, x, weights, 18)[[2, 7]].any()
    few = chosen(score, x[:6], weights, 9)
    assert few.sum() == 9


def test_greedy_is_nearest_to_the_best_choice():
    median = {}
    for score in ALL:
        ratios = []
        for seed in range(15):
            x, weights = problem(seed)
            best = min(error(x, weights, list(some)) for some in itertools.combinations(range(10), 5))
            ratios.append(error(x, weights, chosen(score, x, weights, 5)) / best)
        median[score] = np.median(ratios)
    assert median["greedy"] <= 1.05
    assert min(median, key=median.get) == "greedy"
