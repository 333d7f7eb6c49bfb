"""Splits by outliers and by spectra, against the formulas of their papers."""

import numpy as np
import pytest

from tfprune.solving.surgery import (
    _OUTLIER,
    _WIDEST_DENSITIES,
    outlier_ratio,
    split_by_outliers,
    split_by_tails,
    tail_exponent,
)


def test_outliers_are_counted_in_all_scores_of_a_block_together():
    random = np.random.default_rng(0)
    scores = [random.exponential(size=(20, 30)), 3 * random.exponential(size=(5, 40))]
    joined = np.concatenate([each.ravel() for each in scores])
    assert outlier_ratio(scores) == np.mean(joined > _OUTLIER * joined.mean())


def test_blocks_of_one_size_have_the_densities_of_owl():
    ratios = np.array([0.01, 0.05, 0.03, 0.09])
    scaled = (ratios - ratios.min()) / (ratios.max() - ratios.min()) * 2 * _WIDEST_DENSITIES
    expected = 1 - (scaled - scaled.mean() + (1 - 0.7))
    np.testing.assert_allclose(split_by_outliers(ratios, sizes=[7] * 4, sparsity=0.7), expected)


@pytest.mark.parametrize("split", [split_by_outliers, split_by_tails])
@pytest.mark.parametrize("sparsity", [0.3, 0.7])
def test_the_overall_sparsity_holds_for_blocks_of_any_size(split, sparsity):
    sizes = [10, 400, 90]
    assert np.average(split([0.2, 0.7, 0.1], sizes=sizes, sparsity=sparsity), weights=sizes) == pytest.approx(
        sparsity
    )
    assert split([0.3, 0.3], sizes=[1, 2], sparsity=sparsity) == pytest.approx([sparsity] * 2)


def test_sparsities_follow_the_exponents_as_in_alpha_pruning():
    exponents, sizes = np.array([2.0, 4.0, 2.5]), np.array([5, 10, 20])
    mapped = (exponents - 2) / 2 * (1.2 - 0.8) + 0.8
    expected = mapped * sizes.sum() * 0.6 / (mapped @ sizes)
    np.testing.assert_allclose(split_by_tails(exponents, sizes=sizes, sparsity=0.6), expected)


def test_the_exponent_is_that_of_the_eigenvalues():
    matrix = np.random.default_rng(0).normal(size=(30, 50))
    values = np.sort(np.linalg.eigvalsh(matrix @ matrix.T))
    tail = values[15:]
    assert tail_exponent(matrix) == pytest.approx(1 + 15 / np.log(tail / tail[0]).sum())


def test_heavy_tails_have_small_exponents():
    random = np.random.default_rng(0)
    flat = random.normal(size=(64, 64))
    heavy = flat * random.pareto(1.5, size=(64, 1))
    assert tail_exponent(heavy) < tail_exponent(flat)


@pytest.mark.parametrize("matrix", [np.zeros((3, 4)), np.ones((1, 5)), np.eye(4)])
def test_spectra_without_a_tail_give_numbers(matrix):
    assert np.isfinite(tail_exponent(matrix))
