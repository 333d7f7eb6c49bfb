"""The choice of the next trial. The truth is written by hand."""

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tfprune.export.compressing.search_policy as policy
from tfprune.export.compressing.recipe import Recipe
from tfprune.export.compressing.search_policy import RecipeStep, fills_gaps, is_long, next_recipe, trial_number
from tfprune.export.compressing.search_settings import Goal, SearchSettings
from tfprune.export.compressing.trial_outcomes import Outcome

FIRST = Recipe(1.0, 0.0, "unstructured", False, 1280, 40, 1, 1e-3, 7)
SMALLEST, FASTEST = (SearchSettings(Goal(by, 0.01)) for by in ("bytes", "latency_ms"))


def test_every_other_trial_is_longer_after_the_first_and_every_other_of_those_fills_gaps():
    assert [number for number in range(16) if is_long(number, SMALLEST)] == [3, 5, 7, 9, 11, 13, 15]
    assert [number for number in range(16) if fills_gaps(number, SMALLEST)] == [5, 9, 13]


DENSE = Outcome(None, 0.0, is_hopeful=True)
SETTINGS = {"first": FIRST, "can_shrink": True, "settings": SMALLEST}


def outcome(
    promise, *, drop_left=1.0, front_gain=0.0, gap_below=0.0, is_open=True, hopeful=True, kept=True, **fields
):
    """Return what became of a recipe with these fields."""
    known = {
        "front_gain": front_gain,
        "gap_below": gap_below,
        "is_open": is_open,
        "is_hopeful": hopeful,
        "is_kept": kept,
    }
    return Outcome(dataclasses.replace(FIRST, **fields), promise, drop_left, **known)


def short(prices, **changes):
    """Return short recipes of these costs, which differ in their zeros, after the model as it was."""
    return [DENSE, *(outcome(price, sparsity=(1 + index) / 100, **changes) for index, price in enumerate(prices))]


def after(done, **changes):
    """Return the recipe after those that are done."""
    return next_recipe(done, **{**SETTINGS, "number": len(done) - 1, **changes})


def test_the_cheapest_that_may_become_the_best_answer_trains_longer():
    done = [*short([3.0, 1.0, 2.0], kept=False), outcome(0.5, sparsity=0.2, is_open=False)]
    assert after(done, number=3) == dataclasses.replace(FIRST, sparsity=0.02, rounds=4, seed=10)


def test_what_promises_most_trains_longer_if_nothing_may_go_on_with_it_as_well():
    done = [DENSE, outcome(0.9, sparsity=0.5), outcome(0.8, sparsity=0.6, hopeful=False)]
    assert after(done, number=3).after == done[2].recipe


@pytest.mark.parametrize(
    ("number", "is_open", "sparsity"), [(3, True, 0.4), (5, True, 0.6), (7, True, 0.4), (7, False, 0.6)]
)
def test_what_may_fill_most_of_the_gaps_has_its_turn_or_comes_in_for_the_best_answer(number, is_open, sparsity):
    closed = [
        outcome(2.0, sparsity=0.5, front_gain=0.1, is_open=False),
        outcome(3.0, sparsity=0.6, front_gain=0.2, is_open=False),
    ]
    chosen = after([DENSE, *closed, outcome(1.0, sparsity=0.4, is_open=is_open)], number=number)
    assert (chosen.sparsity, chosen.rounds) == (sparsity, 4)


@pytest.mark.parametrize(("number", "base", "rounds"), [(8, -2.0, 1), (9, -1.0, 4), (11, -1.0, 4)])
def test_where_nothing_waits_a_long_step_goes_into_the_widest_gap(number, base, rounds):
    rooms = {-0.5: 0.1, -1.0: 0.3, -2.0: 0.0}
    done = [
        outcome(price, gap_below=gap_below, is_open=False, sparsity=0.2 - price / 10, rounds=4)
        for price, gap_below in rooms.items()
    ]
    chosen = after([DENSE, *done, *short([9.0] * 4, hopeful=False, is_open=False)[1:]], number=number)
    assert (chosen.after.sparsity, chosen.rounds) == (0.2 - base / 10, rounds)
    assert chosen.after.sparsity <= chosen.sparsity


def test_where_there_is_no_gap_the_best_answer_has_its_turn():
    assert after([DENSE, outcome(1.0, sparsity=0.4)], number=9).rounds == 4


def test_where_none_may_none_trains_longer():
    assert after(short([3.0, 1.0, 2.0], is_open=False), number=3).rounds == 1


def test_it_trains_longer_with_its_own_model_if_that_is_kept():
    best = outcome(1.0, sparsity=0.02)
    assert after([*short([3.0, 2.0]), best]).after == best.recipe
    begun = dataclasses.replace(best.recipe, after=FIRST)
    assert after([*short([3.0, 2.0]), Outcome(begun, 1.0, is_open=True)]).after == FIRST


@pytest.mark.parametrize(
    ("settings", "can_shrink", "flops", "sparsity"),
    [
        (SMALLEST, True, [1, 1, 1, 1], [0.5, 0.75, 0.875, 0.938]),
        (FASTEST, True, [0.5, 0.25, 0.12, 0.08], [0, 0, 0, 0]),
        (FASTEST, False, [1, 1, 1, 1], [0.5, 0.75, 0.875, 0.938]),
    ],
)
def test_the_first_ones_halve_what_is_left_one_after_the_other(settings, can_shrink, flops, sparsity):
    done = [DENSE]
    for number in range(4):
        recipe = after(done, settings=settings, can_shrink=can_shrink, may_be_long=False)
        done.append(Outcome(recipe, -1.0 - number, is_hopeful=True, is_kept=True))
    made = [one.recipe for one in done[1:]]
    assert [one.flops for one in made] == flops
    assert [one.sparsity for one in made] == sparsity
    assert [one.after for one in made] == [None, *made[:3]]
    assert {(one.pattern, one.quantize_aware, one.learning_rate) for one in made} == {("unstructured", False, 1e-3)}


def test_where_the_half_is_being_tried_half_of_that_is_next():
    running = Outcome(after([DENSE]), 0.0, is_hopeful=True)
    assert (after([DENSE, running]).sparsity, after([DENSE, running]).after) == (0.75, None)


def test_where_the_half_lost_too_much_another_step_is_suggest():
    lost = Outcome(after([DENSE]), 9.0)
    assert after([DENSE, lost]).sparsity not in {0.5, 0.75}


def test_optuna_learns_what_each_step_changed(monkeypatch):
    """A step counts as what it promises, or as what came of longer training; a gain, divided by its 40 steps."""
    told = []
    monkeypatch.setattr(policy, "_suggest", lambda recipes, *_, **__: told.extend(recipes) or RecipeStep(0.5))
    done = short([-1.0, -2.0, -0.5, 4.0], kept=True)
    next_step = outcome(-2.5, sparsity=0.3, after=done[2].recipe)
    longer = outcome(-3.0, sparsity=0.03, rounds=4)
    after([*done, next_step, longer], may_be_long=False)
    assert told == [
        *((one.recipe, change) for one, change in zip(done[1:], [-1 / 40, -2 / 40, -3 / 40, 4.0], strict=True)),
        (next_step.recipe, -0.5 / 40),
    ]


def drawn(monkeypatch, *done, **fields):
    """Return the recipe that comes of a draw after these."""
    monkeypatch.setattr(policy, "_suggest", lambda *_, **__: RecipeStep(**fields))
    return after([DENSE, *done, *short([9.0] * 4, hopeful=False)[1:]], may_be_long=False)


def test_a_draw_goes_a_step_further_than_the_cheapest(monkeypatch):
    done = [outcome(-1.0, sparsity=0.5), outcome(-2.0, flops=0.9, sparsity=0.6), outcome(-0.5, sparsity=0.9)]
    found = drawn(monkeypatch, *done)
    assert (found.flops, found.sparsity, found.after) == (0.9, 0.8, done[1].recipe)
    half = drawn(monkeypatch, *done, channels=0.5, rate=1.234, quantize_aware=True)
    assert (half.flops, half.sparsity) == (0.64, 0.717)  # 0.9 and 0.4, times the root of a half
    assert (half.learning_rate, half.quantize_aware) == (0.0012, True)
    assert half.cut == pytest.approx(0.64 / 0.9)
    assert half.initial == 0.6
    assert half.chain == (done[1].recipe, half)
    assert half.steps_of_chain == 120
    assert type(half).read(json.loads(json.dumps(half.as_dict()))) == half


@pytest.mark.parametrize(("drop_left", "sparsity"), [(1.0, 0.75), (0.5, 0.703), (0.0, 0.646)])
def test_a_step_is_half_as_long_where_all_of_the_drop_is_gone(monkeypatch, drop_left, sparsity):
    """Of 0.5, the part of 2 to the power of -1, -0.75 and -0.5 is left; shorter ones are as drawn."""
    base = outcome(-1.0, sparsity=0.5, drop_left=drop_left)
    assert drawn(monkeypatch, base).sparsity == sparsity
    assert drawn(monkeypatch, base, length=0.2).sparsity == 0.591


def test_what_longer_training_showed_counts_instead_of_what_the_short_one_promised(monkeypatch):
    promised, other = outcome(-2.0, sparsity=0.8), outcome(-1.0, sparsity=0.5)
    assert drawn(monkeypatch, promised, other).after == promised.recipe
    shown = outcome(-0.5, sparsity=0.8, rounds=4, hopeful=False)
    assert drawn(monkeypatch, promised, other, shown).after == other.recipe


def test_none_goes_on_with_one_that_lost_too_much(monkeypatch):
    lost = outcome(-2.0, sparsity=0.9, hopeful=False, kept=False)
    assert drawn(monkeypatch, lost, outcome(-1.0, sparsity=0.5)).sparsity == 0.75
    assert drawn(monkeypatch, lost).after is None


def test_where_no_model_can_be_kept_steps_add_up_all_the_same(monkeypatch):
    found = drawn(monkeypatch, outcome(-1.0, sparsity=0.8, kept=False))
    assert (found.sparsity, found.after) == (0.9, None)


@pytest.mark.parametrize(
    ("best", "patterns"),
    [
        (outcome(-1.0, flops=0.8, sparsity=0.4), ["unstructured"]),
        (outcome(-1.0, flops=0.8), ["unstructured", "2:4"]),
        (outcome(-1.0, flops=0.9, sparsity=0.5, pattern="2:4"), ["unstructured", "2:4"]),
    ],
)
def test_two_of_four_goes_on_with_the_same_or_without_zeros(monkeypatch, best, patterns):
    offered = []
    step = RecipeStep(0.5, channels=0.5)
    monkeypatch.setattr(policy, "_suggest", lambda *_, patterns, **__: offered.extend(patterns) or step)
    after([*short([0.0] * 4), best], may_be_long=False)
    assert offered == patterns


def test_two_of_four_that_goes_on_loses_channels(monkeypatch):
    same = outcome(-1.0, flops=0.9, sparsity=0.5, pattern="2:4")
    found = drawn(monkeypatch, same, pattern="2:4", channels=1.0)
    assert (found.flops, found.sparsity, found.after) == (0.45, 0.5, same.recipe)


def test_what_is_not_offered_is_not_suggest():
    done = [DENSE, *(outcome(-1.0 - index, sparsity=0.5 + index / 100) for index in range(5))]
    assert {after(done, number=number, may_be_long=False).pattern for number in range(20)} == {"unstructured"}


def test_one_that_was_trained_longer_is_not_taken_again():
    done = short([1.0, 2.0, 3.0, 4.0])
    done.insert(3, outcome(0.5, sparsity=0.01, rounds=4))
    chosen = after(done, number=3)
    assert (chosen.sparsity, chosen.rounds) == (0.02, 4)


def test_where_a_long_one_does_not_fit_a_short_one_is_suggest():
    assert after(short([3.0, 1.0, 2.0]), number=3, may_be_long=False).rounds == 1


@given(st.lists(st.integers(-5, 5), min_size=4, max_size=9), st.integers(0, 5), st.booleans())
def test_what_is_drawn_can_be_followed_and_is_the_same_again(prices, seed, can_shrink):
    settings = {"first": dataclasses.replace(FIRST, seed=seed), "can_shrink": can_shrink, "may_be_long": False}
    chosen = after(short(prices), **settings)
    assert chosen == after(short(prices), **settings)
    base = min(short(prices), key=lambda one: (one.promise, math.prod(one.remaining)))
    before = base.recipe or FIRST
    assert chosen.after == base.recipe
    assert 0.08 <= chosen.flops <= before.flops
    assert can_shrink or chosen.flops == 1
    assert before.sparsity <= chosen.sparsity <= 0.98
    left = chosen.flops * (1 - chosen.sparsity) / (before.flops * (1 - before.sparsity))
    assert left >= (0.49 if chosen.pattern == "unstructured" else 0.24)  # rounded
    assert chosen.pattern == "unstructured" or chosen.sparsity == 0.5
    assert (chosen.steps, chosen.rounds) == (40, 1)
    assert 0.5e-3 <= chosen.learning_rate <= 4e-3


def test_the_number_of_a_trial_counts_on_from_the_latest_seed():
    assert trial_number([DENSE], FIRST) == 0
    assert trial_number([DENSE, outcome(1.0, seed=9), outcome(1.0, seed=8)], FIRST) == 3
