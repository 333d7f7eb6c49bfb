"""The loop of a search, on made-up trials: its recipes, its time, and its folder."""

import math
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
from stub_trials import StubRunner, StubWorkers, model_of

import tfprune.export.compressing.policy as searching
from tfprune.base.folders import RunFolder
from tfprune.export.compressing.policy import Goal, SearchLoop
from tfprune.export.compressing.trials import Recipe


@dataclass(frozen=True)
class Case:
    """A search, and what is true of its model."""

    goal: Goal = Goal("bytes", 0.01)
    seed: int = 0
    seconds: float = 1e6
    trials: float = 26
    jobs: int = 1
    can_shrink: bool = True
    is_kept: bool = True
    formats: tuple = (None, "int8")
    fails: Callable[[Recipe | None], bool] = lambda recipe: False


def search_of(case, folder, monkeypatch, *, runner=None):
    """Return a search with made-up trials of 40 steps."""
    runner = runner or StubRunner()
    runner = replace(runner, can_shrink=case.can_shrink, is_kept=case.is_kept, formats=case.formats, fails=case.fails)
    monkeypatch.setattr(searching, "time", runner.clock)
    kept = RunFolder(folder, settings={}, arrays=[])
    kept.remember("steps", lambda: {"steps": np.array(40)})
    return SearchLoop(runner, kept, case.goal, case.seed, case.seconds, jobs=case.jobs, max_trials=case.trials)


@contextmanager
def stub_workers(runner, folder, *, jobs, executor, seconds):
    yield StubWorkers(runner)


def test_a_trial_starts_from_the_model_of_the_recipe_before(tmp_path, monkeypatch):
    runner = StubRunner()
    search = search_of(Case(trials=9), tmp_path, monkeypatch, runner=runner)
    recipes = [trial.recipe for trial in search.run()][1:]
    assert any(recipe.after for recipe in recipes)
    for recipe, start in zip(search.runner.ran[1:], search.runner.starts[1:], strict=True):
        assert start is None if recipe.after is None else bytes(start) == bytes(model_of(recipe.after))


@pytest.mark.parametrize("can", [True, False])
def test_a_model_trains_for_int8_only_if_it_can(can, tmp_path, monkeypatch):
    runner = StubRunner(can_quantize_aware=can)
    search = search_of(Case(Goal("bytes", 0.005), trials=12), tmp_path, monkeypatch, runner=runner)
    assert any(trial.recipe.quantize_aware for trial in search.run() if trial.recipe) == can


def test_models_that_are_not_kept_are_what_no_trial_starts_from(tmp_path, monkeypatch):
    search = search_of(Case(trials=12, is_kept=False), tmp_path, monkeypatch)
    assert [trial.recipe.after for trial in search.run() if trial.recipe] == [None] * 12
    assert search.runner.starts == [None] * 13


@pytest.mark.parametrize("seconds", [20.0, 100.0, 300.0])
def test_the_time_ends_a_search(seconds, tmp_path, monkeypatch):
    """No trial begins that would not end in time, and none of the shortest would fit in the rest."""
    search = search_of(Case(seconds=seconds, trials=math.inf), tmp_path, monkeypatch)
    trials = [*search.run()]
    rest = 0.95 * seconds - search.runner.clock.now
    assert 0 <= rest < 2 * (40 * 0.01 + 2.0)  # quantization-aware trials train for 60 or 80 steps
    assert trials[-1].ended == search.runner.clock.now
    assert len(trials) > seconds / 5


def test_the_first_trials_tell_how_many_there_will_be(tmp_path, monkeypatch):
    """Short trials take 2.4 seconds and long ones 3.6: the estimate is between what both kinds would give."""
    search = search_of(Case(seconds=300.0, trials=math.inf), tmp_path, monkeypatch)
    expected = [search.expected_trials() for _ in search.run()]
    assert expected[0] == 0 and expected[-1] == len(expected) - 1
    assert all(0.65 < number / expected[-1] < 1.35 for number in expected[1:])


def test_a_trial_that_takes_too_long_is_given_up_and_not_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(SearchLoop, "_expected_seconds", lambda self, recipe: 0.0)
    slow = StubRunner(step_seconds=0.2)
    search = search_of(Case(seconds=60.0, trials=math.inf), tmp_path, monkeypatch, runner=slow)
    trials = [*search.run()]
    assert len(search.runner.ran) > len(trials)
    assert search.runner.clock.now <= 60.0 - search.runner.file_seconds, "its files would have taken time, too"
    kept = sorted(path.name for path in tmp_path.glob("trial*"))
    assert kept == [f"trial-{number:05}.npz" for number in range(len(trials) - 1)]


@pytest.mark.parametrize(("seconds", "fit"), [(9.0, 2), (7.0, 1), (4.0, 0), (10.0, None)])
def test_a_search_with_time_for_few_recipes_says_how_much_it_needs(seconds, fit, tmp_path, monkeypatch):
    """The original model takes 2 seconds, and each recipe 2.4."""
    search = search_of(Case(seconds=seconds, trials=math.inf), tmp_path, monkeypatch)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trials = len([*search.run()]) - 1
    messages = [str(warning.message) for warning in caught if "recipes or more" in str(warning.message)]
    assert len(messages) == (fit is not None)
    if messages:
        assert trials <= fit
        assert f"into which about {fit} fit" in messages[0]
        assert "Pass time=10," in messages[0]  # (2 + 3 * 2.4) / 0.95


def test_a_model_too_slow_to_time_a_step_ends_the_search_in_time(tmp_path, monkeypatch):
    search = search_of(Case(seconds=60.0), tmp_path, monkeypatch, runner=StubRunner(step_seconds=4.0))
    with pytest.warns(UserWarning, match="time=60, which was over before a few training steps were timed"):
        assert len([*search.run()]) == 1
    assert search.runner.clock.now <= 60.0


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_search_that_was_stopped_continues_from_its_folder(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(searching, "workers_of", stub_workers)
    case = Case(trials=10, jobs=jobs)
    for path in ("whole", "parts"):
        (tmp_path / path).mkdir()
    whole = [*search_of(case, tmp_path / "whole", monkeypatch).run()]
    stopped = search_of(replace(case, trials=4), tmp_path / "parts", monkeypatch)
    with stopped.folder:
        first = [*stopped.run()]
    search = search_of(case, tmp_path / "parts", monkeypatch)
    again = [*search.run()]
    assert again[:5] == first
    assert len(search.runner.ran) == 6, "what was done is not done again"
    assert [trial.ended for trial in again] == sorted(trial.ended for trial in again)
    assert len({trial.recipe for trial in again}) == 11
    if jobs == 1:
        assert [(trial.recipe, trial.tried) for trial in again] == [(trial.recipe, trial.tried) for trial in whole]


@pytest.mark.parametrize(
    ("seconds", "samples", "steps", "rounds"),
    [
        (60, 300, 10, 50),  # 5 seconds, as the first trial took, and not the sixtieth part; 10 batches are an epoch
        (900, 300, 10, 50),  # the sixtieth part would be 150 epochs
        (60, 64_000, 500, 1),  # a quarter of an epoch
        (900, 64_000, 1000, 1),  # half of one: 1500 steps do not go into 2000
    ],
)
def test_the_shortest_trial_trains_for_as_long_as_its_files_take(tmp_path, seconds, samples, steps, rounds):
    runner = StubRunner(samples=samples, file_seconds=5.0)
    search = SearchLoop(
        runner, RunFolder(tmp_path, settings={}, arrays=[]), Goal("bytes", 0.01), 3, seconds, max_trials=0
    )
    assert [trial.seconds for trial in search.run()] == [5.0]
    recipe = search._shortest_recipe
    assert (recipe.steps, recipe.rounds) == (steps, rounds)
    assert (recipe.flops, recipe.sparsity, recipe.learning_rate, recipe.seed) == (1.0, 0.0, 1e-3, 3)
    assert recipe.samples == min(samples, recipe.steps * -(-samples // 32 // recipe.steps) * 32)


def test_a_later_call_with_more_time_keeps_the_length_of_trials(tmp_path):
    for seconds in (600, 60_000):
        with RunFolder(tmp_path, settings={}, arrays=[]) as kept:
            search = SearchLoop(StubRunner(samples=320_000), kept, Goal("bytes", 0.01), 0, seconds, max_trials=0)
            assert [*search.run()]
        assert search._shortest_recipe.all_steps == 1000  # the sixtieth part of 600 seconds, of 0.01 seconds each


def test_the_trial_of_the_original_model_has_to_make_a_file(tmp_path):
    class Refusing(StubRunner):
        def run(self, recipe, seconds, start=None):
            raise ValueError("Expected a model that can be exported. Received: none.")

    search = SearchLoop(Refusing(), RunFolder(tmp_path, settings={}, arrays=[]), Goal("bytes", 0.01), 0, 9)
    with pytest.raises(ValueError, match="that can be exported"):
        next(search.run())
