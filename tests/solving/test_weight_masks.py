"""SparseGPT, Wanda and RIA against the formulas of their papers; SparseGPT's step on a grid."""

import numpy as np
import pytest

from tfprune.patterns import NM, Unstructured
from tfprune.solving.least_squares import GramMoments, Grid
from tfprune.solving.zeros import _elimination_factor, _sparse_gpt, ria_mask, wanda_mask


@pytest.fixture(params=range(3))
def problem(request):
    random = np.random.default_rng(request.param)
    x = random.normal(size=(200, 6)) @ random.normal(size=(6, 24)) + 0.3 * random.normal(size=(200, 24))
    moments = GramMoments(24, 8)
    moments.add_inputs(x)
    weights = random.normal(size=(8, 24))
    return moments.aimed_at(weights), weights


def test_kept_weights_lie_on_the_grid_and_rounding_costs_less_than_afterwards(problem):
    moments, weights = problem
    steps = np.linspace(0.2, 0.5, 8)
    settings = {"inputs": 24, "pattern": Unstructured(), "sparsity": 0.5, "ridge": 0.01}
    mask, on_grid = _sparse_gpt(moments, weights, grid=Grid(steps[:, None]), **settings)
    np.testing.assert_allclose(on_grid / steps[:, None], np.rint(on_grid / steps[:, None]), atol=1e-9)
    assert mask.mean() == 0.5
    _, real = _sparse_gpt(moments, weights, **settings)
    rounded = np.rint(real / steps[:, None]) * steps[:, None]
    assert moments.errors(on_grid).sum() < moments.errors(rounded).sum()


def test_a_given_factor_changes_nothing(problem):
    moments, weights = problem
    settings = {"inputs": 24, "pattern": Unstructured(), "sparsity": 0.7, "ridge": 0.1}
    factor = _elimination_factor(moments, 0.1)
    for one_by_one, given in zip(
        _sparse_gpt(moments, weights, **settings),
        _sparse_gpt(moments, weights, factor=factor, **settings),
        strict=True,
    ):
        np.testing.assert_array_equal(one_by_one, given)


def algorithm_1(gram, weights, *, sparsity, ridge, size=128):
    """Follow algorithm 1 of SparseGPT, with the Cholesky factor of the inverse and blocks of 128 columns."""
    hessian = gram + ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
    factor = np.linalg.cholesky(np.linalg.inv(hessian)).T
    w, mask = weights.copy(), np.ones(weights.shape, dtype=bool)
    for start in range(0, w.shape[1], size):
        stop = min(start + size, w.shape[1])
        block = slice(start, stop)
        costs = w[:, block] ** 2 / np.diag(factor)[block] ** 2
        order = np.argsort(costs, axis=None)[: round(sparsity * costs.size)]
        mask[:, block][np.unravel_index(order, costs.shape)] = False
        errors = np.zeros((len(w), stop - start))
        for column in range(start, stop):
            errors[:, column - start] = np.where(mask[:, column], 0, w[:, column]) / factor[column, column]
            w[:, column:stop] -= np.outer(errors[:, column - start], factor[column, column:stop])
        w[:, stop:] -= errors @ factor[block, stop:]
    return mask, np.where(mask, w, 0)


@pytest.fixture(params=range(2))
def wide(request):
    random = np.random.default_rng(request.param)
    x = random.normal(size=(600, 160)) @ random.normal(size=(160, 160)) * np.exp(random.normal(size=160))
    moments = GramMoments(160, 12)
    moments.add_inputs(x)
    return moments, random.normal(size=(12, 160)), x


@pytest.mark.parametrize("sparsity", [0.5, 0.7])
def test_sparse_gpt_is_algorithm_1_of_its_paper(wide, sparsity):
    moments, weights, _ = wide
    mask, updated = _sparse_gpt(moments, weights, inputs=160, pattern=Unstructured(), sparsity=sparsity, ridge=0.01)
    expected_mask, expected = algorithm_1(moments.gram, weights, sparsity=sparsity, ridge=0.01)
    np.testing.assert_array_equal(mask, expected_mask)
    np.testing.assert_allclose(updated, expected, atol=1e-8)


@pytest.mark.parametrize("sparsity", [0.5, 0.7])
def test_wanda_is_its_formula(wide, sparsity):
    moments, weights, x = wide
    scores = np.abs(weights) * np.linalg.norm(x, axis=0)
    removed = np.argsort(scores, axis=1)[:, : round(160 * sparsity)]
    expected = np.ones(weights.shape, dtype=bool)
    np.put_along_axis(expected, removed, False, axis=1)
    mask = wanda_mask(moments, weights, pattern=Unstructured(), sparsity=sparsity)
    np.testing.assert_array_equal(mask, expected)


def ria(weights, x):
    sizes = np.abs(weights)
    return (sizes / sizes.sum(axis=0) + sizes / sizes.sum(axis=1)[:, None]) * np.linalg.norm(x, axis=0) ** 0.5


def test_ria_is_its_formula(wide):
    moments, weights, x = wide
    scores = ria(weights, x)
    threshold = np.sort(scores, axis=None)[round(0.6 * scores.size)]
    mask = ria_mask(moments, weights, pattern=Unstructured(), sparsity=0.6)
    np.testing.assert_array_equal(mask, scores >= threshold)
    mask = ria_mask(moments, weights, pattern=NM(2, 4), sparsity=0.5)
    groups = scores.reshape(12, 40, 4)
    np.testing.assert_array_equal(mask, (groups >= np.sort(groups, axis=2)[..., 2:3]).reshape(12, 160))


def test_ria_scores_of_dead_rows_and_columns_are_zero():
    moments = GramMoments(2, 2)
    moments.add_inputs(np.eye(2))
    mask = ria_mask(moments, np.array([[0.0, 0.0], [0.0, 1.0]]), pattern=Unstructured(), sparsity=0.75)
    np.testing.assert_array_equal(mask, [[False, False], [False, True]])
