"""Statistics of pairs, against SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from tfprune.base.limit import paired_interval
from tfprune.export.comparing.damage_report import (
    _benjamini_hochberg,
    excess_error_test,
    excess_loss_test,
    mcnemar,
    mean_interval,
)


@pytest.mark.parametrize(
    ("lost", "gained", "samples"), [(0, 0, 1), (0, 0, 3), (2, 1, 7), (12, 2, 50), (400, 300, 10_000)]
)
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_of_pairs_is_that_of_their_mean_with_two_more_flips(lost, gained, samples, level):
    differences = np.repeat([1, -1, 0], [lost + 1, gained + 1, samples - lost - gained])
    scale = differences.std() / math.sqrt(samples + 2)
    expected = np.clip(stats.norm.interval(level, loc=differences.mean(), scale=scale), -1, 1)
    assert paired_interval(lost, gained, samples=samples, level=level) == pytest.approx(tuple(expected), abs=1e-9)


@pytest.mark.parametrize("samples", [3, 10, 30, 200])
@pytest.mark.parametrize("rates", [(0.1, 0.02), (0.3, 0.1), (0.02, 0.02)])
def test_the_interval_of_pairs_covers(samples, rates):
    """All outcomes, by their probabilities: the coverage is near 95 %, also of few samples."""
    lost, gained = np.mgrid[: samples + 1, : samples + 1].reshape(2, -1)
    possible = lost + gained <= samples
    counts = np.stack([lost, gained, samples - lost - gained], axis=1)[possible]
    chances = stats.multinomial.pmf(counts, samples, [*rates, 1 - sum(rates)])
    likely = chances > 1e-7
    ends = np.array([paired_interval(*map(int, row[:2]), samples=samples, level=0.95) for row in counts[likely]])
    drop = rates[0] - rates[1]
    assert chances[likely][(ends[:, 0] <= drop) & (drop <= ends[:, 1])].sum() > 0.93


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (5, 5), (12, 2), (300, 200), (4000, 4200)])
def test_mcnemar_is_the_binomial_test_of_scipy(lost, gained):
    expected = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar(lost, gained) == pytest.approx(expected, rel=1e-9)


def test_corrected_p_values_are_those_of_scipy():
    p_values = np.random.default_rng(0).random(50) ** 3
    p_values[:3] = 0.001  # ties
    np.testing.assert_allclose(_benjamini_hochberg(p_values), stats.false_discovery_control(p_values), atol=1e-12)
    assert _benjamini_hochberg([]).size == 0


@pytest.mark.parametrize(
    ("lost", "gained", "samples", "overall"),
    [
        (3, 0, 10, (5, 4, 50)),
        (0, 2, 10, (5, 4, 50)),
        (9, 1, 200, (120, 80, 10_000)),
        (60, 3, 1000, (300, 100, 10_000)),
        (2, 0, 5, (9, 0, 40)),
    ],
)
def test_a_group_is_judged_by_the_permutation_distribution(lost, gained, samples, overall):
    all_lost, all_gained, total = overall
    expected = sum(
        stats.hypergeom.pmf(gains, total, all_gained, samples)
        * stats.hypergeom.sf(lost - gained + gains - 1, total - all_gained, all_lost, samples - gains)
        for gains in range(min(all_gained, samples) + 1)
    )
    assert excess_loss_test(lost, gained, samples=samples, overall=overall) == pytest.approx(
        expected, rel=1e-9, abs=1e-12
    )


def test_a_group_of_all_samples_lost_no_more_than_the_others():
    assert (
        excess_loss_test(4, 4, samples=8, overall=(4, 4, 8))
        == excess_loss_test(0, 0, samples=3, overall=(0, 0, 9))
        == 1
    )


def test_a_group_without_gains_is_judged_by_fishers_exact_test():
    table = [[7, 13], [20, 160]]
    expected = stats.fisher_exact(table, alternative="greater").pvalue
    assert excess_loss_test(7, 0, samples=20, overall=(27, 0, 200)) == pytest.approx(expected, rel=1e-9)


def test_errors_are_judged_by_the_rank_sums_of_scipy():
    rng = np.random.default_rng(0)
    increase, inside = rng.normal(size=300).round(1), rng.random(300) < 0.2
    increase[inside] += 0.2
    expected = stats.mannwhitneyu(
        increase[inside], increase[~inside], alternative="greater", method="asymptotic"
    ).pvalue
    assert excess_error_test(increase, inside) == pytest.approx(expected, rel=1e-9)
    assert excess_error_test(np.zeros(300), inside) == excess_error_test(increase, np.ones(300, bool)) == 1


@pytest.mark.parametrize("samples", [2, 3, 4, 5, 10, 11, 1000, 20_001])
@pytest.mark.parametrize("level", [0.8, 0.99])
def test_the_interval_of_a_mean_is_students(samples, level):
    values = np.random.default_rng(samples).normal(size=samples)
    expected = stats.ttest_1samp(values, 0).confidence_interval(level)
    assert mean_interval(values, level=level) == pytest.approx(tuple(expected), abs=1e-9)


def test_a_single_value_has_no_interval():
    assert mean_interval(np.ones(1), level=0.95) is None
