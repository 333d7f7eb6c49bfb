"""Trials on an executor, most of them made up: what is sent, what is refused, and workers that die or are slow."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import types
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from dataclasses import replace

import keras
import numpy as np
import pytest
import small_search
from small_search import made, runner
from stub_trials import StubRunner

from tfprune.base.folders import RunFolder
from tfprune.base.output import ProcessPool
from tfprune.export.compressing import evaluate
from tfprune.export.compressing.compress import Search
from tfprune.export.compressing.evaluate import _pack_runner, _unpack_runner, workers_of
from tfprune.export.compressing.policy import Goal, SearchLoop
from tfprune.export.compressing.trials import Recipe
from tfprune.export.rewriting.weights import EdgeQuantizer
from tfprune.models import tasks
from tfprune.models import tasks as worker
from tfprune.models.tasks import _DONE, _NO_DATA, _REFUSED, DataReference, _run_task

HALF = Recipe(0.5, 0.0, "unstructured", False, 64, 2, 1, 1e-3, 0)


class StubExecutor(Executor):
    """Runs made-up trials; a test changes `answer`, and with `is_lazy` says itself when tasks end."""

    def __init__(self, *, is_lazy: bool = False) -> None:
        self.runner, self.calls, self.waiting, self.is_lazy = StubRunner(), [], [], is_lazy

    def submit(self, function, /, *args, **kwargs):
        assert function is _run_task
        future: Future = Future()
        self.calls.append(kwargs)
        self.waiting.append((future, kwargs))
        if not self.is_lazy:
            self.end(0)
        return future

    def end(self, index: int) -> None:
        future, kwargs = self.waiting.pop(index)
        try:
            future.set_result(self.answer(**kwargs))
        except (BrokenExecutor, OSError) as error:
            future.set_exception(error)

    def answer(self, *, work, arguments, **_):
        if work is None:
            return _DONE, None
        recipe = Recipe.read(json.loads(arguments["recipe"]))
        return _DONE, self.runner.run(recipe, math.inf, arguments["start"])


@pytest.fixture(autouse=True)
def packed_stub(monkeypatch):
    """Let a made-up runner be packed."""
    monkeypatch.setattr(evaluate, "_pack_runner", lambda runner: b"packed")


def search(folder, executor, *, jobs=1, trials=8, seconds=1e6):
    stored = RunFolder(folder, settings={}, arrays=[])
    stored.remember("steps", lambda: {"steps": np.array(40)})
    return SearchLoop(
        StubRunner(), stored, Goal("bytes", 0.01), 0, seconds, jobs=jobs, executor=executor, max_trials=trials
    )


def recipes_of(loop):
    with loop.folder:
        return [trial.recipe for trial in loop.run()][1:]


def test_one_worker_runs_the_same_trials_as_this_process(tmp_path):
    (tmp_path / "here").mkdir()
    here = search(tmp_path / "here", None)
    executor = StubExecutor()
    there = search(tmp_path / "there", executor)
    assert recipes_of(there) == recipes_of(here)
    assert [trial.tried for trial in there.trials] == [trial.tried for trial in here.trials]
    calls = executor.calls
    assert len({call["call"] for call in calls}) == len(calls) == 1 + 8, "one check, and no two calls are the same"
    assert all(call["content"] is None for call in calls)
    assert sorted(path.name for path in (tmp_path / "there").iterdir() if path.name.startswith(".")) == []


def test_a_worker_that_cannot_read_the_folder_gets_the_data_once(tmp_path):
    class Far(StubExecutor):
        has_data = False

        def answer(self, *, content, **call):
            self.has_data |= content == b"packed"
            return super().answer(**call) if self.has_data else (_NO_DATA, None)

    executor = Far()
    assert len(recipes_of(search(tmp_path, executor))) == 8
    assert [call["content"] for call in executor.calls] == [None, b"packed", *[None] * 8]


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_trial_whose_worker_dies_runs_once_more_and_then_is_reported(deaths, tmp_path):
    class Dying(StubExecutor):
        died = 0

        def answer(self, **call):
            if len(self.calls) >= 4 and self.died < deaths:
                self.died += 1
                raise BrokenExecutor("a process ended")
            return super().answer(**call)

    loop = search(tmp_path, Dying())
    recipes = recipes_of(loop)
    failed = [trial for trial in loop.trials if trial.reason]
    assert len(recipes) == len(set(recipes)) == 8
    assert len(failed) == (deaths == 2)
    if failed:
        assert failed[0].reason.endswith("Received, 2 times: BrokenExecutor: a process ended.")
        assert not failed[0].tried
    again = search(tmp_path, StubExecutor())
    assert recipes_of(again) == recipes
    assert not again.executor.calls, "no worker is asked when nothing is left to do"


def test_a_slow_worker_delays_only_its_own_trial(tmp_path, monkeypatch):
    executor = StubExecutor(is_lazy=True)

    def wait(running, **_):
        executor.end(1 if len(executor.waiting) > 1 else 0)  # the first trial ends last
        return {future for future in running if future.done()}, set()

    monkeypatch.setattr(tasks, "wait", wait)
    loop = search(tmp_path, executor, jobs=3, trials=12)
    recipes = recipes_of(loop)
    assert len(recipes) == 12
    assert recipes[-1].seed == min(recipe.seed for recipe in recipes)


def test_a_trial_that_has_not_ended_in_time_is_given_up(tmp_path):
    class Hanging(StubExecutor):
        def end(self, index):
            if self.waiting[index][1]["work"] is None:
                super().end(index)

    executor = Hanging()
    folder = RunFolder(tmp_path, settings={}, arrays=[])
    with workers_of(StubRunner(), folder, jobs=2, executor=executor, seconds=9.0) as running:
        running.start(HALF, 0.01, None)
        assert running.wait(0.01) == (HALF, None)
        assert executor.waiting[0][0].cancelled()


class Ended(StubExecutor):
    def submit(self, function, /, *args, **kwargs):
        raise BrokenExecutor("A process in the process pool was terminated abruptly")


class Foreign(StubExecutor):
    def end(self, index):
        future, _ = self.waiting.pop(index)
        future.set_exception(ModuleNotFoundError("No module named 'tfprune'"))


class Refusing(StubExecutor):
    def answer(self, **call):
        return _REFUSED, "Expected workers with the packages. Received: others."


class Absent(StubExecutor):
    def end(self, index):
        """Answer nothing: there are no workers."""


@pytest.mark.parametrize(
    ("executor", "words"),
    [
        (Ended(), "an executor that takes tasks. Received: BrokenExecutor: .* make a new one"),
        (Foreign(), "load the model and the data. .*No module named 'tfprune'. Start workers first"),
        (Refusing(), "with the packages. Received: others. All trials before are kept"),
        (Absent(), "Received: no answer in time. Start workers first"),
    ],
)
def test_an_executor_without_fit_workers_is_refused_before_the_first_trial(executor, words, tmp_path):
    loop = search(tmp_path, executor, jobs=2, seconds=0.1)
    with pytest.raises(ValueError, match=words):
        next(loop.run())
    assert not loop.runner.ran


def call(packed, **changes):
    call = {"call": 1, "content": packed, "expected": json.dumps(worker._versions()), "opened": _unpack_runner}
    key = hashlib.sha256(packed).hexdigest()
    return _run_task(key, "nowhere", **{**call, "work": None, "arguments": {}, "seconds": 9.0, **changes})


@pytest.fixture
def packed(monkeypatch):
    monkeypatch.setattr(worker, "_states", {})
    return _pack_runner(runner())


def test_a_worker_keeps_the_data_that_it_got(packed, tmp_path):
    assert call(packed, content=None) == (_NO_DATA, None)
    assert call(packed) == (_DONE, None)
    assert call(packed, content=None) == (_DONE, None)
    worker._states.clear()
    (tmp_path / "packed").write_bytes(packed)
    key = hashlib.sha256(packed).hexdigest()
    assert worker._open(key, str(tmp_path / "packed"), content=None, opened=_unpack_runner)
    assert not worker._open("another", str(tmp_path / "packed"), content=None, opened=_unpack_runner)


def test_what_was_packed_is_what_it_was(packed):
    first, second = runner(), _unpack_runner(packed)
    for before, after in zip(
        keras.tree.flatten([first.train_data, first.evaluator.validation, first.evaluator.calibration]),
        keras.tree.flatten([second.train_data, second.evaluator.validation, second.evaluator.calibration]),
        strict=True,
    ):
        np.testing.assert_array_equal(before, after)
    for before, after in zip(first.model.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert (second.batch_size, second.learning_rate) == (first.batch_size, first.learning_rate)
    assert second.evaluator.baseline == first.evaluator.baseline
    assert vars(second.evaluator.metric) == vars(first.evaluator.metric)


def test_a_worker_makes_the_formats_that_the_search_asks_for():
    first = runner()
    formats = ("int8", "int4", EdgeQuantizer([{"regex": ".*"}], python="edge/bin/python"))
    evaluator = replace(first.evaluator, number_formats=formats, mixed_from=0.25)
    second = _unpack_runner(_pack_runner(replace(first, evaluator=evaluator))).evaluator
    assert (second.formats(None), second.mixed_from) == (formats, 0.25)


def test_a_worker_reads_data_that_are_referred_to(packed, tmp_path, monkeypatch):
    np.savez(tmp_path / "train.npz", **dict(zip("xy", made()[1], strict=True)))
    for data in (small_search.train_data, tmp_path / "train.npz"):
        sent = _pack_runner(runner(reference=DataReference.of(data)))
        assert len(sent) < len(packed) - small_search.train_data()[0].nbytes
        for before, after in zip(made()[1], _unpack_runner(sent).train_data, strict=True):
            np.testing.assert_array_equal(before, after)
        assert np.array_equal(_unpack_runner(sent).evaluator.calibration, made()[1][0][:100])
    np.savez(tmp_path / "train.npz", x=made()[1][0], y=made()[1][1][::-1])
    answer, reason = call(sent)
    assert answer == _REFUSED and "Expected the same `data` on each worker. Received, on" in reason
    (tmp_path / "train.npz").unlink()
    answer, reason = call(sent)
    assert answer == _REFUSED and "Each worker has to see the file" in reason
    with pytest.raises(ValueError, match="Expected a function in `data` that workers can import"):
        _pack_runner(runner(reference=DataReference.of(lambda: made()[1])))


def test_a_worker_reads_validation_data_that_are_referred_to(packed, tmp_path):
    first, (_, _, validation, _) = runner(), made()
    np.savez(tmp_path / "valid.npz", **dict(zip("xy", validation, strict=True)))
    reference = DataReference.of(tmp_path / "valid.npz", argument="validation_data")
    sent = _pack_runner(replace(first, evaluator=replace(first.evaluator, reference=reference)))
    assert len(sent) < len(packed) - validation[0].nbytes
    for before, after in zip(validation, _unpack_runner(sent).evaluator.validation, strict=True):
        np.testing.assert_array_equal(before, after)
    (tmp_path / "valid.npz").unlink()
    answer, reason = call(sent)
    assert answer == _REFUSED and "Expected `validation_data` to be an .npz file" in reason


def test_a_worker_with_other_packages_refuses(packed):
    expected = json.dumps({**worker._versions(), "Keras": "3.0.0"})
    answer, reason = call(packed, expected=expected)
    assert answer == _REFUSED
    assert f"Received: Keras {keras.__version__} instead of 3.0.0 on" in reason


def test_a_second_trial_in_the_same_process_is_refused(packed):
    with worker._busy:
        answer, reason = call(packed)
    assert answer == _REFUSED
    assert "Give each worker one thread" in reason
    assert call(packed) == (_DONE, None)


def test_a_class_that_a_worker_cannot_import_is_refused(monkeypatch):
    module = types.ModuleType("only_here")
    exec("import keras\nclass Mine(keras.layers.Dense): pass", vars(module))
    module.Mine.__module__ = "only_here"
    monkeypatch.setitem(sys.modules, "only_here", module)
    model = keras.Sequential([keras.Input((12,)), module.Mine(2)])
    model.compile("adam", "mse")
    packed = _pack_runner(runner(model))
    monkeypatch.delitem(sys.modules, "only_here")
    answer, reason = call(packed)
    assert answer == _REFUSED
    assert "workers that can load the model. Received, on" in reason
    assert "classes have to stand in modules" in reason


def test_data_of_python_objects_are_refused():
    x, y = made()[1]
    small = runner()
    broken = type(small)(small.model, (x, y.astype(object)), small.evaluator, 32)
    with pytest.raises(TypeError, match="an array with dtype object"):
        _pack_runner(broken)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"executor": "dask"}, TypeError, r"Executor, or None. Received: executor='dask'.*client.get_executor\(\)"),
        ({"executor": StubExecutor()}, ValueError, "Expected `jobs` beside `executor`.* Received: jobs=None"),
        ({"jobs": 0}, ValueError, "jobs"),
    ],
)
def test_settings_of_a_search_are_refused(settings, error, words):
    with pytest.raises(error, match=words):
        Search(**settings)


class Mine(keras.layers.Dense):
    """A layer that no other process can import."""


@pytest.mark.programs
def test_a_model_that_no_other_process_can_load_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "_pack_runner", _pack_runner)
    monkeypatch.setattr(Mine, "__module__", "__main__")
    model = keras.Sequential([keras.Input((12,)), Mine(2)])
    model.compile("adam", "mse")
    folder = RunFolder(tmp_path, settings={}, arrays=[])
    with (
        pytest.raises(ValueError, match="classes have to stand in modules"),
        ProcessPool(1, environment={}) as pool,
        workers_of(runner(model), folder, jobs=1, executor=pool, seconds=100.0),
    ):
        pass


def test_two_threads_of_a_process_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "_pack_runner", _pack_runner)
    folder = RunFolder(tmp_path, settings={}, arrays=[])
    with (
        ThreadPoolExecutor(2) as threads,
        worker._busy,
        pytest.raises(ValueError, match="one thread"),
        workers_of(runner(), folder, jobs=2, executor=threads, seconds=100.0),
    ):
        pass
