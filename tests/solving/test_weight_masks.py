"""SparseGPT's step on a grid: what rounding moves, later weights make up for."""

import numpy as np
import pytest

from tfprune.patterns import Unstructured
from tfprune.solving.least_squares import GramMoments
from tfprune.solving.weight_masks import elimination_factor, sparse_gpt


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
    mask, on_grid = sparse_gpt(moments, weights, steps=steps, **settings)
    np.testing.assert_allclose(on_grid / steps[:, None], np.rint(on_grid / steps[:, None]), atol=1e-9)
    assert mask.mean() == 0.5
    _, real = sparse_gpt(moments, weights, **settings)
    rounded = np.rint(real / steps[:, None]) * steps[:, None]
    assert moments.errors(on_grid).sum() < moments.errors(rounded).sum()


def test_a_given_factor_changes_nothing(problem):
    moments, weights = problem
    settings = {"inputs": 24, "pattern": Unstructured(), "sparsity": 0.7, "ridge": 0.1}
    factor = elimination_factor(moments, 0.1)
    for one_by_one, given in zip(
        sparse_gpt(moments, weights, **settings), sparse_gpt(moments, weights, factor=factor, **settings), strict=True
    ):
        np.testing.assert_array_equal(one_by_one, given)
