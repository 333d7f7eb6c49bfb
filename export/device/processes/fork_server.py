"""Keep a Python that has imported a large package, and let it fork for each job: seconds for each but the first."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

FORK_SERVER_CHILD = "tfprune.export.device.processes.fork_server_child"
# Elsewhere forking a process that has imported a large package is not safe, or not possible.
CAN_FORK = sys.platform == "linux"
READ_AT_IMPORT = ("TF_", "XLA_", "CUDA_", "KERAS_", "LD_", "OMP_", "OPENBLAS_")  # a change needs a new process


class ForkServer:
    """One Python process that imports a package and then waits for jobs.

    Args:
        package: Name of the package.
        environment: All of the environment variables of the process.
    """

    def __init__(self, package: str, environment: Mapping[str, str]) -> None:
        self._key = _read_at_import(environment)
        watched, self._lifeline = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", FORK_SERVER_CHILD, package, str(watched)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(watched,),
            env=environment,
        )
        os.close(watched)

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Return whether it still waits, and is what a new one would be."""
        return self._process.poll() is None and self._key == _read_at_import(environment)

    def run(self, job: Mapping[str, Any], *, timeout: float, each_second: Callable[[], None] | None = None) -> int:
        """Return the exit code of the process that did the job, negative if it was killed.

        Raises:
            EOFError: If there is nobody any more who could begin the job.
            TimeoutError: If it took too long. It was killed.
        """
        assert self._process.stdin is not None
        end, code = time.monotonic() + timeout, None
        try:
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise EOFError from error
        child = self._answer(end, each_second)
        try:
            code = self._answer(end, each_second)
        finally:
            if code is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        return code

    def _answer(self, end: float, each_second: Callable[[], None] | None) -> int:
        assert self._process.stdout is not None
        while not select.select([self._process.stdout], [], [], min(1.0, max(0.0, end - time.monotonic())))[0]:
            if time.monotonic() >= end:
                raise TimeoutError
            if each_second is not None:
                each_second()
        line = self._process.stdout.readline()
        if not line:
            raise EOFError
        return int(line)

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError), self._process as process:
            process.kill()
        os.close(self._lifeline)


_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
_waiting: dict[str, ForkServer] = {}  # by package


def run_forked(
    package: str, job: Mapping[str, Any], *, timeout: float, each_second: Callable[[], None] | None = None
) -> int | None:
    """Run a job in a fork of the process that has the package imported, which is started if there is none.

    Args:
        package: What the process has imported, such as `"tensorflow"`.
        job: `work`, `folder`, `environment`, `path` (sys.path) and `here` (the working directory).
        timeout: Seconds after which the job is killed.
        each_second: Called once in each second that it runs.

    Returns:
        The exit code of the job, negative if it was killed; None if it has to be done in another way.

    Raises:
        TimeoutError: If it took too long. It was killed.
    """
    lock = _locks[package]
    if not CAN_FORK or not lock.acquire(blocking=False):
        return None
    try:
        with _borrowed(package, job["environment"]) as process:
            return process.run(job, timeout=timeout, each_second=each_second)
    except EOFError:
        return None
    finally:
        lock.release()


@contextlib.contextmanager
def _borrowed(package: str, environment: Mapping[str, str]) -> Iterator[ForkServer]:
    """Give the process that waits, or a new one; one that did not end its job does not wait again."""
    process = _waiting.pop(package, None)
    if process is not None and not process.fits(environment):
        process.close()
        process = None
    if process is None:
        process = ForkServer(package, environment)
    with contextlib.ExitStack() as unless_it_ends:
        unless_it_ends.callback(process.close)
        yield process
        unless_it_ends.pop_all()
        _waiting[package] = process


def _read_at_import(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(READ_AT_IMPORT)}


def _end() -> None:
    while _waiting:
        _waiting.popitem()[1].close()


atexit.register(_end)
if CAN_FORK:
    os.register_at_fork(after_in_child=_waiting.clear)  # it is the parent's
