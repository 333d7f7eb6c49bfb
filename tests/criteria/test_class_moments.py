"""Streaming moments by class against SciPy, and against one look at all of the data."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from tfprune.facts import ClassMoments

SEEDS = st.integers(0, 2**32 - 1)


def moments_of(values: np.ndarray, labels: np.ndarray, *, batch: int | None = None) -> ClassMoments:
    moments = ClassMoments(values.shape[1])
    for start in range(0, len(values), batch or len(values)):
        rows = slice(start, start + (batch or len(values)))
        moments.add(values[rows], labels[rows])
    return moments


def f_by_scipy(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    groups = [values[labels == label].astype(np.float64) for label in np.unique(labels)]
    return scipy.stats.f_oneway(*groups).statistic


def planted(seed: int, *, classes: int = 4, samples: int = 90, units: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Return units of different sizes, offsets and degrees of discrimination."""
    generator = np.random.default_rng(seed)
    labels = np.append(np.arange(classes), generator.integers(0, classes, samples - classes))
    centers = generator.standard_normal((classes, units)) * generator.uniform(0, 2, units)
    values = centers[labels] + generator.standard_normal((samples, units))
    return values * generator.uniform(0.01, 100, units) + generator.uniform(-50, 50, units), labels


def test_by_hand():
    """Two classes {1, 3} and {2, 6}: means 2 and 4, between 2 * 1 + 2 * 1 = 4, within 2 + 8 = 10."""
    moments = moments_of(np.array([[1.0], [3.0], [2.0], [6.0]]), np.array([7, 7, -1, -1]))
    assert moments.labels == [-1, 7]
    np.testing.assert_array_equal(moments.counts, [2, 2])
    np.testing.assert_allclose(moments.means, [[4], [2]])
    np.testing.assert_allclose(moments.squares, [[8], [2]])
    np.testing.assert_allclose([moments.mean(), moments.between(), moments.within()], [[3], [4], [10]])
    np.testing.assert_allclose(moments.variance(), [14 / 4])
    np.testing.assert_allclose(moments.f_statistic(), [(4 / 1) / (10 / 2)])
    np.testing.assert_allclose(moments.discrimination(), [0.4])


@given(SEEDS, st.integers(1, 40))
def test_f_is_scipys(seed, batch):
    values, labels = planted(seed)
    np.testing.assert_allclose(
        moments_of(values, labels, batch=batch).f_statistic(), f_by_scipy(values, labels), rtol=1e-6
    )


@given(SEEDS, st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_batches_of_any_size_give_what_one_batch_gives(seed, sizes):
    values, labels = planted(seed, samples=sum(sizes) + 4)
    streamed, whole, start = ClassMoments(values.shape[1]), moments_of(values, labels), 0
    for size in [*sizes, 4]:
        streamed.add(values[start : start + size], labels[start : start + size])
        start += size
    order = np.argsort(streamed.labels)
    np.testing.assert_array_equal(streamed.counts[order], whole.counts)
    np.testing.assert_allclose(streamed.means[order], whole.means, rtol=1e-12)
    np.testing.assert_allclose(streamed.squares[order], whole.squares, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(streamed.variance(), values.var(axis=0), rtol=1e-9)


def test_a_large_offset_in_float32_costs_nothing():
    """Sums of x and x ** 2 would have no digit left: (1e4) ** 2 = 1e8, and float32 has seven."""
    values, labels = planted(3)
    values = ((values - values.mean(axis=0)) / values.std(axis=0)).astype(np.float32)
    shifted = values + np.float32(1e4)
    statistics = moments_of(shifted, labels, batch=16).f_statistic()
    np.testing.assert_allclose(statistics, f_by_scipy(shifted, labels), rtol=1e-6)
    np.testing.assert_allclose(statistics, f_by_scipy(values, labels), rtol=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e4 / 3, 1e30])
def test_a_constant_unit_gives_zero(value):
    values = np.full((50, 2), value)
    values[:, 1] = np.arange(50)
    moments = moments_of(values, np.arange(50) % 3, batch=7)
    for statistic in (moments.f_statistic(), moments.discrimination(), moments.variance()):
        assert statistic[0] == 0
        assert np.isfinite(statistic).all()


def test_classes_that_are_constant_each_are_infinitely_far_apart():
    labels = np.arange(20) % 2
    assert np.isposinf(moments_of(labels[:, None] * 1.0, labels).f_statistic()).all()


@given(SEEDS)
def test_discrimination_ranks_as_f_does(seed):
    values, labels = planted(seed)
    moments = moments_of(values, labels)
    classes, samples = len(moments.labels), len(values)
    np.testing.assert_allclose(
        moments.discrimination(), moments.f_statistic() * (classes - 1) / (samples - classes), rtol=1e-6
    )


@given(SEEDS, st.floats(0.01, 100))
def test_scaling_a_unit_changes_its_variance_only(seed, factor):
    values, labels = planted(seed)
    before, after = moments_of(values, labels), moments_of(values * factor, labels)
    np.testing.assert_allclose(after.f_statistic(), before.f_statistic(), rtol=1e-6)
    np.testing.assert_allclose(after.discrimination(), before.discrimination(), rtol=1e-4)
    np.testing.assert_allclose(after.variance(), before.variance() * factor**2, rtol=1e-6)


@pytest.mark.parametrize(
    ("labels", "received"),
    [([1, 1, 1], "3 samples of 1 classes"), ([0, 1, 2], "3 samples of 3 classes")],
)
def test_f_needs_classes_and_samples(labels, received):
    moments = moments_of(np.ones((3, 1)), np.array(labels))
    with pytest.raises(ValueError, match=re.escape(f"Received: {received}")):
        moments.f_statistic()


def test_complexity_is_one_minus_the_mean_cosine_of_class_means():
    generator = np.random.default_rng(3)
    values, labels = generator.standard_normal((30, 4)), np.arange(30) % 3
    moments = ClassMoments(4)
    for rows in np.array_split(np.arange(30), 4):
        moments.add(values[rows], labels[rows])
    means = [values[labels == label].mean(axis=0) for label in range(3)]
    cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in itertools.combinations(means, 2)]
    assert moments.complexity() == pytest.approx(1 - np.mean(cosines))
    with pytest.raises(ValueError, match="at least two classes. Received: 1. Pass more data."):
        only = ClassMoments(2)
        only.add(np.ones((3, 2)), np.zeros(3, dtype=int))
        only.complexity()


def test_moments_of_groups_are_those_of_samples_labelled_by_group():
    generator = np.random.default_rng(3)
    values, labels = generator.normal(size=(60, 4)) + 1e3, generator.integers(0, 6, 60)
    groups = {label: "ab"[label % 2] for label in range(6)}
    moments, expected = ClassMoments(4), ClassMoments(4)
    moments.add(values, labels)
    expected.add(values, labels % 2)
    grouped = moments.grouped(groups)
    np.testing.assert_allclose(grouped.f_statistic(), expected.f_statistic(), rtol=1e-9)
    assert sorted(grouped.counts) == sorted(expected.counts) and grouped.size == 60
