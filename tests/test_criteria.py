"""Criteria: scores of the weight's shape, larger = keep."""

from __future__ import annotations

import re
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfprune.criteria import CRITERIA, Criterion, Evidence, Magnitude, Random
from tfprune.patterns import Unstructured

SHAPE = (40, 30)


def evidence(weight: np.ndarray | None = None, path: str = "block/conv/kernel") -> Evidence:
    return Evidence(np.zeros(SHAPE, dtype=np.float32) if weight is None else weight, path)


def test_magnitude_by_hand():
    scores = Magnitude()(evidence(np.array([[-2.0, 1.0, 0.0], [-0.0, 0.5, -3.0]])))
    np.testing.assert_array_equal(scores, [[2, 1, 0], [0, 0.5, 3]])


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=5), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_magnitude_ignores_the_sign_and_writes_nothing(weight):
    before = weight.copy()
    scores = Magnitude()(evidence(weight))
    np.testing.assert_array_equal(scores, np.where(weight < 0, -weight, weight))
    np.testing.assert_array_equal(scores, Magnitude()(evidence(-weight)))
    np.testing.assert_array_equal(weight, before)


@pytest.mark.parametrize("criterion", [Magnitude(), Random()], ids=repr)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 4), (3, 3, 2, 5), (1, 1)])
def test_scores_have_the_shape_and_are_finite(criterion, dtype, shape):
    weight = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    scores = criterion(evidence(weight))
    assert scores.shape == shape
    assert np.isfinite(scores).all()


def test_random_depends_on_seed_and_path_alone():
    scores = Random(3)(evidence())
    np.testing.assert_array_equal(scores, Random(3)(evidence(np.ones(SHAPE, dtype=np.float16))))
    np.testing.assert_array_equal(scores, Random(np.int64(3))(evidence()))
    others = [Random(4)(evidence()), Random(3)(evidence(path="block/conv_1/kernel")), Random(0)(evidence())]
    for other in others:
        assert np.mean(scores == other) < 0.01


def test_random_is_the_same_in_every_release():
    """Masks of a saved, half-pruned model have to be met again by a later version."""
    checksum = 0xCBF43926  # the published check value of CRC-32, of this path
    expected = np.random.default_rng([3, checksum]).random(5, dtype=np.float32)
    np.testing.assert_array_equal(Random(3)(Evidence(np.zeros(5), "123456789")), expected)


def test_random_is_no_matter_of_place():
    """Neither early nor late entries are favoured: each half of the weight keeps about half."""
    mask = Unstructured()(Random()(evidence()), 0.5)
    assert abs(mask[:20].mean() - 0.5) < 0.06
    assert abs(mask[:, :15].mean() - 0.5) < 0.06


@given(st.integers(0, 2**64), st.text(max_size=20), st.lists(st.floats(0, 0.999), min_size=2, max_size=4))
def test_random_masks_are_nested_as_sparsity_rises(seed, path, sparsities):
    weight = np.zeros((7, 9), dtype=np.float32)
    masks = [Unstructured()(Random(seed)(evidence(weight, path)), sparsity) for sparsity in sorted(sparsities)]
    for less, more in zip(masks, masks[1:], strict=False):
        assert not (more & ~less).any()


@pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (-1, ValueError, "Expected `seed` to be at least 0. Received: seed=-1"),
        (1.5, TypeError, "Expected `seed` to be an integer of at least 0. Received: seed=1.5 of type float"),
        (None, TypeError, "Received: seed=None of type NoneType"),
    ],
)
def test_random_refuses(seed, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Random(seed)


def test_criteria_by_name():
    assert {"magnitude": Magnitude, "random": Random} == CRITERIA


@dataclass(frozen=True)
class Closeness(Criterion):
    """A criterion from outside the library: keep what is close to a value."""

    value: float = 1.0

    def __call__(self, evidence: Evidence) -> np.ndarray:
        return -np.abs(evidence.weight - self.value)


def test_a_criterion_from_outside():
    scores = Closeness(2.0)(evidence(np.array([[2.0, 9.0], [1.5, -2.0]])))
    np.testing.assert_array_equal(Unstructured()(scores, 0.5), [[True, False], [True, False]])
    assert Closeness.from_config(Closeness(2.0).get_config()) == Closeness(2.0)


def test_the_base_class_says_what_is_missing():
    with pytest.raises(NotImplementedError):
        Criterion()(evidence())
