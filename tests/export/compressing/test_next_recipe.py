"""What is tried next. The truth is written by hand."""

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tfprune.export.compressing.next_recipe as choice
from tfprune.export.compressing.front import Limits
from tfprune.export.compressing.measured import Tried
from tfprune.export.compressing.next_recipe import LEAST_FLOPS, cost, next_recipe, rung
from tfprune.export.compressing.recipe import Recipe

FIRST = Recipe(1.0, 0.0, "unstructured", False, 1280, 40, 1, 1e-3, 0)


def test_every_fourth_trial_is_longer_and_every_sixteenth_longer_still():
    assert [rung(number) for number in range(20)] == [0, 0, 0, 1] * 3 + [0, 0, 0, 2] + [0, 0, 0, 1]
    assert rung(63) == 3


def short(prices):
    """Return short recipes of these costs, which differ in their zeros."""
    return [(dataclasses.replace(FIRST, sparsity=(1 + index) / 100), price) for index, price in enumerate(prices)]


def after(prices, **changes):
    """Return the recipe after short ones of these costs."""
    settings = {"kept": (), "number": len(prices), "first": FIRST, "can_shrink": True, "halve": "weights", "seed": 7}
    return next_recipe(short(prices), **{**settings, **changes})


def test_the_cheapest_trains_longer():
    assert after([3.0, 1.0, 2.0]) == dataclasses.replace(FIRST, sparsity=0.02, rounds=4, seed=10)


def test_the_cheapest_goes_on_with_its_own_model_if_that_is_kept():
    best = short([3.0, 1.0, 2.0])[1][0]
    assert after([3.0, 1.0, 2.0], kept=[best]).after == best
    begun = [(dataclasses.replace(best, after=FIRST), 1.0)]
    settings = {"number": 3, "first": FIRST, "can_shrink": True, "halve": "weights", "seed": 7}
    assert next_recipe(begun, kept=[FIRST], **settings).after == FIRST


@pytest.mark.parametrize(
    ("halve", "flops", "sparsity"),
    [("weights", [1, 1, 1, 1], [0.5, 0.75, 0.88, 0.94]), ("flops", [0.5, 0.25, 0.12, LEAST_FLOPS], [0, 0, 0, 0])],
)
def test_the_first_ones_halve_what_is_left_one_after_the_other(halve, flops, sparsity):
    done, kept = [], []
    settings = {"first": FIRST, "can_shrink": True, "halve": halve, "seed": 0, "most": 0}
    for number in range(4):
        kept.append(next_recipe(done, kept=kept, number=number, **settings))
        done.append((kept[-1], 0.0))
    assert [one.flops for one in kept] == flops
    assert [one.sparsity for one in kept] == sparsity
    assert [one.after for one in kept] == [None, *kept[:3]]
    assert {(one.pattern, one.quantize_aware) for one in kept} == {("unstructured", False)}


def test_optuna_learns_from_the_best_trial_of_each_choice(monkeypatch):
    told = []
    monkeypatch.setattr(choice, "_drawn", lambda done, **_: told.extend(done) or {"flops": 1.0, "sparsity": 0.1})
    done = short([3.0, 2.0, 5.0, 4.0])
    longer = (dataclasses.replace(done[2][0], rounds=4), 1.0)
    settings = {"first": FIRST, "can_shrink": True, "halve": "weights", "seed": 0}
    next_recipe([*done, longer], kept=(), number=5, **settings)
    assert sorted(told, key=lambda pair: pair[1]) == [longer, done[1], done[0], done[3]]


def drawn(monkeypatch, *kept, **fields):
    """Return the recipe that comes of a draw when models of these are kept."""
    monkeypatch.setattr(choice, "_drawn", lambda *_, **__: fields)
    done = short([0.0] * 4)
    return next_recipe(done, kept=kept, number=4, first=FIRST, can_shrink=True, halve="weights", seed=0)


def made(flops, sparsity, pattern="unstructured", **more):
    return dataclasses.replace(FIRST, flops=flops, sparsity=sparsity, pattern=pattern, **more)


def test_a_draw_goes_on_with_the_nearest_model_that_more_is_left_of(monkeypatch):
    other = [made(0.9, 0.2), made(0.9, 0.85), made(0.4, 0.5), made(0.7, 0.5, "2:4")]
    near, longer = made(0.6, 0.5), made(0.6, 0.5, rounds=4)
    found = drawn(monkeypatch, *other, near, flops=0.5, sparsity=0.65)
    assert (found.flops, found.sparsity, found.after) == (0.5, 0.65, near)
    assert drawn(monkeypatch, near, longer, *other, flops=0.5, sparsity=0.65).after == longer
    assert drawn(monkeypatch, *other, flops=1.0, sparsity=0.1).after is None


def test_two_of_four_goes_on_with_the_same_or_without_zeros(monkeypatch):
    some, same, none = made(0.8, 0.4), made(0.9, 0.5, "2:4"), made(0.9, 0.0)
    fields = {"flops": 0.8, "sparsity": 0.5, "pattern": "2:4"}
    assert drawn(monkeypatch, some, **fields).after is None
    assert drawn(monkeypatch, some, none, **fields).after == none
    assert drawn(monkeypatch, some, same, none, **fields).after == same


def test_a_draw_far_away_is_approached_by_a_step(monkeypatch):
    """Half of both leaves a fourth. Half way there, in logarithms, is 1 / sqrt(2) of each."""
    found = drawn(monkeypatch, flops=0.5, sparsity=0.5)
    assert (found.flops, found.sparsity, found.after) == (0.71, 0.29, None)
    second = drawn(monkeypatch, found, flops=0.5, sparsity=0.5)
    assert (second.flops, second.sparsity, second.after) == (0.5, 0.5, found)
    assert second.cut == pytest.approx(0.5 / 0.71)
    assert second.initial == 0.29
    assert second.chain == (found, second)
    assert second.steps_of_chain == 80
    assert type(second).read(json.loads(json.dumps(second.as_dict()))) == second


def test_one_that_was_trained_longer_is_not_taken_again():
    done = [(dataclasses.replace(FIRST, sparsity=index / 100), float(index)) for index in range(1, 7)]
    done.insert(3, (dataclasses.replace(FIRST, sparsity=0.01, rounds=4), 0.5))
    chosen = next_recipe(done, kept=(), number=len(done), first=FIRST, can_shrink=True, halve="weights", seed=0)
    assert (chosen.sparsity, chosen.rounds) == (0.02, 4)


def test_where_a_long_one_does_not_fit_a_short_one_is_drawn():
    assert after([3.0, 1.0, 2.0], most=0).rounds == 1


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=9), st.integers(0, 5), st.booleans())
def test_what_is_drawn_can_be_followed_and_is_the_same_again(prices, seed, can_shrink):
    chosen = after(prices, seed=seed, can_shrink=can_shrink, most=0)
    assert chosen == after(prices, seed=seed, can_shrink=can_shrink, most=0)
    assert LEAST_FLOPS <= chosen.flops <= 1
    assert can_shrink or chosen.flops == 1
    assert 0 <= chosen.sparsity <= 0.98
    assert chosen.flops * (1 - chosen.sparsity) >= (0.48 if chosen.pattern == "unstructured" else 0.24)  # rounded
    assert chosen.pattern == "unstructured" or chosen.sparsity == 0.5
    assert (chosen.steps, chosen.rounds, chosen.learning_rate) == (40, 1, 1e-3)


@pytest.mark.parametrize(
    ("size", "drop", "expected"),
    [(500, 0.0, math.log(0.5)), (500, -0.1, math.log(0.5)), (500, 0.01, math.log(0.5)), (500, 0.02, 0.0)],
)
def test_a_file_costs_its_size_and_twice_as_much_for_each_drop_too_many(size, drop, expected):
    dense = Tried(None, None, 1000, 900, 0.9, 0.0)
    tried = Tried(FIRST, None, size, 400, 0.9 - drop, drop)
    assert cost(tried, dense, limits=Limits(0.01), by="bytes") == pytest.approx(expected)
