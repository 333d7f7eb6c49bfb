from __future__ import annotations

import math

import numpy as np
import pytest
from refusals import REFUSAL, refusals, refused

from tfprune.base.limit import (
    GroupLimits,
    Limit,
    as_limit,
    check_can_lose,
    largest_drop,
    one_class_warning,
    why_not_classes,
)
from tfprune.base.spec import ArgumentError, check_drop


def test_a_number_is_a_limit_of_the_default_metric() -> None:
    assert as_limit(0.01) == Limit(0.01) and as_limit(None) == Limit()
    limit = Limit(0.5, metric="auc", mode="max")
    assert as_limit(limit) is limit


@pytest.mark.parametrize("metric", ["accuracy", "acc", "sparse_categorical_accuracy"])
def test_percents_of_an_accuracy_are_refused(metric: str) -> None:
    message = r"from 0 to 1, a fraction of the samples\. Received: max_drop=2\.5\. For 2\.5 % pass 0\.025\."
    with pytest.raises(ValueError, match=message):
        check_drop(2.5, "max_drop", metric=metric)
    check_drop(1.0, "max_drop", metric=metric)
    for other in ("mae", "loss", len):
        check_drop(2.5, "max_drop", metric=other)


@pytest.mark.parametrize(
    REFUSAL,
    refusals(
        {
            "max_drop": [-0.1, math.nan],
            "max_drop_per_class": [-1, 5],
            "max_drop_per_group": [math.inf],
            "max_relative_drop": [-0.1],
            "mode": ["up"],
        },
        {"max_drop": ["1%"], "metric": [3, dict], "output": [1]},
        together=[("max_drop_per_group", {"groups": {"room": [1]}})],
    ),
)
def test_other_values_are_refused_by_name(kind: type[Exception], argument: str, changes: dict) -> None:
    with refused(kind, argument):
        Limit(**changes)


def test_a_relative_limit_is_a_part_of_the_metric_before() -> None:
    assert largest_drop(Limit(0.3), 2.0) == 0.3 and largest_drop(Limit(), 2.0) is None
    assert largest_drop(Limit(max_relative_drop=0.25), -2.0) == 0.5
    both = Limit(0.3, metric="mae", max_relative_drop=0.25)
    assert (largest_drop(both, 2.0), largest_drop(both, 1.0)) == (0.3, 0.25)
    assert both.drops == {"max_drop": 0.3, "max_relative_drop": 0.25}
    assert "max_relative_drop=0.25" in repr(both) and both.is_bound and both.bounds_metric
    for before in (0.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="Expected a metric other than 0 .* Pass `max_drop`, in the unit"):
            largest_drop(both, before)


def test_data_are_neither_printed_nor_compared() -> None:
    data = (np.zeros((1000, 8)), np.zeros(1000))
    assert repr(Limit(0.01, data=data)) == "Limit(max_drop=0.01, metric=None, mode=None, data=...)"
    assert "max_drop_per_class=0.1" in repr(Limit(0.01, max_drop_per_class=0.1))
    assert Limit(0.01, data=data) == Limit(0.01, data=(np.ones(3), np.ones(3)))


SCORES = np.eye(3)[[0, 0, 0, 0, 1, 1, 2, 2, 2, 0]]  # the last sample is wrong
LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
AFTER = np.eye(3)[[0, 0, 0, 1, 1, 1, 2, 2, 0, 2]]  # class 0 loses one of 4; class 2 loses one of 4 and gains one


def test_the_worst_class_is_the_farthest_beyond_its_limit() -> None:
    bounds = GroupLimits.of(Limit(max_drop_per_class=0.2), SCORES, LABELS)
    assert bounds is not None
    worst = bounds.worst(AFTER)
    assert (worst.name, worst.samples, worst.drop, worst.limit) == ("class 0", 4, 0.25, 0.2)
    assert worst.excess == pytest.approx(0.05) and worst.low < 0 < worst.drop < worst.high
    assert str(worst).startswith("class 0 lost 25.0% (4 samples, 95% interval: -")
    assert bounds.worst(SCORES).drop == 0
    same = GroupLimits(**vars(bounds)).worst({"scores": AFTER})  # all fields are arrays, which can be stored
    assert same == worst


def test_groups_have_their_own_limit_and_classes_the_lower_of_both() -> None:
    rooms = {"room": ["a", "b", "b", "b", "b", "b", "b", "b", "a", "b"]}  # room a loses one of 2, room b nothing
    limit = Limit(max_drop_per_group=0.3, groups=rooms)
    bounds = GroupLimits.of(limit, SCORES, LABELS)
    assert bounds is not None and str(bounds.worst(AFTER).name) == "room a" and bounds.worst(AFTER).drop == 0.5
    both = GroupLimits.of(Limit(max_drop_per_class=0.0, max_drop_per_group=0.3, groups=rooms), SCORES, LABELS)
    assert both is not None and both.worst(AFTER).name == "class 0"  # 0.25 beyond its limit; the room 0.2
    assert GroupLimits.of(Limit(0.1), SCORES, LABELS) is None


def test_one_output_is_the_score_of_class_1() -> None:
    labels, chances = np.array([[0], [1], [1]]), np.array([[0.2], [0.7], [0.9]])
    for before, after in ((chances, [[0.2], [0.4], [0.8]]), (chances - 0.5, [[-3.0], [-0.1], [5.0]])):
        bounds = GroupLimits.of(Limit(max_drop_per_class=0.0), before, labels)
        assert bounds is not None
        worst = bounds.worst(np.array(after))
        assert (worst.name, worst.samples, worst.drop) == ("class 1", 2, 0.5)


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        (SCORES, LABELS / 2, r"outputs of shape \(10, 3\), labels of shape \(10,\)"),
        (SCORES, LABELS[:3], r"labels of shape \(3,\)"),
        ({"a": SCORES, "b": SCORES}, LABELS, r"\{'a': \(10, 3\), 'b': \(10, 3\)\}"),
        (SCORES[:, 0], SCORES[:, 0] * 0.3, "without classes|Without classes"),
        (SCORES, LABELS + 1, "labels from 0 to 2"),
    ],
)
def test_other_outputs_than_classes_are_refused(outputs, labels, message) -> None:
    with pytest.raises(ValueError, match=message):
        GroupLimits.of(Limit(max_drop_per_class=0.1), outputs, labels)


@pytest.mark.parametrize(
    "labels",
    [
        np.minimum(LABELS, 1),  # no sample of class 2
        (SCORES.argmax(axis=1) + 1) % 3,  # the model gets none right before
    ],
)
def test_a_limit_of_each_class_that_nothing_can_break_is_refused(labels) -> None:
    with refused(ArgumentError, "max_drop"):
        GroupLimits.of(Limit(max_drop_per_class=0.1), SCORES, labels)


def test_an_accuracy_that_has_nothing_to_lose_is_refused() -> None:
    """As with labels that are wrong before and after."""
    with refused(ArgumentError, "max_drop"):
        check_can_lose(Limit(0.01), {"mae": 0.0, "kind_accuracy": 0.01})
    check_can_lose(Limit(0.01), {"mae": 0.0, "accuracy": 0.02})
    check_can_lose(Limit(), {"accuracy": 0.0})
    check_can_lose(Limit(1.0), {"accuracy": 0.5})


@pytest.mark.parametrize("form", [np.array, lambda labels: labels[:, None], lambda labels: np.eye(3)[labels]])
def test_a_limit_that_one_class_as_every_answer_keeps_is_warned_of(form) -> None:
    """As with shuffled labels: the accuracy is at chance before and after."""
    labels = np.repeat([2, 0, 1], [50, 30, 20])  # so that the answer 2 is right for half
    assert "0.5000" in str(one_class_warning(Limit(0.01), {"accuracy": 0.505}, labels=form(labels)))
    assert one_class_warning(Limit(max_relative_drop=0.1), {"accuracy": 0.54}, labels=form(labels))
    assert not one_class_warning(Limit(0.01), {"accuracy": 0.52, "mae": 0.1}, labels=form(labels))
    assert not one_class_warning(Limit(), {"accuracy": 0.1}, labels=form(labels))
    assert not one_class_warning(Limit(1.0), {"accuracy": 0.1}, labels=form(labels))
    assert not one_class_warning(Limit(0.01), {"a_accuracy": 0.1}, labels={"a": form(labels), "b": labels})


HALVES = np.array([0, 1, 1, 0])


@pytest.mark.parametrize(
    ("labels", "outputs"),
    [
        (HALVES, np.array([0.1, 0.9, 1.003, -0.003])),  # a sigmoid on the grid of an 8-bit file
        (HALVES[:, None].astype(bool), np.array([[0.1], [0.9], [0.8], [0.0]])),
        (HALVES.astype(float), np.array([[0.1], [0.9], [0.8], [0.0]])),
        (LABELS, 9 * SCORES - 4),
        (LABELS[:, None].astype(float), SCORES),
        (SCORES, 9 * SCORES - 4),
        (0.9 * SCORES + 0.1 / 3, SCORES),  # smoothed labels
        (np.ones((4, 3)), np.full((4, 3), 0.7)),  # several classes at once
        (np.arange(12).reshape(2, 6) % 3, np.zeros((2, 6, 3))),  # one for each pixel or token
        (HALVES.reshape(2, 2, 1), np.full((2, 2, 1), 0.5)),
    ],
)
def test_classes_in_every_form_have_an_accuracy(labels, outputs) -> None:
    assert why_not_classes(labels, outputs) == ""


@pytest.mark.parametrize(
    ("labels", "outputs"),
    [
        (np.array([25.0, 310, 142, 75]), np.zeros((4, 1))),
        (HALVES + 0.5, np.zeros((4, 1))),
        (2 * HALVES - 1, np.zeros((4, 1))),
        (HALVES, np.array([-3.0, 2, 4, -1])),  # logits: nobody knows where their threshold is
        (np.linspace(0, 1, 24).reshape(4, 6), np.zeros((4, 6))),
        (np.arange(24).reshape(4, 6), np.zeros((4, 6))),
        (np.array([0.5, 1.5, 2, 0]), np.zeros((4, 3))),
        (np.array([0, 1, 2, 3]), np.zeros((4, 3))),
        (np.array([0, 1, np.nan, 2]), np.zeros((4, 3))),
    ],
)
def test_numbers_to_be_reached_have_none(labels, outputs) -> None:
    assert why_not_classes(labels, outputs)
