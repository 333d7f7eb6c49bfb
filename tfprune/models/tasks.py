"""Calls of a function of a model and data, run on any executor, here or on other machines.

Model and data are packed once, as bytes of Keras and NumPy, nothing pickled. A worker answers a call with a result,
or asks for the data first. A call whose worker dies is run once more. Without an executor, processes of this
machine are started, or the calls run in this process. Start at `run_tasks`.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import logging
import math
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

import tfprune
from tfprune.base.folders import (
    LONGEST_REASON,
    UNREADABLE,
    TemporaryFolder,
    checksum,
    parse_json,
    read_arrays,
    read_data,
)
from tfprune.base.output import ProcessPool
from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_count
from tfprune.report import shortened

# Pack a model, arrays and settings into bytes that another process reads; nothing is pickled.

WITHOUT_WORKERS = "Leave out `jobs` and `executor`."


class PackedModel(NamedTuple):
    """The message that workers get.

    Attributes:
        model: A compiled model.
        arrays: Arrays in nested dicts, lists and tuples; tuples arrive as lists.
        settings: Values of JSON.
    """

    model: keras.Model
    arrays: Any
    settings: dict[str, Any]


def pack_model(packed: PackedModel) -> bytes:
    """Return the model, the arrays and the settings as bytes.

    Raises:
        TypeError: If the arrays hold Python objects.
        ValueError: If Keras cannot save the model.
    """
    arrays: list[np.ndarray] = []

    def number(array: Any) -> int:
        arrays.append(np.asarray(array))
        return len(arrays) - 1

    structure = keras.tree.map_structure(number, packed.arrays)
    if objects := [array.dtype for array in arrays if array.dtype.hasobject]:
        raise TypeError(
            f"Expected data that can be sent to workers. Received: an array with dtype {objects[0]}, which holds "
            f"Python objects. Turn it into numbers. {WITHOUT_WORKERS}"
        )
    model = packed.model
    with TemporaryFolder() as folder:
        path = Path(folder, "model.keras")
        try:
            model.save(path)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ValueError(
                f"Expected a model that Keras can save, so that workers can load it. Received: {model.name!r}:"
                f" {str(error).removesuffix('.')}. {WITHOUT_WORKERS}"
            ) from error
        content = np.frombuffer(path.read_bytes(), np.uint8)
    stored: dict[str, Any] = {str(index): array for index, array in enumerate(arrays)}
    texts = {"structure": structure, "settings": packed.settings}
    stream = io.BytesIO()
    np.savez(stream, **stored, model=content, texts=np.array(json.dumps(texts)))
    return stream.getvalue()


def unpack_model(content: bytes) -> PackedModel:
    """Return what `pack_model` turned into bytes in another process.

    Raises:
        ValueError: If Keras cannot load the model here.
    """
    arrays = read_arrays(io.BytesIO(content))
    texts = parse_json(str(arrays["texts"]).encode())
    with TemporaryFolder() as folder:
        path = Path(folder, "model.keras")
        path.write_bytes(arrays["model"].tobytes())
        try:
            model = keras.saving.load_model(path)
        except UNREADABLE as error:
            reason = shortened(" ".join(str(error).split()).removesuffix("."), LONGEST_REASON)
            raise ValueError(
                f"Expected workers that can load the model. Received, on {platform.node()}: {reason}. Its classes "
                f"have to stand in modules that workers can import, not in the main program or a notebook. Move them "
                f"into a module that is installed there. {WITHOUT_WORKERS}"
            ) from error
    return PackedModel(
        model, keras.tree.map_structure(lambda index: arrays[str(index)], texts["structure"]), texts["settings"]
    )


# References to functions, classes and data, which workers look up themselves instead of getting them.


def import_path(thing: Any, *, expected: str) -> str:
    """Return the path by which another process imports a function or class, `"module:name"`.

    Args:
        thing: The function or class.
        expected: What it is, for the message.

    Raises:
        ValueError: If another process cannot import it.
    """
    path = f"{getattr(thing, '__module__', None)}:{getattr(thing, '__qualname__', type(thing).__qualname__)}"
    try:
        is_there = not path.startswith("__main__:") and _imported(path) is thing
    except (ImportError, AttributeError, ValueError):
        is_there = False
    if not is_there:
        raise ValueError(
            f"Expected {expected} that workers can import. Received: {path!r}. Move it to the top of a module that "
            f"is installed on each worker: workers import neither lambdas and inner functions nor the main program. "
            f"{WITHOUT_WORKERS}"
        )
    return path


def imported(path: str, *, expected: str) -> Any:
    """Return the function or class of a path.

    Args:
        path: What `import_path` returned in another process.
        expected: What it is, for the message.

    Raises:
        ValueError: If it cannot be imported here.
    """
    try:
        return _imported(path)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"Expected workers that can import {expected}. Received, on {platform.node()}: {path!r}: {error}. "
            f"Install its module there. {WITHOUT_WORKERS}"
        ) from error


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    return attrgetter(name)(importlib.import_module(module))


@dataclass(frozen=True)
class DataReference:
    """Data that each worker reads itself.

    Attributes:
        source: A function without arguments, or the path of an .npz file with the arrays `x` and `y`.
        argument: What the user calls the data.
    """

    source: Any
    argument: str = "data"

    @classmethod
    def of(cls, data: Any, *, argument: str = "data") -> DataReference | None:
        """Return a reference if data are given as a path or a function; None if they are data."""
        is_data = hasattr(data, "__iter__") or hasattr(data, "__getitem__")
        if isinstance(data, str | os.PathLike):
            return cls(Path(data).resolve(), argument)
        return cls(data, argument) if callable(data) and not is_data else None

    def load(self) -> Any:
        """Return the data: what the function returns, or the tuple (x, y) of the file.

        Raises:
            ValueError: If the file or what the function reads cannot be read.
        """
        try:
            if not isinstance(self.source, Path):
                return self.source()
            arrays = read_data(self.source, only=("x", "y"))
            if isinstance(arrays, np.ndarray):
                raise TypeError("one array")
            return arrays["x"], arrays["y"]
        except UNREADABLE as error:
            reason = shortened(" ".join(str(error).split()).removesuffix(".") or type(error).__name__, LONGEST_REASON)
            raise ValueError(
                f"Expected `{self.argument}` to be an .npz file with the arrays x and y, or a function that returns "
                f"(x, y). Received, on {platform.node()}: {self.source!s}: {reason}. Each worker has to see "
                f"the file, or the files that the function reads."
            ) from error

    def settings(self) -> dict[str, str]:
        """Return the reference as values of JSON.

        Raises:
            ValueError: If workers cannot import the function.
        """
        if isinstance(self.source, Path):
            return {"argument": self.argument, "file": str(self.source)}
        path = import_path(self.source, expected=f"a function in `{self.argument}`")
        return {"argument": self.argument, "function": path}

    @classmethod
    def read(cls, settings: dict[str, str]) -> DataReference:
        """Return the reference of which `settings` were made in another process.

        Raises:
            ValueError: If the function cannot be imported here.
        """
        argument = settings["argument"]
        if "file" in settings:
            return cls(Path(settings["file"]), argument)
        return cls(imported(settings["function"], expected=f"the function of `{argument}`"), argument)


def referred(reference: DataReference, data: Any) -> dict[str, Any]:
    """Return where a worker finds data, as values of JSON, with the checksum of what was read there.

    Args:
        reference: The reference.
        data: Its arrays, in any structure.

    Raises:
        ValueError: If workers cannot import the function.
    """
    return {"reference": reference.settings(), "checksum": checksum(keras.tree.flatten(data))}


def read_referred(settings: dict[str, Any], read: Callable[[Any], Any]) -> Any:
    """Read the data again that `referred` has described in another process.

    Args:
        settings: What it returned there.
        read: Turns what the user's function returns into the structure of arrays.

    Raises:
        ValueError: If the data cannot be read here, or are others.
    """
    reference = DataReference.read(settings["reference"])
    data = read(reference.load())
    if checksum(keras.tree.flatten(data)) != settings["checksum"]:
        raise ValueError(
            f"Expected the same `{reference.argument}` on each worker. Received, on {platform.node()}: others from "
            f"{reference.source!s} than were read at the start. Copy the data, or pass a function that always "
            f"returns the same."
        )
    return data


# A task as any executor can send it: a call of a function of the library, which runs in a worker.
#
# The state that all tasks share, such as a model and data, is packed once. A worker reads it from a file if it sees
# that, or else asks for it and gets it with a task; it keeps it for the tasks that follow.

_DONE, _NO_DATA, _REFUSED = "done", "no data", "refused"  # what a task may answer
_Answer = tuple[str, Any]
_Opened = Callable[[bytes], Any]

_states: dict[tuple[_Opened, str], Any] = {}  # in a worker: the latest one, by the hash of what it was packed into
_busy = threading.Lock()


def _versions() -> dict[str, str]:
    """Return what has to be the same in all processes that share tasks."""
    backend = keras.config.backend()
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "tfprune": tfprune.__version__,
        "Keras": keras.__version__,
        "NumPy": np.__version__,
        "backend": f"{backend} {getattr(sys.modules.get(backend), '__version__', '')}",
    }


def _run_task(
    key: str,
    file: str,
    *,
    call: int,
    content: bytes | None,
    expected: str,
    opened: _Opened,
    work: Callable[..., Any] | None,
    arguments: Mapping[str, Any],
    seconds: float | None,
) -> _Answer:
    """Run a task in this process, which is a worker.

    Args:
        key: The hash of the packed state.
        file: Where that lies, if this machine sees it.
        call: The number of the call: Dask would answer the same call from memory.
        content: The packed state itself, after this worker has asked for it; else None.
        expected: The versions of the process that waits, in JSON.
        opened: Turns the packed state into the first argument of `work`.
        work: Does the task, with the state and `arguments`; None only opens the state.
        arguments: Further arguments of `work`, by name.
        seconds: How long the task may take, from now; what is left of it is one more argument. None for any time.

    Returns:
        What came of it, and the result of `work`, or the reason for refusing it.
    """
    began = time.monotonic()
    if not _busy.acquire(blocking=False):
        return _REFUSED, (
            "Expected one task at a time in a process. Received: another one on a second thread. Give each worker "
            "one thread, or pass jobs=1."
        )
    try:
        if other := _differences(json.loads(expected)):
            return _REFUSED, (
                f"Expected workers with the packages of the process that waits for them. Received: {other} on "
                f"{platform.node()}. Install the same versions there."
            )
        try:
            is_open = _open(key, file, content=content, opened=opened)
        except ValueError as error:
            return _REFUSED, str(error)
        if not is_open:
            return _NO_DATA, None
        if work is None:
            return _DONE, None
        left = {} if seconds is None else {"seconds": seconds - (time.monotonic() - began)}
        return _DONE, work(_states[opened, key], **arguments, **left)
    finally:
        _busy.release()


def _differences(expected: Mapping[str, str]) -> str:
    own = _versions()
    differ = [name for name in expected if own.get(name) != expected[name]]
    return ", ".join(f"{name} {own.get(name)} instead of {expected[name]}" for name in differ)


def _open(key: str, file: str, *, content: bytes | None, opened: _Opened) -> bool:
    """Open the state from memory, the task or the file; return False if this worker has to ask for it."""
    if (opened, key) in _states:
        return True
    if content is None:
        with suppress(OSError):
            content = Path(file).read_bytes()
    if content is None or hashlib.sha256(content).hexdigest() != key:
        return False
    _states.clear()
    _states[opened, key] = opened(content)
    return True


# Submit tasks to an executor: data are sent once to each worker, and a task whose worker dies is run once more.

_log = logging.getLogger(__name__)
_MOST_ATTEMPTS = 2
_START_SECONDS = 600.0  # in which workers have to load the model, if the caller sets no limit
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
        raise ArgumentTypeError(
            "executor",
            "`executor` to be a concurrent.futures.Executor, or None",
            f"{executor!r} of type {type(executor).__name__}",
            advice="Of a Dask client, pass client.get_executor().",
        )
    if jobs is None:
        raise ArgumentError(
            "jobs",
            "`jobs` beside `executor`, which does not tell how many workers it has",
            "None",
            advice="Pass the number of workers.",
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
class _TaskResult:
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
    opened: _Opened,
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
    with TemporaryFolder() as folder:
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
    opened: _Opened,
    *,
    jobs: int,
    executor: Executor | None,
    seconds: float = _START_SECONDS,
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

    def __init__(self, executor: Executor, file: Path, opened: _Opened, *, advice: str = "") -> None:
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

    def next_result(self, seconds: float = math.inf) -> _TaskResult:
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
                return _TaskResult(task, failure=LATE)
            task, attempts = self._running.pop(future)
            if future.cancelled():
                raise ValueError(
                    f"Expected an executor that runs its tasks. Received: it canceled one, as when a scheduler is "
                    f"lost. Start the cluster again. {self._advice}".rstrip()
                )
            if result := self._result(future, task, attempts):
                return result

    def _result(self, future: Future, task: Task, attempts: int) -> _TaskResult | None:
        """Return how a task ended; None if it was submitted again."""
        failure = _reason(future.exception())
        if failure and attempts == _MOST_ATTEMPTS:
            return _TaskResult(task, failure=f"{_MOST_ATTEMPTS} times: {failure}")
        if failure:
            _log.warning("A worker failed, and its task is run once more: %s", failure)
            self._submit(task, attempts=attempts + 1)
            return None
        answer, value = future.result()
        if answer == _REFUSED:
            raise ValueError(f"{value} {self._advice}".rstrip())
        if answer == _NO_DATA:
            self._submit(task, attempts=attempts, content=self._file.read_bytes())
            return None
        return _TaskResult(task, value)

    def _submit(self, task: Task, *, attempts: int = 1, content: bytes | None = None) -> None:
        self._calls += 1
        try:
            future = self._executor.submit(
                _run_task,
                self._key,
                str(self._file),
                call=self._calls,
                content=content,
                expected=json.dumps(_versions()),
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
