"""Confidence bounds: equal to those of SciPy's beta distribution."""

import itertools

import pytest
from scipy.stats import beta

from tfprune.methods.rule_mining import Counts, _interval, lower_bound


@pytest.mark.parametrize("trials", [1, 2, 5, 59, 500, 100_000])
def test_bounds_are_those_of_clopper_and_pearson(trials):
    for hits, error in itertools.product({1, trials // 3 + 1, trials - 1, trials}, (0.05, 0.025, 1e-4, 1e-9)):
        expected = beta.ppf(error, hits, trials - hits + 1) if hits else 0
        assert lower_bound(hits, trials, error=error) == pytest.approx(expected, abs=1e-10)


def test_counts_of_groups_need_not_be_whole():
    assert lower_bound(10.5, 12.25, error=0.05) == pytest.approx(beta.ppf(0.05, 10.5, 2.75), abs=1e-10)


def test_both_ends_of_an_interval():
    assert _interval(0, 0) == (0, 1)
    assert _interval(0, 20) == pytest.approx((0, beta.ppf(0.975, 1, 20)), abs=1e-10)
    assert _interval(20, 20) == pytest.approx((beta.ppf(0.025, 20, 1), 1), abs=1e-10)
    assert _interval(7, 20) == pytest.approx((beta.ppf(0.025, 7, 14), beta.ppf(0.975, 8, 13)), abs=1e-10)


def test_counts_without_samples_have_no_precision():
    counts = Counts(0, 0, 5)
    assert (counts.precision, counts.precision_interval, counts.recall) == (0, (0, 1), 0)
    assert counts.as_dict()["recall_interval"] == pytest.approx([0, beta.ppf(0.975, 1, 5)], abs=1e-10)
