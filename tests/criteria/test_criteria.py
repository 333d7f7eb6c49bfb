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

from tfprune.criteria import (
    CRITERIA,
    DACIS,
    L2,
    BatchNormGamma,
    Criterion,
    Evidence,
    FStatistic,
    Magnitude,
    Random,
    Taylor,
    Wanda,
)
from tfprune.facts import ClassMoments, UnknownFact
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


@pytest.mark.parametrize("criterion", [Magnitude(), L2(), Random()], ids=repr)
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


def test_random_does_not_depend_on_the_position():
    """Neither early nor late entries are favored: each half of the weight keeps about half."""
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
        (-1, ValueError, "Expected `seed` to be an integer of at least 0. Received: seed=-1."),
        (1.5, TypeError, "Expected `seed` to be an integer of at least 0. Received: seed=1.5 of type float"),
        (None, TypeError, "Received: seed=None of type NoneType"),
    ],
)
def test_random_refuses(seed, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Random(seed)


def test_criteria_by_name():
    names = "magnitude l2 random gamma taylor snip grasp fisher synflow movement wanda f_statistic dacis"
    assert list(CRITERIA) == names.split()
    assert {type(criterion_class()) for criterion_class in CRITERIA.values()} == set(CRITERIA.values())


def with_facts(weight: object, axes: str = "io", **facts: object) -> Evidence:
    return Evidence(np.asarray(weight, dtype=np.float32), "block/conv/kernel", axes, facts)


def moments_of(values: np.ndarray, labels: np.ndarray) -> ClassMoments:
    moments = ClassMoments(values.shape[1])
    moments.add(values, labels)
    return moments


def test_l2_differs_from_l1_when_a_channel_is_averaged():
    """Channels (3, 0) and (2, 2): the second has the larger L1 norm, the first the larger L2 norm."""
    weight = with_facts([[3.0, 2.0], [0.0, 2.0]])
    assert np.argmax(Magnitude()(weight).mean(axis=0)) == 1
    assert np.argmax(L2()(weight).mean(axis=0)) == 0
    np.testing.assert_array_equal(L2()(with_facts([[3.0, -2.0]])), [[9, 4]])


def test_gamma_is_the_same_for_all_entries_of_a_channel():
    scores = BatchNormGamma()(with_facts(np.ones((3, 3, 2, 2)), "hwio", gamma=np.array([-2.0, 0.5])))
    assert scores.shape == (3, 3, 2, 2)
    np.testing.assert_array_equal(np.unique(scores[..., 0]), [2])
    np.testing.assert_array_equal(np.unique(scores[..., 1]), [0.5])


def test_taylor_by_hand():
    scores = Taylor()(with_facts([[-2.0, 1.0], [0.0, 3.0]], gradient_sizes=np.array([[0.1, 3.0], [9.0, 0.2]])))
    np.testing.assert_allclose(scores, [[0.2, 3], [0, 0.6]], rtol=1e-6)


WANDA = with_facts(np.transpose([[1, 2, 3], [3, 2, 1]]), input_norms=np.array([10, 1, 0.1]))


def test_wanda_by_hand():
    """The example of the paper's figure 1 in Keras' order: outputs along the last axis."""
    np.testing.assert_allclose(Wanda()(WANDA).T, [[10, 2, 0.3], [30, 2, 0.1]])
    for compare in ("layer", "output"):
        mask = Unstructured()(Wanda(compare)(WANDA).T, 2 / 3)
        np.testing.assert_array_equal(mask, [[True, False, False], [True, False, False]])
    np.testing.assert_array_equal(Unstructured()(Magnitude()(WANDA).T, 2 / 3).sum(), 2)
    assert [np.argmax(row) for row in Magnitude()(WANDA).T] == [2, 0]


def test_wanda_by_output_takes_as_much_from_each():
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((3, 3, 8, 6)) * [0.01, 0.1, 1, 10, 100, 1000]
    evidence = with_facts(weight, "hwio", input_norms=generator.uniform(1, 2, 8))
    alive = {
        compare: Unstructured()(np.moveaxis(Wanda(compare)(evidence), -1, 0).reshape(6, -1), 0.5).sum(axis=1)
        for compare in ("layer", "output")
    }
    assert alive["output"].tolist() == [36] * 6
    assert alive["layer"].tolist() != [36] * 6
    for row in range(6):  # within an output both rank alike
        ranks = [Wanda(compare)(evidence)[..., row].ravel().argsort() for compare in ("layer", "output")]
        np.testing.assert_array_equal(*ranks)


def test_inputs_of_a_grouped_convolution():
    """Two groups: outputs 0 and 1 read inputs 0 to 2, outputs 2 and 3 read inputs 3 to 5."""
    norms = np.array([1.0, 2, 3, 40, 50, 60])
    scores = Wanda()(with_facts(np.ones((1, 3, 4)), "wio", input_norms=norms))
    np.testing.assert_array_equal(scores[0].T, [[1, 2, 3], [1, 2, 3], [40, 50, 60], [40, 50, 60]])
    transposed = Wanda()(with_facts(np.ones((1, 4, 3)), "woi", input_norms=norms))
    np.testing.assert_array_equal(transposed[0], scores[0].T)


def test_units_along_several_axes():
    heads = with_facts(np.zeros((2, 3, 5)), "iio")
    np.testing.assert_array_equal(heads.over_inputs(np.arange(6)), np.arange(6).reshape(2, 3, 1))
    depthwise = with_facts(np.zeros((3, 3, 4, 2)), "hwco")
    np.testing.assert_array_equal(depthwise.over_outputs(np.arange(8)), np.arange(8).reshape(1, 1, 4, 2))
    np.testing.assert_array_equal(depthwise.over_inputs(np.arange(4)), np.arange(4).reshape(1, 1, 4, 1))
    with pytest.raises(ValueError, match=re.escape("axes 'iio'. Received: 5 values")):
        heads.over_inputs(np.arange(5))


def loud_and_telling(units: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a kernel, its outputs and labels: channel 0 is small and separates the classes, others are loud."""
    generator = np.random.default_rng(1)
    labels = np.arange(60) % 3
    outputs = generator.standard_normal((60, units)) * 10
    outputs[:, 0] = (labels + 0.05 * generator.standard_normal(60)) * 1e-3
    weight = generator.standard_normal((8, units))
    weight[:, 0] *= 1e-3
    return weight, outputs, labels


def test_a_telling_channel_of_low_norm_is_first_under_dacis_and_last_under_magnitude():
    weight, outputs, labels = loud_and_telling()
    evidence = with_facts(weight, output_moments=moments_of(outputs, labels), gradient_norms=np.ones(5))
    dacis = DACIS()(evidence)
    np.testing.assert_array_equal(dacis, np.tile(dacis[:1], (8, 1)))
    assert np.argmax(dacis[0]) == 0
    assert np.argmin(Magnitude()(evidence).mean(axis=0)) == 0
    f_statistic = FStatistic("output")(evidence).mean(axis=0) / Magnitude()(evidence).mean(axis=0)
    assert np.argmax(f_statistic) == 0


def test_dacis_by_hand():
    """Units (1, 3 | 2, 4), twice that, and a constant: V 1.25, 5, 0; D 1 / 4 = 0.25 twice, 0; G 1, 2, 5."""
    outputs = np.array([[1.0, 2, 9], [3, 6, 9], [2, 4, 9], [4, 8, 9]])
    facts = {
        "output_moments": moments_of(outputs, np.array([0, 0, 1, 1])),
        "gradient_norms": np.array([1.0, 2.0, 5.0]),
    }
    parts = [0.3 * np.array([0, 0.25, 1]), 0.2 * np.array([0.25, 1, 0]), 0.5 * np.array([1, 1, 0])]
    np.testing.assert_allclose(DACIS()(with_facts([[0.0, 0, 0]], **facts)), [sum(parts)], rtol=1e-6)
    np.testing.assert_allclose(DACIS(0, 0, 2)(with_facts([[0.0, 0, 0]], **facts)), [[2, 2, 0]], rtol=1e-6)
    assert DACIS(gradient=0).needs == ("output_moments",)


def test_dacis_of_constant_channels_is_zero():
    constant = moments_of(np.full((6, 3), 0.1), np.arange(6) % 2)
    scores = DACIS()(with_facts(np.ones((4, 3)), output_moments=constant, gradient_norms=np.zeros(3)))
    np.testing.assert_array_equal(scores, np.zeros((4, 3)))


def test_connections_of_one_input_differ_under_the_f_statistic():
    """F alone is the same for all connections of an input; the weights differ."""
    weight, inputs, labels = loud_and_telling()
    evidence = with_facts(weight.T, input_moments=moments_of(inputs, labels))
    for criterion in (FStatistic(), FStatistic(mix=0.5)):
        scores = criterion(evidence)
        assert all(len(np.unique(row)) == len(row) for row in scores)
        np.testing.assert_array_equal(np.argsort(scores, axis=1), np.argsort(np.abs(weight.T), axis=1))
    assert (FStatistic(mix=1.0)(evidence)[0] == 1).all()


def test_f_statistic_by_hand():
    """Inputs (1, 3 | 2, 4) and (0, 1 | 10, 11): F 1 / (4 / 2) = 0.5 and 100 / (1 / 2) = 200."""
    inputs = moments_of(np.array([[1.0, 0], [3, 1], [2, 10], [4, 11]]), np.array([0, 0, 1, 1]))
    evidence = with_facts([[4.0, -1], [0.5, 2]], input_moments=inputs)
    np.testing.assert_allclose(FStatistic()(evidence), [[2, 0.5], [100, 400]])
    # Ranks of F: 0, 1. Ranks of |w|, 0.5 < 1 < 2 < 4, in thirds.
    np.testing.assert_allclose(FStatistic(mix=0.25)(evidence), [[0.75, 0.25], [0.25, 0.25 + 0.5]])


def test_a_unit_that_separates_perfectly_has_a_finite_score():
    perfect = moments_of(np.array([[0.0], [0], [1], [1]]), np.array([0, 0, 1, 1]))
    assert np.isfinite(FStatistic()(with_facts([[2.0]], input_moments=perfect))).all()


@pytest.mark.parametrize(
    "criterion", [criterion_class() for criterion_class in CRITERIA.values() if criterion_class().needs], ids=repr
)
def test_missing_facts_are_named(criterion):
    with pytest.raises(ValueError, match=re.escape("Pass data= to update_masks, PruningCallback or plan_shrink")):
        criterion(with_facts([[1.0]]))
    unknown = {name: UnknownFact("its inputs are indices") for name in criterion.needs}
    with pytest.raises(ValueError, match=re.escape("block/conv/kernel: ")) as error:
        criterion(with_facts([[1.0]], **unknown))
    assert "as its inputs are indices. Leave this weight out with `filters`" in str(error.value)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Wanda("row"), ValueError, "Expected `compare` to be 'layer' or 'output'. Received: compare='row'"),
        (lambda: FStatistic("both"), ValueError, "Expected `unit` to be 'input' or 'output'"),
        (
            lambda: FStatistic(mix=1.5),
            ValueError,
            "`mix` to be a number from 0 to 1, or None. Received: mix=1.5.",
        ),
        (lambda: FStatistic(mix="half"), TypeError, "Received: mix='half' of type str"),
        (lambda: DACIS(gradient=-1), ValueError, "Expected `gradient` to be a number of at least 0"),
        (lambda: DACIS(0, 0, 0), ValueError, "Expected at least one weight above 0"),
    ],
)
def test_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


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
