"""The process that has a package imported and forks for each job: the other side of `fork_server`."""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tfprune.export.device.processes.end_with_parent import call_work, end_with_parent

OUTPUT = "output.txt"  # in the folder of a job: what its process says
IDLE_SECONDS = 60.0  # seconds without a job, after which the memory is given back
WATCH_SECONDS = 0.2  # between two looks at the parent


def next_job(lifeline: int) -> dict[str, Any]:
    """Wait for jobs and fork for each; return the job in the child that has to do it.

    The process itself never returns from here: it ends when nothing has come for `IDLE` seconds, or nobody is left to
    ask.

    Args:
        lifeline: A pipe to which nothing is written. That it closes tells the child that the parent is gone.
    """
    while select.select([sys.stdin], [], [], IDLE_SECONDS)[0]:
        line = sys.stdin.buffer.readline()
        if not line:
            break
        child = os.fork()
        if child == 0:
            job: dict[str, Any] = json.loads(line)
            _become(job, lifeline)
            return job
        _tell(child)
        _tell(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os._exit(0)


def _become(job: dict[str, Any], lifeline: int) -> None:
    """Turn a fork into what `python -m` would have started."""
    output = os.open(Path(job["folder"], OUTPUT), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for source, target in ((lifeline, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["here"])
    sys.path[:] = job["path"]


@contextmanager
def _ending_with_parent(lifeline: int) -> Iterator[None]:
    """End within a block when the parent is gone; no thread is left behind it, because none would be in a fork."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(WATCH_SECONDS):
            if select.select([lifeline], [], [], 0)[0]:
                os._exit(0)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _tell(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # that of the terminal is for the child
    with _ending_with_parent(int(sys.argv[2])):
        importlib.import_module(sys.argv[1])
    gc.freeze()  # what is never looked at is never copied
    job = next_job(int(sys.argv[2]))
    end_with_parent(Path(job["folder"]))
    call_work(job["work"], Path(job["folder"]))
