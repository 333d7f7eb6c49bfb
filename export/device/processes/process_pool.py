"""A pool of processes that do not run the user's program again, end with it, and are replaced when they die."""

from __future__ import annotations

import os
import queue
import sys
import threading
import types
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

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
        """Run a function of a module in an idle process; wait until one is idle."""
        process = self._free.get()
        if process is None:
            process = _Process(self._environment)
            self._started.append(process)
        future = process.pool.submit(function, *args, **kwargs)
        future.add_done_callback(partial(self._release, process))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End all processes, also those that have a task: a pool that is left early waits for no task."""
        for process in self._started:
            process.end()

    def _release(self, process: _Process, future: Future) -> None:
        is_dead = not future.cancelled() and isinstance(future.exception(), BrokenProcessPool)
        self._free.put(None if is_dead else process)


class _Process:
    """One process, which ends as soon as this object closes its pipe or the whole program has ended."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        context = _Context()
        reader, self._writer = context.Pipe(duplex=False)
        self.pool = ProcessPoolExecutor(
            1, mp_context=context, initializer=_begin, initargs=(reader, dict(environment))
        )

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
    Process = _SpawnProcess


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
