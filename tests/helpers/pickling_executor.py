"""An executor that runs tasks in this process, each pickled before, as one with processes does."""

from __future__ import annotations

import os
import pickle
import signal
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import suppress
from pathlib import Path


class PicklingExecutor(Executor):
    """Runs a task when it is submitted; `deaths` tasks after the first `checks` end as if their worker had died.

    With `is_far`, the worker sees no file of the process that submits.
    """

    def __init__(self, *, checks: int = 1, deaths: int = 0, is_far: bool = False) -> None:
        self.sizes, self.checks, self.deaths, self.is_far = [], checks, deaths, is_far

    def submit(self, function, /, *args, **kwargs):
        future: Future = Future()
        key, file = args
        content = pickle.dumps((function, (key, "nowhere" if self.is_far else file), kwargs))
        self.sizes.append(len(content))
        if self.checks < len(self.sizes) <= self.checks + self.deaths:
            future.set_exception(BrokenExecutor("a worker ended"))
        else:
            function, args, kwargs = pickle.loads(content)
            future.set_result(function(*args, **kwargs))
        return future


def die_once(state: object, *, marker: str, number: int) -> int:
    """Return the square of a number; the first process to get 3 kills itself."""
    if number == 3:
        with suppress(FileExistsError):
            Path(marker).touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
    return number**2
