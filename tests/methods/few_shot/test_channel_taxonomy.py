"""Levels of channels: the F statistic of SciPy at each level decides, and protected channels go last."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import f_oneway

import tfprune
from tfprune.facts import ClassMoments
from tfprune.methods.few_shot.prune import _guarded

GENERATOR = np.random.default_rng(0)
Y = np.repeat(np.arange(8), 6)
KINDS, SYMPTOMS = {label: label // 4 for label in range(8)}, {label: label // 2 for label in range(8)}


def moments_of(values):
    moments = ClassMoments(values.shape[1])
    for rows in np.array_split(GENERATOR.permutation(len(Y)), 3):
        moments.add(values[rows], Y[rows])
    return moments


def largest_f(unit, levels):
    """Return the level that SciPy's F favors; of equal ones, the first."""
    groups = [np.array([each[label] for label in Y]) for each in levels]
    found = [f_oneway(*(unit[group == each] for each in np.unique(group))).statistic for group in groups]
    return int(np.argmax(found))


def test_the_level_is_that_of_the_largest_f_of_scipy():
    means = np.stack([Y // 4, Y // 2 % 2, Y % 2, *GENERATOR.integers(0, 3, (30, 8))[:, Y]], axis=1)
    values = means + GENERATOR.normal(0, 0.5, means.shape)
    found = tfprune.few_shot.ChannelTaxonomy(KINDS, SYMPTOMS).levels(moments_of(values))
    expected = [2 - largest_f(unit, [KINDS, SYMPTOMS, {label: label for label in range(8)}]) for unit in values.T]
    assert found.tolist() == expected
    assert found[:3].tolist() == [2, 1, 0] and set(found[3:]) >= {0, 1}


def test_a_constant_channel_is_prunable():
    assert tfprune.few_shot.ChannelTaxonomy(KINDS).levels(moments_of(np.full((48, 1), 3.0))).tolist() == [0]


def test_protected_channels_and_the_better_half_of_the_partly_protected_lie_above_all_others():
    scores = {"a": np.array([0.1, 0.9, 0.5, 0.2, 0.8]), "b": np.array([0.95, 0.0])}
    levels = {"a": np.array([2, 0, 1, 1, 1]), "b": np.array([0, 0])}
    found = _guarded(scores, levels)
    order = np.concatenate(list(found.values())).argsort()[::-1].tolist()
    assert set(order[:3]) == {0, 2, 4} and order[3:] == [5, 1, 3, 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": {0: "a", 1: "a"}}, "at least two groups of classes"),
        ({"kinds": {0: "a", 1: "b"}, "symptoms": {0: "a", 2: "b"}}, "of the same classes"),
    ],
)
def test_levels_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfprune.few_shot.ChannelTaxonomy(**arguments)


def test_a_class_without_a_group_is_named():
    with pytest.raises(ValueError, match=r"Received: none for \[7\]"):
        moments_of(np.zeros((48, 1))).grouped({label: label // 4 for label in range(7)})
    with pytest.raises(TypeError, match="a dict from classes to groups"):
        tfprune.few_shot.ChannelTaxonomy([0, 1])
