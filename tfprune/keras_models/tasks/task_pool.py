"""Submit tasks to an executor: data are sent once to each worker, and a task whose worker dies is run once more."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from tfprune.base.spec import check_count
from tfprune.base.untrusted import LONGEST_REASON
from tfprune.keras_models.tasks.process_pool import ProcessPool
from tfprune.keras_models.tasks.run_task import NO_DATA, REFUSED, Opened, run_task, versions
from tfprune.report import shortened

_log = logging.getLogger(__name__)
MOST_ATTEMPTS = 2
START_SECONDS = 600.0  # in which workers have to load the model, if the caller sets no limit
LATE = "no answer in time"


def check_executor(executor: Any, *, jobs: int | None) -> None:
    """Check where tasks run, and how many run at once.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If `jobs` is below 1, or an executor comes without it.
    """
    if jobs is not None:
        check_count(jobs, "jobs", least=1)
    if executor is None:
        return
    if not isinstance(executor, Executor):
        raise TypeError(
            f"Expected `executor` to be a concurrent.futures.Executor, or None. Received: executor={executor!r} of "
            f"type {type(executor).__name__}. Of a Dask client, pass client.get_executor()."
        )
    if jobs is None:
        raise ValueError(
            "Expected `jobs` beside `executor`, which does not tell how many workers it has. Received: jobs=None. "
            "Pass the number of workers."
        )


@dataclass(frozen=True, eq=False)
class Task:
    """A call of a function in a worker.

    Attributes:
        work: A function of a module. It gets the state that all tasks share, and `arguments`. None only opens the
            state.
        arguments: Arguments by name, of values that can be pickled.
        end: When it is late, by `time.monotonic`; the seconds until then are one more argument. None is never.
    """

    work: Callable[..., Any] | None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    end: float | None = None


@dataclass(frozen=True)
class TaskResult:
    """How a task ended.

    Attributes:
        task: The task.
        value: What `work` returned.
        failure: Why it returned nothing: `LATE`, or the error of its last attempt; else empty.
    """

    task: Task
    value: Any = None
    failure: str = ""


def run_tasks(
    work: Callable[..., Any],
    calls: Sequence[Mapping[str, Any]],
    *,
    state: Any,
    pack: Callable[[Any], bytes],
    opened: Opened,
    jobs: int | None,
    executor: Executor | None,
) -> Iterator[tuple[int, Any]]:
    """Yield the index and the result of each call, in the order in which they end.

    Args:
        work: As in a `Task`.
        calls: The arguments of each call, by name.
        state: What all calls share, in this process.
        pack: Turns the state into bytes.
        opened: Turns the bytes into the state, in a worker.
        jobs: How many calls run at once; None is 1.
        executor: Where they run. None is this process, or for several at once processes that end with the last call.

    Raises:
        ValueError: If the state cannot be sent, or a worker cannot do a task.
        TypeError: If the data cannot be sent.
    """
    jobs = min(jobs or 1, max(1, len(calls)))
    if jobs == 1 and executor is None:
        for index, arguments in enumerate(calls):
            yield index, work(state, **arguments)
        return
    with tempfile.TemporaryDirectory(prefix="tfprune-") as folder:
        file = Path(folder, "state")
        file.write_bytes(pack(state))
        with task_pool(file, opened, jobs=jobs, executor=executor) as pool:
            left, indices = iter(enumerate(calls)), dict[Task, int]()
            while True:
                while len(indices) < jobs and (call := next(left, None)) is not None:
                    indices[pool.submit(Task(work, call[1]))] = call[0]
                if not indices:
                    return
                result = pool.next_result()
                if result.failure:
                    raise ValueError(f"Expected workers that end their tasks. Received: {result.failure}.")
                yield indices.pop(result.task), result.value


@contextmanager
def task_pool(
    file: Path,
    opened: Opened,
    *,
    jobs: int,
    executor: Executor | None,
    seconds: float = START_SECONDS,
    advice: str = "",
) -> Iterator[TaskPool]:
    """Yield a pool for up to `jobs` tasks at once, whose workers have opened the state.

    Args:
        file: The packed state.
        opened: Turns its bytes into the state, in a worker.
        jobs: How many tasks run at once.
        executor: Where they run; None starts processes of this machine, which end with the block.
        seconds: How long workers may take to open the state.
        advice: A sentence for errors: what was kept, and what to do.

    Raises:
        ValueError: If a worker cannot run tasks.
    """
    with ExitStack() as stack:
        if executor is None:
            environment = {"KERAS_BACKEND": keras.config.backend()}
            executor = stack.enter_context(ProcessPool(jobs, environment=environment))
        pool = stack.enter_context(closing(TaskPool(executor, file, opened, advice=advice)))
        pool.check(jobs, seconds)
        yield pool


class TaskPool:
    """Submits tasks that share a state, and returns their results as they end.

    Args:
        executor: Where tasks run.
        file: The packed state.
        opened: Turns its bytes into the state, in a worker.
        advice: A sentence for errors.
    """

    def __init__(self, executor: Executor, file: Path, opened: Opened, *, advice: str = "") -> None:
        self._executor, self._file, self._opened, self._advice = executor, file, opened, advice
        self._key = hashlib.sha256(file.read_bytes()).hexdigest()
        self._running: dict[Future, tuple[Task, int]] = {}  # each with the number of its attempts
        self._calls = 0

    def check(self, jobs: int, seconds: float) -> None:
        """Let as many workers as there are jobs open the state, so that refusals come before the first task.

        Raises:
            ValueError: If one of them cannot.
        """
        end = time.monotonic() + seconds
        for _ in range(jobs):
            self.submit(Task(None))
        while self._running:
            if failure := self.next_result(end - time.monotonic()).failure:
                raise ValueError(
                    f"Expected workers that load the model and the data. Received: {failure}. Start workers first, "
                    f"with the Python environment of this process and enough memory."
                )

    def close(self) -> None:
        """Take back what was submitted; a task that runs ends by itself."""
        for future in self._running:
            future.cancel()

    def submit(self, task: Task) -> Task:
        """Submit a task, and return it.

        Raises:
            ValueError: If the executor takes no more tasks.
        """
        self._submit(task)
        return task

    def next_result(self, seconds: float = math.inf) -> TaskResult:
        """Return how the next task ends.

        Args:
            seconds: How long to wait; a task that has not ended then is late.

        Raises:
            ValueError: If a worker refuses tasks, or the executor cancels them.
        """
        end = time.monotonic() + seconds
        while True:
            left = None if math.isinf(end) else max(0.0, end - time.monotonic())
            done, _ = wait(self._running, timeout=left, return_when=FIRST_COMPLETED)
            future = next((each for each in self._running if each in done), None)
            if future is None:
                future, (task, _) = next(iter(self._running.items()))
                future.cancel()
                del self._running[future]
                return TaskResult(task, failure=LATE)
            task, attempts = self._running.pop(future)
            if future.cancelled():
                raise ValueError(
                    f"Expected an executor that runs its tasks. Received: it canceled one, as when a scheduler is "
                    f"lost. Start the cluster again. {self._advice}".rstrip()
                )
            if result := self._result(future, task, attempts):
                return result

    def _result(self, future: Future, task: Task, attempts: int) -> TaskResult | None:
        """Return how a task ended; None if it was submitted again."""
        failure = _reason(future.exception())
        if failure and attempts == MOST_ATTEMPTS:
            return TaskResult(task, failure=f"{MOST_ATTEMPTS} times: {failure}")
        if failure:
            _log.warning("A worker failed, and its task is run once more: %s", failure)
            self._submit(task, attempts=attempts + 1)
            return None
        answer, value = future.result()
        if answer == REFUSED:
            raise ValueError(f"{value} {self._advice}".rstrip())
        if answer == NO_DATA:
            self._submit(task, attempts=attempts, content=self._file.read_bytes())
            return None
        return TaskResult(task, value)

    def _submit(self, task: Task, *, attempts: int = 1, content: bytes | None = None) -> None:
        self._calls += 1
        try:
            future = self._executor.submit(
                run_task,
                self._key,
                str(self._file),
                call=self._calls,
                content=content,
                expected=json.dumps(versions()),
                opened=self._opened,
                work=task.work,
                arguments=task.arguments,
                seconds=None if task.end is None else task.end - time.monotonic(),
            )
        except (RuntimeError, OSError) as error:
            raise ValueError(
                f"Expected an executor that takes tasks. Received: {_reason(error)}. A standard pool takes none "
                f"after a process of it died, out of memory for example: make a new one. {self._advice}".rstrip()
            ) from error
        self._running[future] = task, attempts


def _reason(error: BaseException | None) -> str:
    """Return an error in one line of bounded length; empty for None."""
    if error is None:
        return ""
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(".")
    return shortened(text, LONGEST_REASON)
