"""When a search trains its best recipe for longest. The truth is written by hand."""

import dataclasses

import pytest

from tfprune.export.compressing.front import Limits
from tfprune.export.compressing.measured import Tried
from tfprune.export.compressing.recipe import Recipe
from tfprune.export.compressing.search import Search
from tfprune.export.compressing.trial import Trial

FIRST = Recipe(1.0, 0.0, "unstructured", False, 1280, 40, 1, 1e-3, 0)
DENSE = Trial(None, (Tried(None, None, 1000, 900, 0.9, 0.0),), seconds=1.0, training=0.0)


def trial(number, zeros, rounds, drop):
    """Return a trial whose file has as many bytes as weights that are not zero."""
    recipe = dataclasses.replace(FIRST, sparsity=zeros, rounds=rounds, seed=number)
    size = round(1000 * (1 - zeros))
    return Trial(recipe, (Tried(recipe, None, size, size, 0.9 - drop, drop),), 10.0 * rounds, 10.0 * rounds)


SHORT = [trial(0, 0.5, 1, 0.01), trial(1, 0.9, 1, 0.06), trial(2, 0.1, 1, 0.0)]
LONGER = trial(3, 0.5, 4, 0.001)
LONGEST = trial(4, 0.5, 16, 0.0)


def next_one(done, left, monkeypatch):
    """Return what is tried next where so many seconds are left."""
    search = Search(None, None, "bytes", Limits(0.01), 0, 1000.0, done=[DENSE, *done])
    monkeypatch.setattr(Search, "left", lambda self: left)
    monkeypatch.setattr(Search, "_expected", lambda self, recipe: 10.0 * recipe.rounds)
    return search._next(FIRST, can_shrink=False, running=[])


@pytest.mark.parametrize(
    ("done", "left", "rounds"),
    [
        ([*SHORT, LONGER], 500.0, 1),  # the longest takes 160 seconds, a short one 10
        ([*SHORT, LONGER], 175.0, 16),  # it would not fit after two more short ones
        ([*SHORT, LONGER], 155.0, 1),
        ([*SHORT, LONGER, LONGEST], 175.0, 1),  # one trained as long
        (SHORT, 45.0, 4),
        (SHORT, 35.0, 1),
        (SHORT, 5.0, None),
    ],
)
def test_before_the_time_is_up_one_recipe_trains_for_longest(done, left, rounds, monkeypatch):
    chosen = next_one(done, left, monkeypatch)
    assert (chosen and chosen.rounds) == rounds


def test_what_promises_most_when_trained_for_longest_trains_longer(monkeypatch):
    chosen = next_one(SHORT, 500.0, monkeypatch)
    assert (chosen.sparsity, chosen.rounds) == (0.9, 4)  # it loses 0.06, of which a quarter is expected to be left
    no_gain = [trial(0, 0.5, 1, 0.03), *SHORT[1:], trial(3, 0.5, 4, 0.03)]
    more = [trial(4, 0.2, 1, 0.0), trial(5, 0.6, 1, 0.01), trial(6, 0.3, 1, 0.0)]
    chosen = next_one([*no_gain, *more], 500.0, monkeypatch)
    assert (chosen.sparsity, chosen.rounds) == (0.6, 4)
