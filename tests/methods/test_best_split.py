"""The best split: that of all thresholds of all units, though few of them are looked at."""

import numpy as np
import pytest
from scipy.stats import chi2, chi2_contingency
from sklearn.tree import DecisionTreeClassifier

from tfprune.methods.rule_mining import UnitValues


def noisy(samples, units, *, seed=0, noise=0.1):
    """Make activations, some of them zero, and labels that two of the units tell."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(samples, units)).astype("float32")
    values[:, ::2] = np.maximum(values[:, ::2], 0)
    labels = (values[:, 0] > 0.2) | (values[:, 3 % units] > 1)
    return values, labels ^ (random.random(samples) < noise)


def best(values, labels, *, least=10.0, error=0.05, rows=None, weights=None):
    rows = np.arange(labels.size) if rows is None else rows
    weights = np.ones(labels.size) if weights is None else weights
    units = np.arange(values.shape[1])
    return UnitValues(values).best_split(rows, labels, weights, units=units, least=least, error=error)


def g_statistic(values, labels, split):
    left = values[:, split.unit].astype("float64") <= split.value
    table = [[np.sum(side & own) for own in (labels, ~labels)] for side in (left, ~left)]
    return chi2_contingency(table, correction=False, lambda_="log-likelihood").statistic


@pytest.mark.parametrize(("samples", "units"), [(100, 3), (257, 9), (2000, 40), (5000, 7)])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_first_split_of_scikit_learn(samples, units, seed):
    values, labels = noisy(samples, units, seed=seed)
    settings = {"criterion": "entropy", "max_depth": 1, "min_samples_leaf": 10, "random_state": 0}
    tree = DecisionTreeClassifier(**settings).fit(values, labels).tree_
    split = best(values, labels)
    assert (split.unit, split.value) == (tree.feature[0], tree.threshold[0])
    assert split.gain == pytest.approx(g_statistic(values, labels, split), rel=1e-9)


def test_of_some_rows_with_weights_it_is_that_of_scikit_learn():
    values, labels = noisy(3000, 12)
    random = np.random.default_rng(1)
    rows, weights = np.sort(random.permutation(3000)[:1500]), random.integers(1, 5, 3000) / 4
    tree = DecisionTreeClassifier(criterion="entropy", max_depth=1, random_state=0)
    tree = tree.fit(values[rows], labels[rows], sample_weight=weights[rows]).tree_
    split = best(values, labels, rows=rows, weights=weights, least=0)
    assert (split.unit, split.value) == (tree.feature[0], tree.threshold[0])


def test_a_sparse_planted_unit_among_many_is_found():
    random = np.random.default_rng(0)
    values = random.normal(size=(1500, 2000)).astype("float32")
    labels = (values[:, 1234] > 1.7) ^ (random.random(1500) < 0.01)
    assert best(values, labels).unit == 1234


def test_only_significant_splits_are_returned():
    values, _ = noisy(600, 30)
    labels = np.random.default_rng(5).random(600) < 0.4
    strongest = best(values, labels, error=1 - 1e-9, least=1)
    chance = chi2.sf(strongest.gain, 1) * 30 * 599  # corrected for all thresholds
    assert best(values, labels, error=chance * 1.001, least=1) == strongest
    assert best(values, labels, error=chance * 0.999, least=1) is None


def test_coins_are_rarely_split():
    random, split = np.random.default_rng(0), 0
    for _ in range(100):
        values = random.normal(size=(300, 10)).astype("float32")
        split += best(values, random.random(300) < 0.5) is not None
    assert split <= 5


def test_constant_units_and_sides_that_are_too_small_are_not_split():
    labels = np.arange(400) < 8
    assert best(np.ones((400, 3), np.float32), labels) is None
    values = labels[:, None].astype("float32")
    assert best(values, labels, least=9) is None
    assert best(values, labels, least=8).value == 0.5


def test_neighbors_in_float32_are_told_apart():
    low = np.float32(16)
    high = np.nextafter(low, np.float32(17))  # float32 has nothing between: a threshold in float32 is one of them
    values = np.repeat([low, high], 300)[:, None]
    split = best(values, np.arange(600) >= 300)
    assert float(low) < split.value < float(high)
