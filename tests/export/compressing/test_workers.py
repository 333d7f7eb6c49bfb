"""Several trials at once: each is as good as it says, and of a search that was killed nothing is left."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import small_search
from small_search import made, search

from tfprune.export import Runner
from tfprune.export.compressing.measured_file import FileEvaluator
from tfprune.export.compressing.recipe import Recipe
from tfprune.export.compressing.trial import TrialRunner
from tfprune.export.compressing.workers import workers_of
from tfprune.export.micro.micro import Micro

TRIALS = 9  # more than are waited for
SECONDS = 60  # within which processes end; a busy machine takes longer than the usual moment


def descendants(of):
    """Return the processes that a process has started, and those that these have."""
    found = [int(pid) for task in Path(f"/proc/{of}/task").glob("*/children") for pid in task.read_text().split()]
    return [*found, *(pid for child in found for pid in descendants(child))]


def are_gone(processes):
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if not any(Path(f"/proc/{pid}/exe").exists() for pid in processes):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes there are")
def test_a_search_that_was_killed_leaves_nobody_behind_and_goes_on(tmp_path):
    child = subprocess.Popen([sys.executable, small_search.__file__, str(tmp_path), str(TRIALS), "2"])
    while child.poll() is None and not (tmp_path / "trials" / "trial-00000.npz").exists():
        time.sleep(0.01)
    processes = descendants(child.pid)
    child.kill()
    child.wait()
    assert len(processes) >= 2
    assert are_gone(processes)

    before = set(descendants("self"))
    kept = len([*(tmp_path / "trials").glob("trial-*.npz")])
    report = search(tmp_path, trials=kept + 1, jobs=2)
    assert report.trials == kept + 1
    assert len({one.name for one in report.tried}) == len(report.tried)
    _, _, (x, y), _ = made()
    for one in report.front:
        assert np.mean(Runner(tmp_path / one.file).predict(x).argmax(axis=1) == y) == pytest.approx(one.score)
    left = set(descendants("self")) - before
    assert not [pid for pid in left if b"compressing.workers" in Path(f"/proc/{pid}/cmdline").read_bytes()]


class Mine(keras.layers.Dense):
    """A layer that no other process can import."""


def test_a_model_that_no_other_process_can_load_is_refused():
    model = keras.Sequential([keras.Input((12,)), Mine(2)])
    model.compile("adam", "mse")
    _, train, validation, _ = made()
    evaluator = FileEvaluator(train[0], validation, "accuracy", 1.0, "size", Micro(), None)
    recipe = Recipe(1.0, 0.0, "unstructured", False, 64, 2, 1, 1e-3, 0)
    with workers_of(TrialRunner(model, train, evaluator, 32), jobs=2) as workers:
        workers.start(recipe, 10.0, None)
        with pytest.raises(ValueError, match="classes have to stand in modules"):
            workers.wait()


def test_a_process_goes_on_with_the_model_that_it_is_given():
    model, train, validation, _ = made()
    runner = TrialRunner(
        model, train, FileEvaluator(train[0], validation, "accuracy", 1.0, "size", Micro(), None), 32
    )
    half = Recipe(0.5, 0.0, "unstructured", False, 64, 2, 1, 1e-3, 0)
    more = replace(half, flops=0.25, sparsity=0.5, after=half)
    expected = runner.run(more, 60.0, runner.run(half, 60.0)["model"])
    with workers_of(runner, jobs=2) as workers:
        for recipe, start in ((half, None), (more, runner.run(half, 60.0)["model"]), (half, None)):
            workers.start(recipe, 60.0, start)
            _, found = workers.wait()
            assert (found["file_0"].size == expected["file_0"].size) == (recipe == more)


def test_trials_that_are_timed_run_one_after_the_other(tmp_path):
    with pytest.raises(ValueError, match="jobs=1 with target='latency'"):
        search(tmp_path, target="latency", jobs=2)
    assert not [*tmp_path.iterdir()]
