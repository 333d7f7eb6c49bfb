"""Zeros in the matrices of one weight, against the step and the least squares that they are made of."""

from __future__ import annotations

import numpy as np
import pytest

from tfprune.patterns import NM, Block, Unstructured
from tfprune.solving import zeros
from tfprune.solving.least_squares import GramMoments, solve
from tfprune.solving.surgery import LEVEL_FELT, LEVELS, ErrorCurve, output_error
from tfprune.solving.zeros import ZeroSolver, _sparse_gpt, relative_error


def groups(seed, rows=400):
    """Two groups with biases, whose outputs should be those of other weights."""
    random = np.random.default_rng(seed)
    weights = random.normal(size=(2, 6, 13))
    moments = []
    for own in weights:
        x = random.normal(size=(rows, 5)) @ random.normal(size=(5, 12)) + 0.3 * random.normal(size=(rows, 12))
        x = np.concatenate([x, np.ones((rows, 1))], axis=1)
        sums = GramMoments(13, 6)
        sums.add(x, x @ (own + 0.1 * random.normal(size=own.shape)).T)
        moments.append(sums)
    return ZeroSolver(weights, inputs=12), moments


@pytest.mark.parametrize("pattern", [Unstructured(), NM(2, 4)], ids=str)
def test_each_group_gets_the_step_on_its_refit(pattern):
    solver, moments = groups(0)
    solutions = solver.masking(moments, solver.refit(moments), pattern=pattern)(0.5)
    for sums, own, values in zip(moments, solver.weights, solutions, strict=True):
        start = solve(sums, own, free=np.ones(own.shape, bool), ridge=0.1)
        mask, updated = _sparse_gpt(sums, start, inputs=12, pattern=pattern, sparsity=0.5, ridge=0.1)
        np.testing.assert_allclose(values, sums.better(np.where(mask, own, 0), updated), atol=1e-10)
        assert np.mean(values[:, :12] == 0) == 0.5 and (values[:, 12] != 0).all()


def test_few_rows_hold_the_solution_back():
    changes = []
    for rows in (5, 2000):
        solver, moments = groups(1, rows=rows)
        changes.append(np.abs(solver.refit(moments) - solver.weights).mean())
    assert changes[0] < changes[1]


def test_errors_at_levels_grow_and_are_those_of_the_weights():
    solver, moments = groups(2)
    aimed = [sums.aimed_at(own) for sums, own in zip(moments, solver.weights, strict=True)]
    weights_at_level, errors = solver.at_levels(aimed, pattern=Unstructured())
    assert (np.diff(errors) >= 0).all() and (np.diff(errors[LEVELS < 0.98]) > 0).all()  # then one entry stays
    assert np.mean(weights_at_level[..., :12] == 0) == pytest.approx(LEVELS[LEVEL_FELT], abs=0.02)
    assert relative_error(aimed, solver.weights) == pytest.approx(0, abs=1e-12)
    assert errors[LEVEL_FELT] == pytest.approx(relative_error(aimed, weights_at_level))


@pytest.mark.parametrize("pattern", [Unstructured(), Block(4, 1)], ids=str)
def test_a_curve_of_many_outputs_has_the_height_of_all_and_the_shape_of_some(pattern, monkeypatch):
    random = np.random.default_rng(3)
    weights = random.normal(size=(1, 400, 24)) * np.where(np.arange(400) == 333, 300, 1)[:, np.newaxis]
    moments = GramMoments(24, 400)
    moments.add_inputs(random.normal(size=(600, 6)) @ random.normal(size=(6, 24)) + random.normal(size=(600, 24)))
    moments = [moments.aimed_at(weights[0])]
    solver = ZeroSolver(weights, inputs=24)
    weights_at_level, errors = solver.at_levels(moments, pattern=pattern)
    assert errors[LEVEL_FELT] == pytest.approx(relative_error(moments, weights_at_level))
    monkeypatch.setattr(zeros, "_OUTPUTS_OF_SHAPE", 400)
    of_all = solver.at_levels(moments, pattern=pattern)[1]
    np.testing.assert_allclose(errors[LEVELS < 0.98], of_all[LEVELS < 0.98], rtol=0.1)


def test_a_curve_takes_the_error_of_the_outputs():
    curve = ErrorCurve(10, 0.0, 2 * LEVELS).scaled(0.13)
    np.testing.assert_allclose(curve.errors, 0.2 * LEVELS)


def test_constant_outputs_are_left_out_of_the_error():
    constant, values = np.ones((4, 2)), np.array([[0.0], [2.0], [0.0], [2.0]])
    assert output_error([constant, values], [constant + 1, values + 0.5]) == pytest.approx(0.25)
