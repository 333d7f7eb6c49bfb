"""A pool of processes that do not run the user's program again, end with it, and are replaced when they die."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import types
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

END_SECONDS = 10  # in which a process that broke its pool has ended
THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
_starting = threading.Lock()


class ProcessPool(Executor):
    """An executor of child processes, each of which has its share of the processors.

    Each process is a pool of its own, so that a process that dies fails one task only; the next task gets a new one.

    Args:
        workers: The number of processes, each started by the first task that finds none idle.
        environment: Environment variables of the processes.
    """

    def __init__(self, workers: int, *, environment: Mapping[str, str]) -> None:
        share = str(max(1, (os.cpu_count() or 1) // workers))
        self._environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **dict.fromkeys(THREADS, share), **environment}
        self._free: queue.LifoQueue[_Process | None] = queue.LifoQueue()  # None: a process that is not started yet
        self._started: list[_Process] = []
        for _ in range(workers):
            self._free.put(None)

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Run a function of a module in an idle process; wait until one is idle.

        Returns:
            A future. If the process dies, its exception says what ended it, such as SIGKILL.
        """
        process = self._free.get()
        if process is None:
            process = _Process(self._environment)
            self._started.append(process)
        future: Future = Future()
        future.set_running_or_notify_cancel()  # the process has begun
        inner = process.pool.submit(function, *args, **kwargs)
        inner.add_done_callback(partial(self._release, process, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End all processes, also those that have a task: a pool that is left early waits for no task."""
        for process in self._started:
            process.end()

    def _release(self, process: _Process, future: Future, inner: Future) -> None:
        error = CancelledError() if inner.cancelled() else inner.exception()
        is_dead = isinstance(error, BrokenProcessPool)
        self._free.put(None if is_dead else process)
        if is_dead:
            future.set_exception(BrokenProcessPool(f"its process {process.ending()}"))
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(inner.result())


class _Process:
    """One process, which ends as soon as this object closes its pipe or the whole program has ended."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._context = _Context()
        reader, self._writer = self._context.Pipe(duplex=False)
        self.pool = ProcessPoolExecutor(
            1, mp_context=self._context, initializer=_begin, initargs=(reader, dict(environment))
        )

    def ending(self) -> str:
        """Return what ended the process, as the end of a sentence about it."""
        self._context.started.join(END_SECONDS)
        code = self._context.started.exitcode
        if code is None or code >= 0:
            return "stopped answering" if code is None else f"ended with exit code {code}"
        name = {each.value: each.name for each in signal.Signals}.get(-code, f"signal {-code}")
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")

    def end(self) -> None:
        self._writer.close()
        self.pool.shutdown(wait=True, cancel_futures=True)


class _SpawnProcess(SpawnProcess):
    def start(self) -> None:
        """Start without the main module: a script without `if __name__ == "__main__"` would run once more."""
        with _starting:
            main, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
            try:
                super().start()
            finally:
                sys.modules["__main__"] = main


class _Context(SpawnContext):
    """Starts the process of one pool, and remembers it for its exit code."""

    started: SpawnProcess

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        self.started = _SpawnProcess(*args, **kwargs)
        return self.started


def _begin(reader: Connection, environment: Mapping[str, str]) -> None:
    """Set variables before any package is imported, and wait in a thread for the end of the program."""
    os.environ.update(environment)
    with Path(os.devnull).open("wb") as nowhere:  # TensorFlow writes to both, whatever its log level
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    threading.Thread(target=_wait_and_end, args=(reader,), daemon=True).start()


def _wait_and_end(reader: Connection) -> None:
    with suppress(EOFError, OSError):
        reader.recv_bytes()
    os._exit(1)
