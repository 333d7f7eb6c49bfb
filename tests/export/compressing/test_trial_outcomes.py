"""What is known of each trial. The truth is written by hand."""

import math
from dataclasses import replace

import pytest

from tfprune.export.compressing.recipe import Recipe
from tfprune.export.compressing.search_settings import Goal, SearchSettings
from tfprune.export.compressing.trial import MeasuredFile, Trial
from tfprune.export.compressing.trial_outcomes import after_longer_training, cost, loss_kept, trial_outcomes

SETTINGS = SearchSettings(Goal("bytes", 0.01))
HALF = Recipe(0.5, 0.5, "unstructured", False, 600, 19, 1, 1e-3, 3)


def trials_of(*made):
    """Return trials whose files have these sizes and drops."""
    return [
        Trial(recipe, (MeasuredFile(recipe, None, size, size, 0.9 - drop, drop),), 1.0, 1.0)
        for recipe, size, drop in made
    ]


def outcomes(trials, *running):
    return trial_outcomes(trials, running, first=HALF, settings=SETTINGS)


def test_what_may_become_the_best_answer_is_smaller_and_may_lose_little_enough():
    files = [(1000, 0.0), (500, 0.005), (600, 0.02), (499, 0.02), (400, 0.3)]
    found = outcomes(
        trials_of(*((replace(HALF, seed=index) if index else None, *file) for index, file in enumerate(files)))
    )
    assert [outcome.is_open for outcome in found] == [False, False, False, True, False]
    assert [outcome.is_hopeful for outcome in found] == [True, True, True, True, False]
    assert [outcome.front_gain > 0 for outcome in found] == [False, True, False, True, False]
    # From the first went on four, and the second is where the front ends.
    assert [outcome.gap_below for outcome in found] == pytest.approx(
        [0.005 * math.log(2) / 5, 0.005 * math.log(2), 0, 0, 0]
    )


def test_longer_training_makes_good_for_a_part_of_what_the_last_step_lost():
    short_step, long_step = replace(HALF, after=HALF), replace(HALF, rounds=4, after=HALF)
    on_long = replace(HALF, after=long_step)
    trials = trials_of((None, 1000, -0.1), (HALF, 600, 0.01), (short_step, 400, 0.023), (long_step, 400, 0.012))
    trials += trials_of((on_long, 300, 0.02), (replace(HALF, seed=9), 300, -0.02))
    found = outcomes(trials)
    # Drops of 0.3 * 0.01, then 0.003 + 0.3 * 0.02; 0.012, which had it; 0.012 + 0.3 * 0.008.
    assert [outcome.drop_left for outcome in found] == pytest.approx([1.0, 0.7, 0.1, 0.0, 0.0, 1.0])
    assert [outcome.is_hopeful for outcome in found] == [True, True, True, False, False, True]
    sizes = [1000, 600, 400, 400 * 4**0.2, 300 * 4**0.44, 300]  # four times the size for a drop too many
    assert [outcome.promise for outcome in found] == pytest.approx([math.log(size / 1000) for size in sizes])


def test_a_file_at_the_limit_leaves_nothing_of_the_drop_and_another_recipe_may_still_start_from_it():
    at_limit, beyond = replace(HALF, rounds=4), replace(HALF, rounds=4, sparsity=0.7)
    found = outcomes(trials_of((None, 1000, 0.0), (at_limit, 600, 0.01), (beyond, 500, 0.0101)))
    assert [outcome.drop_left for outcome in found] == [1.0, 0.0, 0.0]
    assert [outcome.is_hopeful for outcome in found] == [True, True, False]


def test_a_trial_without_a_file_costs_most_and_nothing_starts_from_it():
    failed = Trial(replace(HALF, seed=1), (), 1.0, 1.0, "Expected a file. Received: none.")
    found = outcomes([*trials_of((None, 1000, 0.0), (HALF, 600, 0.005)), failed])
    assert [outcome.promise for outcome in found][1:] == pytest.approx([math.log(0.6), 20.0])
    assert [outcome.is_hopeful for outcome in found] == [True, True, False]
    assert (found[2].front_gain, found[2].gap_below, found[2].is_open) == (0.0, 0.0, False)


def test_trials_that_run_count_as_the_worst_so_that_none_is_chosen_again():
    running = [replace(HALF, seed=8), replace(HALF, seed=9)]
    found = outcomes(trials_of((None, 1000, 0.0), (HALF, 600, 0.005)), *running)
    assert [outcome.recipe for outcome in found] == [None, HALF, *running]
    assert [outcome.promise for outcome in found] == pytest.approx([0.0, math.log(0.6), 0.0, 0.0])
    assert all(outcome.is_hopeful and not outcome.is_open and not outcome.is_kept for outcome in found[2:])


@pytest.mark.parametrize(
    ("size", "drop", "expected"),
    [(500, 0.0, math.log(0.5)), (500, -0.1, math.log(0.5)), (500, 0.01, math.log(0.5)), (500, 0.02, math.log(2))],
)
def test_a_file_costs_its_size_and_four_times_as_much_for_each_drop_too_many(size, drop, expected):
    dense = MeasuredFile(None, None, 1000, 900, 0.9, 0.0)
    file = MeasuredFile(HALF, None, size, 400, 0.9 - drop, drop)
    assert cost(file, dense, settings=SETTINGS) == pytest.approx(expected)


@pytest.mark.parametrize(("drop", "lost", "expected"), [(0.05, 0.0, 0.01), (0.05, 0.02, 0.026), (0.01, 0.02, 0.01)])
def test_longer_training_promises_to_make_good_a_part_of_what_a_step_lost(drop, lost, expected):
    file = MeasuredFile(HALF, None, 500, 400, 0.9 - drop, drop)
    assert after_longer_training(file, drop_before=lost, loss_kept=0.2).drop == pytest.approx(expected)


@pytest.mark.parametrize(
    ("drops", "expected"),
    [
        ([], 0.3),
        ([(0.01, 0.03, 0.012)], 0.3),  # a tenth, of three
        ([(0.01, 0.03, 0.012), (0.0, 0.02, 0.002), (0.0, 0.03, 0.006)], 0.2),
        ([(0.01, 0.03, 0.005)] * 3, 0.0),
        ([(0.0, 0.01, 0.05)] * 3, 1.0),
        ([(0.01, 0.011, 0.01)] * 9, 0.3),  # too little to tell
    ],
)
def test_what_part_is_left_a_search_learns_of_its_own_trials(drops, expected):
    assert loss_kept(drops, SETTINGS) == pytest.approx(expected)
