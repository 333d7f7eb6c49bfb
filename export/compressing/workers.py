"""Run trials here, one after the other, or several at once in child processes."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from tfprune.base.limit import GroupLimits
from tfprune.base.run_folder import NamedArrays
from tfprune.base.untrusted import parse_json, read_arrays, reading
from tfprune.export.compressing.file_evaluator import FileEvaluator, calibration_of
from tfprune.export.compressing.recipe import Recipe
from tfprune.export.compressing.trial_runner import LateError, TrialRunner
from tfprune.export.device.processes.child_process import Completed, run_as_child, started
from tfprune.export.device.processes.job_files import read_job, write_job
from tfprune.export.micro.micro import Micro

THREAD_VARIABLES = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
MODEL, START, TODO, RESULT = "model.keras", "start.npy", "todo.json", "result.npz"
POLL_SECONDS = 0.02


class Workers(Protocol):
    """Runs trials."""

    def start(self, recipe: Recipe, seconds: float, model: np.ndarray | None) -> None:
        """Start a trial, which may train for this many seconds, from the model of the recipe before it."""

    def wait(self) -> tuple[Recipe, NamedArrays | None]:
        """Return the recipe of the next trial that ends, and the arrays of `TrialRunner.run`; None if it was late."""


@contextmanager
def workers_of(runner: TrialRunner, *, jobs: int) -> Iterator[Workers]:
    """Yield workers for up to `jobs` trials at once; their processes end with the block."""
    if jobs == 1:
        yield _InThisProcess(runner)
        return
    with ExitStack() as stack:
        yield _Processes(partial(_Process.new, runner, stack, jobs=jobs))


class _InThisProcess:
    def __init__(self, runner: TrialRunner) -> None:
        self._runner = runner

    def start(self, recipe: Recipe, seconds: float, model: np.ndarray | None) -> None:
        self._next = (recipe, seconds, model)

    def wait(self) -> tuple[Recipe, NamedArrays | None]:
        recipe, seconds, model = self._next
        try:
            return recipe, self._runner.run(recipe, seconds, model)
        except LateError:
            return recipe, None


class _Processes:
    def __init__(self, another: Callable[[], _Process]) -> None:
        self._another = another
        self._idle: list[_Process] = []
        self._busy: list[tuple[_Process, Recipe]] = []

    def start(self, recipe: Recipe, seconds: float, model: np.ndarray | None) -> None:
        process = self._idle.pop() if self._idle else self._another()
        process.begin(recipe, seconds, model)
        self._busy.append((process, recipe))

    def wait(self) -> tuple[Recipe, NamedArrays | None]:
        while True:
            for process, recipe in self._busy:
                result = process.result()
                if result is not None:
                    self._busy.remove((process, recipe))
                    self._idle.append(process)
                    return recipe, result or None
            time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class _Process:
    """A process that has the model and the data, and runs one trial after the other."""

    folder: Path
    ended: Callable[[], Completed | None]

    @classmethod
    def new(cls, runner: TrialRunner, stack: ExitStack, *, jobs: int) -> _Process:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tfprune-", ignore_cleanup_errors=True)))
        runner.model.save(folder / MODEL)
        _write_data(runner, folder)
        share = str(max(1, (os.cpu_count() or 1) // jobs))
        environment = {"KERAS_BACKEND": keras.config.backend(), **dict.fromkeys(THREAD_VARIABLES, share)}
        return cls(folder, stack.enter_context(started(__name__, folder, environment=environment)))

    def begin(self, recipe: Recipe, seconds: float, model: np.ndarray | None) -> None:
        (self.folder / START).unlink(missing_ok=True)
        if model is not None:
            np.save(self.folder / START, model, allow_pickle=False)
        end = time.time() + seconds  # a clock that all processes share
        text = json.dumps({"recipe": recipe.as_dict(), "end": end})
        unfinished = self.folder / "todo.partial"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(self.folder / TODO)

    def result(self) -> NamedArrays | None:
        """Return the arrays of the trial, none if it was late; None if it has not ended."""
        end = self.ended()
        if end is not None:
            raise ValueError(
                f"Expected trials in processes of their own. Received: one of them ended: {end.reason}. They load "
                "the model, so that its classes have to stand in modules. All trials before are kept: search again "
                "with fewer `jobs` in Search, or with 1."
            )
        file = self.folder / RESULT
        if not file.exists():
            return None
        with reading(file, expected="the results of a trial", advice="Search again: all trials before are kept"):
            arrays = read_arrays(file)
        file.unlink()
        return arrays


def _write_data(runner: TrialRunner, folder: Path) -> None:
    arrays: list[np.ndarray] = []

    def number(array: Any) -> int:
        arrays.append(np.asarray(array))
        return len(arrays) - 1

    evaluator = runner.evaluator
    settings = {
        "data": keras.tree.map_structure(number, [*runner.train_data, *evaluator.validation]),
        "metric": evaluator.metric,
        "baseline": evaluator.baseline,
        "optimize": evaluator.optimize,
        "limits": None if evaluator.limits is None else keras.tree.map_structure(number, vars(evaluator.limits)),
        "micro": None if evaluator.micro is None else asdict(evaluator.micro),
        "batch_size": runner.batch_size,
    }
    write_job(folder, "job", settings=settings, arrays={str(index): array for index, array in enumerate(arrays)})


def _read_runner(folder: Path) -> TrialRunner:
    settings, arrays = read_job(folder, "job")
    limits = settings["limits"]
    x, y, *validation = keras.tree.map_structure(lambda number: arrays[str(number)], settings["data"])
    evaluator = FileEvaluator(
        calibration=calibration_of(x),
        validation=tuple(validation),
        metric=settings["metric"],
        baseline=settings["baseline"],
        optimize=settings["optimize"],
        limits=None if limits is None else GroupLimits(**{name: arrays[str(limits[name])] for name in limits}),
        micro=None if settings["micro"] is None else Micro(**settings["micro"]),
    )
    return TrialRunner(keras.saving.load_model(folder / MODEL), (x, y), evaluator, settings["batch_size"])


def _run_trials(folder: Path) -> None:
    runner = _read_runner(folder)
    while True:
        while not (folder / TODO).exists():
            time.sleep(POLL_SECONDS)
        todo = parse_json((folder / TODO).read_bytes())
        (folder / TODO).unlink()
        start = np.load(folder / START, allow_pickle=False) if (folder / START).exists() else None
        try:
            arrays = runner.run(Recipe.read(todo["recipe"]), todo["end"] - time.time(), start)
        except LateError:
            arrays = {}
        unfinished = folder / "result.partial"
        with unfinished.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
        unfinished.replace(folder / RESULT)


if __name__ == "__main__":
    run_as_child(_run_trials)
