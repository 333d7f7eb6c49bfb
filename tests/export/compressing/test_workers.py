"""Trials in child processes."""

from dataclasses import replace

import keras
import pytest
from small_search import runner

from tfprune.export.compressing.recipe import Recipe
from tfprune.export.compressing.trial import read_trial
from tfprune.export.compressing.workers import workers_of

HALF = Recipe(0.5, 0.0, "unstructured", False, 64, 2, 1, 1e-3, 0)


class Mine(keras.layers.Dense):
    """A layer that no other process can import."""


@pytest.mark.programs
def test_a_model_that_no_other_process_can_load_is_refused():
    model = keras.Sequential([keras.Input((12,)), Mine(2)])
    model.compile("adam", "mse")
    with workers_of(runner(model), jobs=2) as workers:
        workers.start(HALF, 10.0, None)
        with pytest.raises(ValueError, match="classes have to stand in modules"):
            workers.wait()


@pytest.mark.slow
def test_a_process_starts_from_the_model_that_it_is_given_and_from_no_earlier_one():
    """A quarter of the channels remain if it starts from half of them; else half of them would."""
    quarter = replace(HALF, flops=0.25, after=HALF)
    with workers_of(runner(), jobs=2) as workers:
        workers.start(HALF, 600.0, None)
        recipe, half = workers.wait()
        assert recipe == HALF
        trials = [half]
        for recipe, start in ((quarter, half["model"]), (HALF, None)):
            workers.start(recipe, 600.0, start)
            trials.append(workers.wait()[1])
        workers.start(HALF, 0.0, None)
        assert workers.wait() == (HALF, None), "it was late"
    sizes = [read_trial(arrays).tried[0].bytes for arrays in trials]
    assert sizes[1] < 0.8 * sizes[0]
    assert trials[2]["file_0"].tobytes() == trials[0]["file_0"].tobytes()
    assert trials[2]["file_1"].tobytes() == trials[0]["file_1"].tobytes()
