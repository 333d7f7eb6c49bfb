"""Trees: their nodes are those of scikit-learn where every split is significant, and noise is not split."""

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from tfprune.methods.rule_mining import ConceptRule, Threshold, TreeLimits, UnitValues, mine_rules


def mined(values, labels, *, depth=8, samples=10, weights=None):
    units, weights = np.arange(values.shape[1]), np.ones(labels.size) if weights is None else weights
    return mine_rules(UnitValues(values), labels, weights=weights, units=units, limits=TreeLimits(depth, samples))


def matches(path, values):
    return ConceptRule("c", "l", path.thresholds, 1).matches(values)


@pytest.fixture(scope="module")
def samples():
    values = np.random.default_rng(0).normal(size=(3000, 6)).astype("float32")
    return values, (values[:, :3] > -0.3).all(axis=1)


def test_leaves_are_those_of_scikit_learn(samples):
    values, labels = samples
    tree = DecisionTreeClassifier(criterion="entropy", max_depth=3, min_samples_leaf=10, random_state=0)
    leaves = tree.fit(values, labels).apply(values)
    paths = [path for path in mined(values, labels, depth=3) if path.is_leaf]
    others = np.random.default_rng(1).normal(size=(500, 6)).astype("float32")
    assert len(paths) == len(np.unique(leaves))
    for path in paths:
        (leaf,) = np.unique(leaves[matches(path, values)])
        np.testing.assert_array_equal(matches(path, others), tree.apply(others) == leaf)
        assert path.support == np.sum(leaves == leaf)
        assert path.is_there == (labels[leaves == leaf].mean() > 0.5)


def test_every_node_below_the_root_has_a_path(samples):
    values, labels = samples
    paths = mined(values, labels, depth=3)
    covered = np.sum([matches(path, values) for path in paths if path.is_leaf], axis=0)
    assert (covered == 1).all()
    assert len(paths) == 2 * (sum(path.is_leaf for path in paths) - 1)  # a tree of two children each, but the root
    for path in paths:
        assert len({(each.unit, each.is_above) for each in path.thresholds}) == len(path.thresholds) <= 3
        assert np.sum(matches(path, values)) == path.support


@pytest.mark.parametrize("noise", [0.05, 0.2])
def test_noise_in_the_labels_is_not_split_further(samples, noise):
    values, _ = samples
    labels = (values[:, 2] > 0) ^ (np.random.default_rng(7).random(3000) < noise)
    paths = mined(values, labels)
    assert [{each.unit for each in path.thresholds} for path in paths] == [{2}, {2}]
    assert sorted(path.is_there for path in paths) == [False, True]
    assert all(abs(path.thresholds[0].value) < 0.1 for path in paths)


def test_copies_count_once(samples):
    values, _ = samples
    few, labels = values[:150], np.arange(150) % 7 < 3
    copies = np.repeat(few, 40, axis=0)
    assert mined(few, labels) == []  # no unit has to do with it
    assert mined(copies, np.repeat(labels, 40)) != []  # taken for 6,000 samples, chance looks like more
    assert mined(copies, np.repeat(labels, 40), weights=np.full(6000, 1 / 40)) == []


def test_depth_and_leaves_are_limited(samples):
    values, labels = samples
    assert max(len(path.thresholds) for path in mined(values, labels, depth=2)) == 2
    assert min(path.support for path in mined(values, labels, samples=300)) >= 300


def test_a_unit_that_is_asked_twice_leaves_its_narrowest_bounds():
    values = np.linspace(-1, 1, 900, dtype="float32")[:, None]
    paths = mined(values, np.abs(values[:, 0]) < 0.4)
    inside = next(path for path in paths if path.is_leaf and path.is_there)
    assert [(each.unit, each.is_above) for each in inside.thresholds] == [(0, False), (0, True)]
    assert [each.value for each in inside.thresholds] == pytest.approx([0.4, -0.4], abs=0.01)


def test_bounds_are_inclusive_below():
    rule = ConceptRule("c", "l", (Threshold(0, False, 0.5), Threshold(1, True, 0.25)), 1)
    at = np.array([[0.5, 0.26], [0.5, 0.25], [0.51, 0.26]], np.float32)
    assert rule.matches(at).tolist() == [True, False, False]
