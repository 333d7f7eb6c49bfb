"""The largest entries: counts by hand, and selection against a full sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scores import SPARSITIES, by_sorting, scores_of

from tfprune.base.arrays import _SMALLEST_SAMPLE, CACHED_VALUES, keep_largest, kept_count, rank_first


@pytest.mark.parametrize(
    ("size", "sparsity", "kept"),
    [
        (6, 0.5, 3),
        (100, 0.9, 10),
        (10, 0.0, 10),
        (10, 0.99, 1),
        (1, 0.5, 1),
        (1, 0.999, 1),
        (5, 0.5, 3),  # 2.5 zeros round to 2
        (7, 0.5, 3),  # 3.5 zeros round to 4
        (3, 0.1, 3),
        (2**40, 0.5, 2**39),
    ],
)
def test_kept_count(size, sparsity, kept):
    assert kept_count(size, sparsity) == kept


@given(scores_of(min_dims=1, max_dims=4, max_side=6), st.data())
def test_ties_keep_the_earlier_entry_of_any_view(scores, data):
    axes = data.draw(st.permutations(range(scores.ndim)))
    steps = data.draw(st.tuples(*[st.sampled_from([1, -1, 2])] * scores.ndim))
    view = scores.transpose(axes)[tuple(slice(None, None, step) for step in steps)]
    count = data.draw(st.integers(1, view.size))
    np.testing.assert_array_equal(keep_largest(view, count), by_sorting(view, count))


def test_ties_in_a_transposed_matrix():
    keras_order = np.ones((2, 3), dtype=np.float32)
    assert keep_largest(keras_order.T, 3).tolist() == [[True, True], [True, False], [False, False]]


# Every `stride`-th entry is what selection looks at first; here it says little, or wrong things, about the rest.
ADVERSARIAL = {
    "constant": lambda index, stride: np.ones(index.size),
    "rising": lambda index, stride: index,
    "falling": lambda index, stride: -index,
    "two values": lambda index, stride: index % 2,
    "all sampled are smallest": lambda index, stride: np.where(index % stride, 1 + index % 1009, -1),
    "all sampled are largest": lambda index, stride: np.where(index % stride, index % 1009, 10**6),
    "sampled spread, the others equal": lambda index, stride: np.where(index % stride, 0, index - index.size / 2),
    "one large": lambda index, stride: index == index.size // 2,
    "random": lambda index, stride: np.random.default_rng(0).standard_normal(index.size),
    "heavy tail": lambda index, stride: np.random.default_rng(1).standard_cauchy(index.size),
}
SIZES = [1, 2, 100, _SMALLEST_SAMPLE - 1, _SMALLEST_SAMPLE, 2 * _SMALLEST_SAMPLE, CACHED_VALUES + 3]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ADVERSARIAL)
def test_selection_equals_sorting(size, kind):
    values = ADVERSARIAL[kind](np.arange(size), max(size // _SMALLEST_SAMPLE, 1) | 1).astype(np.float32)
    before = values.copy()
    fractions = (0.0, 0.001, 0.1, 0.5, 0.77, 0.9, 0.995, 1.0)
    for count in sorted({max(int(size * fraction), 1) for fraction in fractions}):
        np.testing.assert_array_equal(keep_largest(values, count), by_sorting(values, count))
        np.testing.assert_array_equal(values, before, err_msg="selection wrote to its input")


@settings(max_examples=40)
@given(st.integers(1, 4 * _SMALLEST_SAMPLE), st.integers(1, 64), st.integers(1, 10**6), SPARSITIES)
def test_selection_equals_sorting_for_periodic_arrays(size, period, factor, sparsity):
    scores = (np.arange(size) * factor % 10007 % period).astype(np.float32)
    count = kept_count(size, sparsity)
    np.testing.assert_array_equal(keep_largest(scores, count), by_sorting(scores, count))


@given(scores_of(min_dims=1, max_dims=3, max_side=6), st.data())
def test_entries_that_rank_first_are_kept_first_and_each_part_in_its_own_order(scores, data):
    first = np.array(data.draw(st.lists(st.booleans(), min_size=scores.size, max_size=scores.size)))
    first = first.reshape(scores.shape)
    count = data.draw(st.integers(1, scores.size))
    keep = keep_largest(rank_first(scores, first), count)
    assert np.count_nonzero(keep) == count
    part, from_it = (first, count) if count <= first.sum() else (~first, count - int(first.sum()))
    assert first[keep].all() if count <= first.sum() else keep[first].all()
    if from_it:
        np.testing.assert_array_equal(np.sort(scores[keep & part]), np.sort(scores[part])[-from_it:])


def test_equal_scores_and_scores_of_any_size_can_be_ranked():
    first = np.array([False, True, False, True])
    for scores in ([1.0, 1, 1, 1], [3e38, -3e38, 3e38, -3e38], [0, 0, 0, 0]):
        for dtype in ("float32", "float64"):
            keep = keep_largest(rank_first(np.array(scores, dtype), first), 2)
            np.testing.assert_array_equal(keep, first)


def test_what_has_no_rank_keeps_none():
    ranked = rank_first(np.array([np.nan, 2.0, 1.0]), np.array([True, False, True]))
    np.testing.assert_array_equal(ranked, [np.nan, 0.0, 1.0])
