"""What is tried next. The truth is written by hand."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfprune.export.compressing.front import Limits
from tfprune.export.compressing.measured import Tried
from tfprune.export.compressing.next_recipe import LEAST_FLOPS, cost, next_recipe, rung
from tfprune.export.compressing.recipe import Recipe

FIRST = Recipe(1.0, 0.0, "unstructured", False, 1280, 40, 1, 1e-3, 0)


def test_every_fourth_trial_is_longer_and_every_sixteenth_longer_still():
    assert [rung(number) for number in range(20)] == [0, 0, 0, 1] * 3 + [0, 0, 0, 2] + [0, 0, 0, 1]
    assert rung(63) == 3


def after(prices, **changes):
    """Return the recipe after short ones of these costs, which differ in their zeros."""
    done = [(dataclasses.replace(FIRST, sparsity=(1 + index) / 100), price) for index, price in enumerate(prices)]
    return next_recipe(done, **{"number": len(done), "first": FIRST, "can_shrink": True, "seed": 7, **changes})


def test_the_cheapest_trains_longer():
    assert after([3.0, 1.0, 2.0]) == dataclasses.replace(FIRST, sparsity=0.02, rounds=4, seed=10)


def test_one_that_was_trained_longer_is_not_taken_again():
    done = [(dataclasses.replace(FIRST, sparsity=index / 100), float(index)) for index in range(1, 7)]
    done.insert(3, (dataclasses.replace(FIRST, sparsity=0.01, rounds=4), 0.5))
    chosen = next_recipe(done, number=len(done), first=FIRST, can_shrink=True, seed=0)
    assert (chosen.sparsity, chosen.rounds) == (0.02, 4)


def test_where_a_long_one_does_not_fit_a_short_one_is_drawn():
    assert after([3.0, 1.0, 2.0], most=0).rounds == 1


@given(st.lists(st.floats(-5, 5), max_size=9), st.integers(0, 5), st.booleans())
def test_what_is_drawn_can_be_followed_and_is_the_same_again(prices, seed, can_shrink):
    chosen = after(prices, seed=seed, can_shrink=can_shrink, most=0)
    assert chosen == after(prices, seed=seed, can_shrink=can_shrink, most=0)
    assert LEAST_FLOPS <= chosen.flops <= 1
    assert can_shrink or chosen.flops == 1
    assert 0 <= chosen.sparsity <= 0.98
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
