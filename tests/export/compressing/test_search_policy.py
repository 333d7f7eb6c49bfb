"""The choice of the next recipe. The truth is written by hand; landscapes are those of the bench of policies."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from landscapes import MAX_DROP, Landscape, search, worth

from tfprune.export.compressing.policy import Goal, SearchSettings, _next_recipe
from tfprune.export.compressing.trials import BlockOrder, MeasuredFile, Recipe, Trial

FIRST = Recipe(1.0, 0.0, "unstructured", False, 1280, 40, 1, 1e-3, 7)
SMALLEST, FASTEST = Goal("bytes", 0.01), Goal("latency_ms", 0.01)


def trial(recipe, size, drop, *, int8=None, kept=True, arena=None):
    """Return a trial with a float32 file, and an int8 file that has lost as much, or what `int8` says."""
    lost = {None: drop, "int8": drop if int8 is None else int8}
    formats = ("int8",) if recipe and recipe.quantize_aware else (None, "int8")
    files = tuple(
        MeasuredFile(recipe, each, size, size, 0.9 - lost[each], lost[each], size / 1000, arena) for each in formats
    )
    return Trial(recipe, files, 1.0, 1.0, is_kept=kept and recipe is not None)


DENSE = trial(None, 1000, 0.0)


def after(*trials, running=(), goal=SMALLEST, first=FIRST, **changes):
    settings = SearchSettings()
    return _next_recipe([DENSE, *trials], running, first=first, goal=goal, settings=settings, **changes)


def recipe(number, **fields):
    """Return the recipe of a short trial with this number."""
    return replace(FIRST, seed=FIRST.seed + number, **fields)


@pytest.mark.parametrize(
    ("goal", "can_shrink", "flops", "sparsity"),
    [(SMALLEST, True, 0.71, 0.293), (SMALLEST, False, 1, 0.5), (FASTEST, True, 0.5, 0), (FASTEST, False, 1, 0.5)],
)
def test_the_first_trial_halves_the_original(goal, can_shrink, flops, sparsity):
    chosen = after(goal=goal, can_shrink=can_shrink)
    assert chosen == recipe(0, flops=flops, sparsity=sparsity)


def test_a_short_step_starts_from_what_promises_the_smallest_file():
    """Of 400 bytes half is 200; of 250 bytes that have lost all of the drop 71 % are 177; 100 bytes lost too much.

    The step is one of channels and zeros in equal parts.
    """
    trials = [
        trial(recipe(0, sparsity=0.5), 400, 0.0),
        trial(recipe(1, sparsity=0.7), 250, 0.01),
        trial(recipe(2, sparsity=0.9), 100, 0.011),
        trial(recipe(3, sparsity=0.91), 99, 0.02),
    ]
    chosen = after(*trials)
    assert chosen.after == trials[1].recipe
    assert (chosen.flops, chosen.sparsity) == (round(2**-0.25, 2), round(1 - 0.3 * 2**-0.25, 3))
    assert chosen.rounds == 1


@pytest.mark.parametrize("is_running", [False, True])
def test_each_child_halves_the_next_step_whether_it_has_ended_or_not(is_running):
    half = trial(recipe(0, sparsity=0.5), 500, 0.0)
    children = [recipe(1, sparsity=0.75, after=half.recipe), recipe(3, sparsity=0.646, after=half.recipe)]
    ended = [] if is_running else [trial(child, 300, 0.5) for child in children]
    chosen = after(half, *ended, running=children if is_running else (), may_be_long=False)
    assert chosen.after == half.recipe
    assert (chosen.flops, chosen.sparsity) == (round(2**-0.25, 2), 0.5), "the third step removes channels"


@pytest.mark.parametrize(
    ("goal", "first", "second", "third"),
    [
        (SMALLEST, (0.71, 0.707), (1.0, 0.707), (0.84, 1.0)),
        (FASTEST, (0.5, 1.0), (0.84, 0.841), (1.0, 0.841)),
    ],
)
def test_after_a_step_that_was_not_enough_another_way_is_taken(goal, first, second, third):
    """Each step is half as long: from channels and zeros to zeros and to channels, or the other way round."""
    lost = []
    for expected in (first, second, third):
        chosen = after(*lost, goal=goal, may_be_long=False)
        assert chosen.after is None
        assert chosen.remaining == pytest.approx(expected)
        lost.append(trial(chosen, 500, 0.5))


def test_a_size_that_has_many_children_gets_no_more():
    """A step below an eighth of the longest is not worth a trial, so what is larger is made smaller."""
    half = trial(recipe(0, sparsity=0.5), 500, 0.0)
    children = [recipe(number, sparsity=0.6, after=half.recipe) for number in range(1, 5)]
    assert after(half, running=children[:3], may_be_long=False).after == half.recipe
    assert after(half, running=children, may_be_long=False).after is None


def test_a_long_trial_trains_what_promises_most_for_the_front():
    """If half of its drop is won back, the last adds 0.002 log(3.5) + 0.002 log(10), the second 0.004 log(1/0.35)."""
    trials = [
        trial(recipe(0, sparsity=0.5), 500, 0.008),
        trial(recipe(2, sparsity=0.65), 350, 0.008),
        trial(recipe(4, sparsity=0.9), 100, 0.012),
    ]
    chosen = after(*trials, running=[recipe(6)])
    assert (chosen.after, chosen.rounds, chosen.sparsity) == (trials[2].recipe, 4, 0.9)
    assert chosen.seed == FIRST.seed + 7
    again = after(*trials, running=[replace(chosen, seed=FIRST.seed + 8)])
    assert again.after == trials[1].recipe, "the other has a child now, which counts half"
    assert after(*trials, running=[recipe(6)], may_be_long=False).rounds == 1


def test_where_longer_training_promises_nothing_a_short_step_is_taken():
    perfect = trial(recipe(0, sparsity=0.5), 500, 0.0)
    assert after(perfect).rounds == 1, "number 1 would be long, but nothing was lost"


@pytest.mark.parametrize(
    ("samples", "int8", "expected"),
    [(10_000, 0.004, False), (10_000, 0.006, True), (250, 0.007, False), (250, 0.011, True), (0, 0.006, True)],
)
def test_training_becomes_quantization_aware_where_int8_loses_a_quarter_of_the_limit(samples, int8, expected):
    """Of 250 samples, each is 0.004, which is more than the quarter: one alone may be chance."""
    half = trial(recipe(0, sparsity=0.5), 500, 0.003, int8=int8)
    goal = replace(SMALLEST, sample=1 / samples if samples else 0.0)
    assert after(half, goal=goal, may_be_long=False).quantize_aware == expected
    aware = trial(recipe(0, sparsity=0.5, quantize_aware=True), 500, 0.0)
    assert after(aware, may_be_long=False).quantize_aware, "it stays so"


def test_where_channels_have_their_turn_a_transformer_drops_blocks():
    """Half of four blocks are two; of the two that are left, half is one; the last one stays and loses channels."""
    blocks = BlockOrder((2, 0, 3, 1), 0.25)
    two = after(goal=FASTEST, blocks=blocks)
    assert (two.dropped, two.drop, two.remaining, two.flops) == ((2, 0), [2, 0], (0.5, 1.0), 1.0)
    three = after(trial(two, 500, 0.0), goal=FASTEST, blocks=blocks, may_be_long=False)
    assert (three.after, three.dropped, three.drop, three.depth) == (two, (2, 0, 3), [1], 0.25)
    last = after(trial(three, 250, 0.0), goal=FASTEST, blocks=blocks, may_be_long=False)
    assert (last.after, last.dropped, last.drop, last.remaining) == (three, (2, 0, 3), [], (0.125, 1.0))
    assert last.name == "flops12_without3blocks_120steps"
    lost = [trial(recipe(number, sparsity=0.5), 500, 0.5) for number in range(2)]
    assert after(*lost, blocks=blocks, may_be_long=False).dropped == (2,), "the third way of the smallest file"


def test_a_class_that_cannot_drop_blocks_after_channels_loses_channels_again():
    blocks = BlockOrder((1, 0), 0.5, stay_alike=False)
    half = trial(recipe(0, flops=0.5), 500, 0.0)
    chosen = after(half, goal=FASTEST, blocks=blocks, may_be_long=False)
    assert (chosen.dropped, chosen.flops) == ((), 0.25)


@pytest.mark.parametrize("dropped", [[-1], [1, 1], ["1"], [True], {"1": 1}, 3])
def test_numbers_of_blocks_that_cannot_be_are_refused(dropped):
    with pytest.raises(ValueError, match="Expected the numbers of blocks, each once"):
        Recipe.read({**FIRST.as_dict(), "dropped": dropped})


def test_a_model_that_was_not_stored_counts_but_nothing_starts_from_it():
    half = trial(recipe(0, sparsity=0.5), 500, 0.0, kept=False)
    chosen = after(half)
    assert (chosen.after, chosen.sparsity) == (None, 0.646)


def test_a_board_with_little_memory_is_reached_by_channels():
    goal = Goal("bytes", 0.01, {"arena_bytes": 500})
    small = trial(recipe(0, flops=0.5), 800, 0.0, arena=400)
    smaller = trial(recipe(2, sparsity=0.5), 700, 0.0, arena=1000)
    chosen = after(small, smaller, goal=goal, may_be_long=False)
    assert (chosen.after, chosen.flops) == (small.recipe, 0.25)


def test_two_of_four_comes_at_once_and_channels_go_after_it():
    first = replace(FIRST, pattern="2:4")
    chosen = after(first=first)
    assert (chosen.sparsity, chosen.flops, chosen.pattern) == (0.5, 1.0, "2:4")
    again = after(trial(chosen, 500, 0.0), first=first)
    assert (again.sparsity, again.flops) == (0.5, 0.5)


def test_models_of_one_size_share_their_children():
    """A model that was trained twice without gain is not trained again, and what it became goes another way."""
    half = trial(recipe(0, sparsity=0.5), 500, 0.004)
    other = trial(recipe(1, sparsity=0.6), 400, 0.012)  # adds 0.004 log(5/4), the other one 0.002 log(2)
    first = trial(recipe(3, sparsity=0.5, rounds=4, after=half.recipe), 500, 0.004)
    second = trial(recipe(5, sparsity=0.5, rounds=4, after=first.recipe), 500, 0.004)
    assert after(half, other, running=[recipe(2)]).after == half.recipe
    assert after(half, other, first, second, running=[recipe(6)]).after == other.recipe
    lost = trial(recipe(6, sparsity=0.75, after=first.recipe), 250, 0.5)
    chosen = after(half, other, first, second, lost, may_be_long=False)
    assert (chosen.after, chosen.flops) == (half.recipe, 1.0)
    assert chosen.sparsity == round(1 - 0.5 * 2**-0.4, 3), "half a step, which the drop makes a fifth shorter"


@given(st.integers(0, 50), st.integers(0, 2), st.sampled_from([("bytes", 1), ("bytes", 3), ("latency_ms", 1)]))
def test_each_recipe_goes_on_from_an_earlier_one_and_the_same_trials_give_the_same(seed, draw, case):
    by, workers = case
    goal, settings = Goal(by, MAX_DROP), SearchSettings()

    def policy(trials, running, first, may_be_long):
        chosen = [
            _next_recipe(trials, running, first=first, goal=goal, settings=settings, may_be_long=may_be_long)
            for _ in range(2)
        ]
        assert chosen[0] == chosen[1]
        return chosen[0]

    trials = search(Landscape(seed, draw, length=0.3), policy, workers=workers)
    recipes = [each.recipe for each in trials]
    assert len({each.seed for each in recipes[1:]}) == len(recipes) - 1
    for each in recipes[1:]:
        assert each.after in recipes
        before = each.after or FIRST
        assert 0.08 <= each.flops <= before.flops
        assert before.sparsity <= each.sparsity <= 0.98
        left = each.flops * (1 - each.sparsity) / (before.flops * (1 - before.sparsity))
        assert left > 0.45, "a step removes half, apart from rounding"
        assert type(each).read(json.loads(json.dumps(each.as_dict()))) == each


def test_it_finds_better_files_than_the_policy_before_it():
    """On 20 landscapes, by the record of `bench/policies.py`, which compares them on 200 searches."""
    record = json.loads((Path(__file__).parents[3] / "bench" / "policy_before.json").read_text(encoding="utf-8"))
    before = [landscape[0][0] for landscape in record["smallest, 1 at once"][:20]]

    def policy(trials, running, first, may_be_long):
        goal, settings = Goal("bytes", MAX_DROP), SearchSettings()
        return _next_recipe(trials, running, first=first, goal=goal, settings=settings, may_be_long=may_be_long)

    volumes = [worth(landscape, search(landscape, policy))[0] for landscape in map(Landscape, range(20))]
    assert sum(volumes) > sum(before)
