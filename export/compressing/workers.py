"""Run trials here, one after the other, or several at once on an executor."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import keras
import numpy as np

from tfprune.base.run_folder import NamedArrays, RunFolder
from tfprune.base.untrusted import LONGEST_REASON
from tfprune.export.compressing.recipe import Recipe
from tfprune.export.compressing.trial import Trial
from tfprune.export.compressing.trial_runner import LateError, TrialRunner
from tfprune.export.compressing.worker_task import DONE, NO_DATA, REFUSED, pack_runner, run_task, versions
from tfprune.export.device.processes.process_pool import ProcessPool
from tfprune.report import shortened

_log = logging.getLogger(__name__)
KEPT = "All trials before are kept: call `compress` again with the same arguments to continue."
MOST_ATTEMPTS = 2


class Workers(Protocol):
    """Runs trials."""

    def start(self, recipe: Recipe, seconds: float, model: np.ndarray | None) -> None:
        """Start a trial, which may train for this many seconds, from the model of the recipe before it."""

    def wait(self, seconds: float) -> tuple[Recipe, NamedArrays | None]:
        """Return the recipe of the next trial that ends, and the arrays of `TrialRunner.run`; None if it was late.

        Args:
            seconds: How long to wait; a trial that has not ended then is late.
        """


@contextmanager
def workers_of(
    runner: TrialRunner, folder: RunFolder, *, jobs: int, executor: Executor | None, seconds: float
) -> Iterator[Workers]:
    """Yield workers for up to `jobs` trials at once.

    Args:
        runner: Runs trials in this process.
        folder: The folder of the search.
        jobs: How many trials run at once.
        executor: Where they run. None is this process, or for more than one trial processes that end with the block.
        seconds: How long workers may take to load the model.

    Raises:
        ValueError: If the model cannot be sent to workers, or a worker cannot run trials.
        TypeError: If the data cannot be sent.
    """
    if jobs == 1 and executor is None:
        yield _InThisProcess(runner)
        return
    content = pack_runner(runner)
    with folder.temporary_file(content) as file, ExitStack() as stack:
        key = hashlib.sha256(content).hexdigest()
        del content  # as large as all of the data
        if executor is None:
            environment = {"KERAS_BACKEND": keras.config.backend()}
            executor = stack.enter_context(ProcessPool(jobs, environment=environment))
        workers = stack.enter_context(closing(_OnExecutor(executor, key, file)))
        workers.check(jobs, seconds)
        yield workers


class _InThisProcess:
    def __init__(self, runner: TrialRunner) -> None:
        self._runner = runner

    def start(self, recipe: Recipe, seconds: float, model: np.ndarray | None) -> None:
        self._next = (recipe, seconds, model)

    def wait(self, seconds: float) -> tuple[Recipe, NamedArrays | None]:
        recipe, seconds, model = self._next
        try:
            return recipe, self._runner.run(recipe, seconds, model)
        except LateError:
            return recipe, None


@dataclass(frozen=True)
class _Task:
    """A trial on an executor; without a recipe, a worker only loads the model."""

    recipe: Recipe | None
    end: float  # by time.monotonic
    start: np.ndarray | None = None
    attempts: int = 1


class _OnExecutor:
    def __init__(self, executor: Executor, key: str, file: Path) -> None:
        self._executor, self._key, self._file = executor, key, file
        self._running: dict[Future, _Task] = {}
        self._calls = 0

    def check(self, jobs: int, seconds: float) -> None:
        """Let as many workers as there are jobs load the model, so that refusals come before the first trial."""
        end = time.monotonic() + seconds
        for _ in range(jobs):
            self._submit(_Task(None, end))
        while self._running:
            _, arrays = self._next(end)
            if arrays is None or "trial" in arrays:
                reason = "no answer in time" if arrays is None else json.loads(str(arrays["trial"]))["reason"]
                raise ValueError(
                    f"Expected workers that load the model and the data. Received: {reason.removesuffix('.')}. Start "
                    f"workers first, with the Python environment of this process and enough memory."
                )

    def close(self) -> None:
        """Take back what was submitted; a task that runs ends by itself."""
        for future in self._running:
            future.cancel()

    def start(self, recipe: Recipe, seconds: float, model: np.ndarray | None) -> None:
        self._submit(_Task(recipe, time.monotonic() + seconds, model))

    def wait(self, seconds: float) -> tuple[Recipe, NamedArrays | None]:
        task, arrays = self._next(time.monotonic() + seconds)
        assert task.recipe is not None
        return task.recipe, arrays

    def _submit(self, task: _Task, content: bytes | None = None) -> None:
        recipe = "" if task.recipe is None else json.dumps(task.recipe.as_dict())
        self._calls += 1
        try:
            future = self._executor.submit(
                run_task,
                self._key,
                str(self._file),
                call=self._calls,
                content=content,
                expected=json.dumps(versions()),
                recipe=recipe,
                seconds=task.end - time.monotonic(),
                start=task.start,
            )
        except (RuntimeError, OSError) as error:
            raise ValueError(
                f"Expected an executor that takes tasks. Received: {_reason(error)}. A standard pool takes none "
                f"after a process of it died, out of memory for example: make a new one. {KEPT}"
            ) from error
        self._running[future] = task

    def _next(self, end: float) -> tuple[_Task, NamedArrays | None]:
        """Return the next task that ends, and its arrays; None for one that is late."""
        while True:
            done, _ = wait(self._running, timeout=max(0.0, end - time.monotonic()), return_when=FIRST_COMPLETED)
            future = next((each for each in self._running if each in done), None)
            if future is None:
                future, task = next(iter(self._running.items()))
                future.cancel()
                del self._running[future]
                return task, None
            task = self._running.pop(future)
            if future.cancelled():
                raise ValueError(
                    f"Expected an executor that runs its tasks. Received: it canceled one, as when a scheduler is "
                    f"lost. Start the cluster again. {KEPT}"
                )
            failure = _reason(future.exception())
            if failure and task.attempts == MOST_ATTEMPTS:
                reason = f"Expected a worker that ends the trial. Received, {MOST_ATTEMPTS} times: {failure}."
                return task, Trial(task.recipe, (), 0.0, 0.0, reason).stored([])
            if failure:
                _log.warning("A worker failed, and its trial is run once more: %s", failure)
                self._submit(replace(task, attempts=task.attempts + 1))
                continue
            answer, result = future.result()
            if answer == REFUSED:
                raise ValueError(f"{result} {KEPT}")
            if answer == NO_DATA:
                self._submit(task, self._file.read_bytes())
                continue
            return task, result if answer == DONE else None


def _reason(error: BaseException | None) -> str:
    """Return an error in one line of bounded length; empty for None."""
    if error is None:
        return ""
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(".")
    return shortened(text, LONGEST_REASON)
