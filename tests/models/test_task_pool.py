"""Calls on workers return the same as here; a worker that dies is replaced once; what cannot be sent is refused."""

from __future__ import annotations

import logging

import keras
import numpy as np
import pytest
from pickling_executor import PicklingExecutor, die_once

from tfprune.models import tasks as worker
from tfprune.models.tasks import PackedModel, check_executor, pack_model, run_tasks, unpack_model


def add(state, *, number):
    return state + number


def size_of(state):
    return bytes([state])


CALLS = [{"number": number} for number in range(5)]


def results(work, calls, *, state=7, pack=size_of, opened=ord, jobs=2, executor=None):
    pairs = run_tasks(work, calls, state=state, pack=pack, opened=opened, jobs=jobs, executor=executor)
    return [value for _, value in sorted(pairs)]


@pytest.fixture(autouse=True)
def no_state(monkeypatch):
    monkeypatch.setattr(worker, "_states", {})


def test_calls_return_the_same_on_an_executor_as_here():
    executor = PicklingExecutor()
    here = results(add, CALLS, jobs=None)
    assert here == [7, 8, 9, 10, 11]
    assert results(add, CALLS, executor=executor) == here
    assert len(executor.sizes) == 2 + len(CALLS), "each of two jobs opens the state first"
    assert results(add, [], executor=PicklingExecutor()) == []


def test_a_worker_on_another_machine_gets_the_state_once():
    large = PackedModel(dense(), {"x": np.zeros((1000, 8))}, {})
    executor = PicklingExecutor(is_far=True)
    shapes = results(shape_of, [{}] * 3, state=large, pack=pack_model, opened=unpack_model, jobs=1, executor=executor)
    assert shapes == [(1000, 8)] * 3
    assert [size > 64_000 for size in executor.sizes] == [False, True, False, False, False]


def shape_of(state):
    return state.arrays["x"].shape


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_call_whose_worker_dies_runs_once_more(deaths, caplog):
    executor = PicklingExecutor(checks=3, deaths=deaths)  # the first is the check
    if deaths == 2:
        with pytest.raises(ValueError, match=r"workers that end their tasks. .* 2 times: BrokenExecutor: a worker e"):
            results(add, CALLS, executor=executor, jobs=1)
        return
    with caplog.at_level(logging.WARNING):
        assert results(add, CALLS, executor=executor, jobs=1) == [7, 8, 9, 10, 11]
    assert "A worker failed, and its task is run once more: BrokenExecutor: a worker ended" in caplog.text


@pytest.mark.programs
def test_a_process_that_is_killed_costs_no_result_and_its_signal_is_named(tmp_path, caplog):
    calls = [{"marker": str(tmp_path / "marker"), "number": number} for number in range(6)]
    with caplog.at_level(logging.WARNING):
        assert results(die_once, calls) == [0, 1, 4, 9, 16, 25]
    assert "its process was killed by SIGKILL (out of memory?)" in caplog.text


def dense():
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(2, name="out")])


def test_what_is_packed_arrives():
    model = dense()
    model.compile("adam", "mse")
    packed = pack_model(PackedModel(model, {"x": [np.arange(3), {"a": np.ones(2)}], "none": {}}, {"metric": "loss"}))
    arrived = unpack_model(packed)
    assert arrived.settings == {"metric": "loss"}
    np.testing.assert_array_equal(arrived.arrays["x"][0], [0, 1, 2])
    np.testing.assert_array_equal(arrived.arrays["x"][1]["a"], [1, 1])
    for before, after in zip(model.get_weights(), arrived.model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    with pytest.raises(TypeError, match=r"an array with dtype object.* Leave out `jobs` and `executor`"):
        pack_model(PackedModel(model, {"x": np.array([None])}, {}))


@pytest.mark.parametrize(
    ("executor", "jobs", "error", "words"),
    [
        ("dask", 2, TypeError, r"Executor, or None. Received: executor='dask'.*client.get_executor\(\)"),
        (PicklingExecutor(), None, ValueError, "Expected `jobs` beside `executor`.* Received: jobs=None"),
        (None, 0, ValueError, "jobs"),
    ],
)
def test_settings_are_refused(executor, jobs, error, words):
    with pytest.raises(error, match=words):
        check_executor(executor, jobs=jobs)
