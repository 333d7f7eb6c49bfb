"""Allocations: published values, brute force over all entries, and no weight ever emptied."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

import tfprune
from tfprune.allocation import ALLOCATIONS, LayerThreshold, Weight, allocate, check_allocation
from tfprune.base.arrays import kept_count
from tfprune.base.spec import ArgumentError, ArgumentTypeError
from tfprune.patterns import Unstructured

NAMES = sorted(ALLOCATIONS)
SPARSITIES = st.floats(0, 1, exclude_max=True)


def of(scores: np.ndarray, path: str = "dense/kernel", uses: int | None = 1) -> Weight:
    scores = np.asarray(scores, dtype=np.float32)
    return Weight(path, scores.shape, lambda: scores, lambda: uses)


def shaped(*shapes: tuple[int, ...]) -> list[Weight]:
    """Return weights that only have a shape: reading their scores fails."""
    return [Weight(f"layer_{index}/kernel", shape, None) for index, shape in enumerate(shapes)]


def normal(*shapes: tuple[int, ...], scales: tuple[float, ...] | None = None) -> list[Weight]:
    generator = np.random.default_rng(0)
    return [
        of(np.abs(generator.standard_normal(shape)) * scale, f"layer_{index}/kernel")
        for index, (shape, scale) in enumerate(zip(shapes, scales or [1.0] * len(shapes), strict=True))
    ]


@st.composite
def models(draw) -> list[Weight]:
    """Weights of few distinct scores, ties within and between them; some are constant, some all zero."""
    sides = st.integers(1, 6)
    count = draw(st.integers(1, 5))
    levels = draw(st.sampled_from([[0.0], [1.0], [0.0, 1.0], [0.0, 1.0, 2.0, 50.0]]))
    return [
        of(
            np.array(
                draw(
                    st.lists(
                        st.lists(st.sampled_from(levels), min_size=width, max_size=width), min_size=1, max_size=6
                    )
                )
            ),
            f"layer_{index}/kernel",
        )
        for index, width in enumerate(draw(st.lists(sides, min_size=count, max_size=count)))
    ]


def kept(weights: list[Weight], split: list[float]) -> list[int]:
    return [int(Unstructured()(weight.scores(), share).sum()) for weight, share in zip(weights, split, strict=True)]


def test_size_is_counted_in_64_bits():
    assert shaped((2**20, 2**20))[0].size == 2**40


def test_uniform():
    assert allocate(shaped((3, 4), (5, 6, 7)), 0.75, "uniform") == [0.75, 0.75]


@pytest.mark.parametrize(
    ("shapes", "sparsity", "densities"),
    [
        (((784, 300), (300, 100), (100, 10)), 0.9, [0.07957, 0.23019, 1.0]),
        (((3, 3, 3, 16), (3, 3, 16, 32), (3, 3, 32, 64), (64, 10)), 0.9, [0.5663, 0.11468, 0.05415, 1.0]),
        (((3, 3, 3, 16), (3, 3, 16, 32), (3, 3, 32, 64), (64, 10)), 0.8, [1.0, 0.28173, 0.13304, 1.0]),
        (((10, 10),), 0.5, [0.5]),
        (((10, 10), (10, 10)), 0.5, [0.5, 0.5]),
    ],
)
def test_erk_published_densities(shapes, sparsity, densities):
    split = allocate(shaped(*shapes), sparsity, "erk")
    assert [1 - share for share in split] == pytest.approx(densities, abs=6e-5)


@given(st.lists(st.lists(st.integers(1, 40), min_size=2, max_size=4), min_size=1, max_size=8), st.floats(0, 0.999))
def test_erk_meets_the_budget_in_the_proportions_of_its_formula(shapes, sparsity):
    weights = shaped(*[tuple(shape) for shape in shapes])
    density = 1 - np.array(allocate(weights, sparsity, "erk"))
    sizes = np.array([weight.size for weight in weights])
    assert (density @ sizes) == pytest.approx((1 - sparsity) * sizes.sum(), rel=1e-9)
    raw = np.array([sum(shape) for shape in shapes]) / sizes
    epsilons = (density / raw)[density < 1]
    if epsilons.size:
        assert epsilons == pytest.approx(epsilons[0], rel=1e-6)
        # What is dense would have to be more than dense by the formula.
        assert (epsilons[0] * raw[density == 1] > 1 - 1e-9).all()


def brute_force(columns: list[np.ndarray], sparsity: float) -> list[int]:
    """Return how many entries each weight keeps when all are sorted together, one at least."""
    owners = np.repeat(np.arange(len(columns)), [column.size for column in columns])
    joint = np.concatenate(columns)
    order = np.argsort(-joint, kind="stable")[: kept_count(joint.size, sparsity)]
    return [max(int((owners[order] == owner).sum()), 1) for owner in range(len(columns))]


@given(models(), SPARSITIES)
def test_global_equals_a_joint_sort(weights, sparsity):
    split = allocate(weights, sparsity, "global")
    assert kept(weights, split) == brute_force([weight.scores().ravel() for weight in weights], sparsity)


def test_global_by_hand():
    weights = [of([[1, 2], [3, 4]]), of([[10, 20, 30, 40]])]
    assert allocate(weights, 0.5, "global") == [0.75, 0.0]  # one stays where all would go
    assert allocate(weights, 0.25, "global") == [0.5, 0.0]
    assert allocate(weights, 0.0, "global") == [0.0, 0.0]


def lamp_scores(scores: np.ndarray) -> np.ndarray:
    """Compute the score of the paper entry by entry: sorted ascending, s_u^2 over the sum of s_v^2 for v >= u."""
    squares = np.sort(scores.ravel().astype(np.float64)) ** 2
    return np.array([squares[u] / squares[u:].sum() for u in range(squares.size)])


def test_lamp_by_hand():
    assert lamp_scores(np.array([1, 2, 3, 4])) == pytest.approx([0.03333, 0.13793, 0.36, 1], abs=5e-6)
    # Scores of the first (1, 2, 3, 4): 1/30, 4/29, 9/25, 1; of the second (1, 1, 1, 5): 1/28, 1/27, 1/26, 1.
    weights = [of([[4, 3, 2, 1]]), of([[1, 5], [1, 1]])]
    expected = {1: [0.25, 0.0], 2: [0.25, 0.25], 4: [0.25, 0.75], 5: [0.5, 0.75], 6: [0.75, 0.75]}
    for zeros, split in expected.items():
        assert allocate(weights, zeros / 8, "lamp") == split


def test_flops_by_hand():
    """Scores by multiplications: of the first, with two each, 1/60, 2/29, 9/50, 1/2; of the second 1/28, ..., 1."""
    weights = [of([[4, 3, 2, 1]], uses=2), of([[1, 5], [1, 1]])]
    expected = {1: [0, 0], 2: [0.25, 0], 3: [0.25, 0.25], 5: [0.25, 0.75], 7: [0.5, 0.75], 9: [0.75, 0.75]}
    for removed, split in expected.items():
        assert allocate(weights, removed / 12, "flops") == split
    assert allocate(weights, 0.99, "flops") == [0.75, 0.75]  # the largest entry of each stays


@given(models(), SPARSITIES, st.lists(st.integers(1, 1000), min_size=5, max_size=5))
def test_flops_removes_the_fraction_of_the_multiplications(weights, sparsity, uses):
    weights = [of(each.scores(), each.path, uses=count) for each, count in zip(weights, uses, strict=False)]
    sizes, counts = (np.array([value(each) for each in weights]) for value in (lambda w: w.size, lambda w: w.uses()))
    zeros = np.array(allocate(weights, sparsity, "flops"))
    removed, total = (zeros * sizes * counts).sum(), (sizes * counts).sum()
    assert removed <= sparsity * total + 1e-6 * total
    nothing_else = (zeros * sizes >= sizes - 1 - 1e-6).any()  # a weight had to keep its last entry
    assert nothing_else or removed > sparsity * total - counts.max() - 1e-6 * total


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9, 0.99])
def test_lamp_equals_its_formula(sparsity):
    weights = normal((20, 30), (50, 8), (7, 7, 3), scales=(1.0, 3.0, 0.1))
    columns = [lamp_scores(weight.scores()) for weight in weights]
    assert kept(weights, allocate(weights, sparsity, "lamp")) == brute_force(columns, sparsity)


@pytest.mark.parametrize("factor", [100.0, 0.01, 2.0**60, 2.0**-60])
def test_lamp_is_invariant_to_the_scale_of_a_layer_and_global_is_not(factor):
    shapes = ((20, 30), (50, 8), (9, 9))
    plain, scaled = normal(*shapes), normal(*shapes, scales=(1.0, factor, 1.0))
    assert allocate(scaled, 0.8, "lamp") == allocate(plain, 0.8, "lamp")
    assert allocate(scaled, 0.8, "global") != allocate(plain, 0.8, "global")


@pytest.mark.parametrize("factor", [2.0**-600, 2.0**600])
def test_lamp_of_scores_whose_squares_leave_the_range_of_floats(factor):
    def of_wide(scale: float) -> Weight:
        return Weight("wide/kernel", (1, 8), lambda: np.arange(1.0, 9.0).reshape(1, 8) * scale)

    other = of([[1, 1, 2, 9]])
    assert allocate([of_wide(factor), other], 0.5, "lamp") == allocate([of_wide(1.0), other], 0.5, "lamp")


def test_lamp_scores_of_a_constant_weight_end_at_one():
    """The last of equal entries to go scores 1, as the largest entry of any weight does."""
    weights = [of(np.ones((1, 4))), of([[1, 2, 4, 8]])]
    # 1/4, 1/3, 1/2, 1 and 1/85, 4/84, 16/80, 1.
    assert allocate(weights, 5 / 8, "lamp") == [0.5, 0.75]


@pytest.mark.parametrize("name", NAMES)
@given(weights=models(), sparsity=SPARSITIES)
def test_no_weight_is_emptied_and_the_total_is_met(name, weights, sparsity):
    split = allocate(weights, sparsity, name)
    counts = kept(weights, split)
    assert all(0 <= share < 1 for share in split)
    assert min(counts) >= 1
    total = sum(weight.size for weight in weights)
    rounding = 0 if name in ("global", "lamp") else len(weights) / 2
    assert kept_count(total, sparsity) - rounding - 1 <= sum(counts)
    # A weight that would be emptied keeps one entry above the budget.
    assert sum(counts) <= kept_count(total, sparsity) + rounding + len(weights)


@pytest.mark.parametrize("name", ["global", "lamp"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.77, 0.9])
def test_the_overall_sparsity_is_exact(name, sparsity):
    weights = normal((64, 32), (300, 10), (3, 3, 4, 8))
    counts = kept(weights, allocate(weights, sparsity, name))
    assert sum(counts) == kept_count(64 * 32 + 3000 + 288, sparsity)


def test_rules():
    weights = shaped((2, 2), (3, 3), (4, 4), (5, 5))
    rules = {"layer_1": 0.25, r"_[12]/kernel$": None, "^layer_0/": 0.0}
    assert allocate(weights, 0.5, rules) == [0.0, 0.25, None, 0.5]
    assert allocate(weights, 0.5, {}) == [0.5] * 4
    assert allocate(weights, 0.5, {"": 0.1, "layer_1": 0.9}) == [0.1] * 4


def test_rules_may_match_nothing_but_what_an_earlier_one_took():
    assert allocate(shaped((2, 2)), 0.5, {"layer": 0.1, "layer_0": 0.9}) == [0.1]


def test_a_pattern_that_matches_nothing_is_refused():
    message = (
        "Expected every pattern of `allocation` to match a pruned weight. Received: 'layer_7', which matches none of "
        "layer_0/kernel, layer_1/kernel"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        allocate(shaped((2, 2), (3, 3)), 0.5, {"layer_0": 0.5, "layer_7": 0.5})


@pytest.mark.parametrize("as_type", [list, tuple, np.array])
def test_a_function_from_outside(as_type):
    """Spare what is small: an allocation is a function of weights and a sparsity."""

    def by_size(weights, sparsity):
        return as_type([0.0 if weight.size < 10 else sparsity for weight in weights])

    split = allocate(shaped((2, 2), (30, 3)), 0.9, by_size)
    assert split == [0.0, 0.9]
    assert {type(share) for share in split} == {float}


def test_a_function_from_outside_the_library_splits_the_sparsity_of_a_model():
    """No name of the library is needed: what it is given has a path, a shape, a size and scores."""
    seen = []

    def by_mean(weights, sparsity):
        seen.append([(weight.path, weight.shape, weight.size) for weight in weights])
        means = [float(weight.scores().mean()) for weight in weights]
        return [None if mean == max(means) else sparsity / 2 for mean in means]

    layers = [keras.layers.Dense(units, name=name) for units, name in ((10, "small"), (4, "large"))]
    model = tfprune.wrap(keras.Sequential([keras.Input((8,)), *layers]))
    model.get_layer("small").layer.kernel.assign(np.full((8, 10), 0.1))
    model.get_layer("large").layer.kernel.assign(np.full((10, 4), 5.0))
    tfprune.update_masks(model, 0.8, allocation=by_mean)
    assert {row.path: row.sparsity for row in tfprune.sparsity_report(model).rows} == {
        "small/kernel": 0.4,
        "large/kernel": 0.0,
    }
    assert seen[0] == [("small/kernel", (8, 10), 80), ("large/kernel", (10, 4), 40)]


def test_thresholds_by_hand():
    """base * (1 + depth * l / layers) * exp(-decay * complexity), for l = 1 to 4."""
    found = LayerThreshold(0.4, depth=1.0, decay=2.0, complexity=0.5).thresholds(4)
    assert found == pytest.approx([0.4 * growth * 0.36787944 for growth in (1.25, 1.5, 1.75, 2.0)])


def test_scores_less_their_thresholds_are_ranked_together():
    weights = normal((20, 30), (50, 8), (9, 9))
    threshold = LayerThreshold(threshold=0.8, depth=0.9, min_units=1)
    lowered = [weight.scores().ravel() - low for weight, low in zip(weights, threshold.thresholds(3), strict=True)]
    assert kept(weights, allocate(weights, 0.7, threshold)) == brute_force(lowered, 0.7)
    assert allocate(weights, 0.7, LayerThreshold(depth=0, min_units=1)) == allocate(weights, 0.7, "global")


@pytest.mark.parametrize("change", [{"threshold": 1.5}, {"depth": 0.9}, {"decay": 0.1}, {"complexity": 0.0}])
def test_each_part_of_the_threshold_changes_the_masks(change):
    """The public code of PMP-DACIS computes the threshold and never uses it."""
    model = tfprune.wrap(keras.Sequential([keras.Input((16,)), *[keras.layers.Dense(16) for _ in range(4)]]))
    masks = []
    for arguments in ({}, change):
        threshold = LayerThreshold(**{"threshold": 0.5, "depth": 0.5, "complexity": 0.4} | arguments)
        tfprune.update_masks(model, 0.6, allocation=threshold)
        masks.append([np.asarray(layer.masks["kernel"]) for layer in model.layers])
    assert any((one != other).any() for one, other in zip(*masks, strict=True))
    assert sum(mask.sum() for mask in masks[1]) == kept_count(4 * 256, 0.6)


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.95])
def test_each_weight_keeps_its_least(sparsity):
    """The second weight lies far below its threshold, and the first gives up what the second keeps."""
    weights = normal((6, 20), (5, 8), scales=(1.0, 1e-3))
    first, second = kept(weights, allocate(weights, sparsity, LayerThreshold(threshold=9, depth=9, min_units=5)))
    assert second == 5 and first == max(kept_count(160, sparsity) - 5, 5)


def test_scores_below_the_threshold_of_their_weight_go_and_the_task_decides_how_many():
    weights = normal((20, 30), (50, 8), (9, 9))
    dropped = []
    for complexity in (0.0, 0.3, 1.5):
        threshold = LayerThreshold(threshold=0.8, depth=0.9, complexity=complexity, min_units=4)
        limits = 0.8 * (1 + 0.9 * np.arange(1, 4) / 3) * np.exp(-2 * complexity)
        counts = [min((w.scores() < low).sum(), w.size - 4) for w, low in zip(weights, limits, strict=True)]
        assert threshold.below(weights) == [count / w.size for count, w in zip(counts, weights, strict=True)]
        dropped.append(sum(counts))
    assert dropped[0] > dropped[1] > dropped[2]


@pytest.mark.parametrize(
    "arguments", [{"threshold": -1}, {"depth": -0.1}, {"decay": -1}, {"complexity": 2.5}, {"min_units": 0}]
)
def test_thresholds_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        LayerThreshold(**arguments)


@pytest.mark.parametrize(
    ("kind", "argument", "allocation"),
    [
        (ArgumentError, "allocation", "Uniform"),
        (ArgumentError, "allocation", ""),
        (ArgumentError, "allocation", "globl"),
        (ArgumentTypeError, "allocation", 0.5),
        (ArgumentTypeError, "allocation", None),
        (ArgumentTypeError, "allocation", ["uniform"]),
        (ArgumentError, "allocation", {"(": 0.5}),
        (ArgumentTypeError, "allocation", {3: 0.5}),
        (ArgumentError, "sparsity of layer_0/kernel", {"layer_0": 50}),
        (ArgumentTypeError, "sparsity of layer_0/kernel", {"layer_0": "0.5"}),
        (ArgumentError, "allocation", lambda weights, sparsity: None),
        (ArgumentError, "allocation", lambda weights, sparsity: [0.5]),
        (ArgumentError, "allocation", lambda weights, sparsity: sparsity),
        (ArgumentError, "sparsity of layer_1/kernel", lambda weights, sparsity: [0.5, 1.0]),
        (ArgumentError, "sparsity of layer_1/kernel", lambda weights, sparsity: [0.5, float("nan")]),
    ],
)
def test_refusals(kind, argument, allocation):
    with refused(kind, argument):
        allocate(shaped((2, 2), (3, 3)), 0.5, allocation)


@pytest.mark.parametrize("allocation", [*NAMES, {"layer_0": 0.5}, lambda weights, sparsity: [0.5]])
@pytest.mark.parametrize("sparsity", [1.0, 1.5, -0.1, float("nan")])
def test_every_allocation_refuses_an_overall_sparsity_that_is_none(allocation, sparsity):
    message = f"Expected `sparsity` to be a number in [0, 1), the fraction of zeros. Received: sparsity={sparsity!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        allocate([of(np.ones((2, 2)), "layer_0/kernel")], sparsity, allocation)


@pytest.mark.parametrize("allocation", [*NAMES, {}, {"(a|b)": None}, len])
def test_check_allocation_lets_through_what_may_be_one(allocation):
    assert check_allocation(allocation) is None


def test_names():
    assert list(ALLOCATIONS) == ["uniform", "erk", "global", "lamp", "flops"]


def test_uniform_and_erk_read_no_scores():
    for name in ("uniform", "erk"):
        assert len(allocate(shaped((3, 4), (5, 6)), 0.5, name)) == 2
