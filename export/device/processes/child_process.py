"""Run one of our functions in a process of its own, where a crash can be caught and reported.

The job travels in a folder that the caller owns (`job_files`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tfprune.export.device.processes.end_with_parent import REASON
from tfprune.export.device.processes.fork_server import run_forked
from tfprune.export.device.processes.fork_server_child import OUTPUT

STARTER = "tfprune.export.device.processes.end_with_parent"
Work = Callable[[Path], None] | str  # a function of a module, by itself or as `module:function`
OUTPUT_TAIL = 20_000  # characters: enough for a traceback, little enough for an error message


@dataclass(frozen=True)
class Completed:
    """How a child process ended.

    Attributes:
        ok: True when it exited with code 0.
        reason: Why it did not, in one sentence; empty when `ok`.
        output: The end of what it wrote to stdout and stderr.
    """

    ok: bool
    reason: str
    output: str


def run_job(
    work: Work,
    folder: str | os.PathLike[str],
    *,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    package: str | None = None,
    each_second: Callable[[], None] | None = None,
) -> Completed:
    """Call `work(folder)` in a new process and wait; whatever happens to the child is reported, not raised.

    Args:
        work: The function, or its name as `module:function`. The text of a ValueError or TypeError that it raises is
            the reason.
        folder: Where the job's files lie and the results go. The caller removes it; if the caller is killed, the
            child does, and ends.
        timeout: Seconds after which the child is killed.
        environment: Environment variables of the child besides those of this process.
        package: A package that the module needs and that is slow to import: on Linux a process that has imported it
            waits for the next job, and ends when a minute has passed, or this process has ended.
        each_second: Called once in each second that it runs, to move a bar.

    Returns:
        Whether it ended well and, if not, why: `killed by SIGSEGV`, `did not finish in 120 s`, or the
        message of the error raised in the child, without its final period.
    """
    folder = Path(folder)
    variables = {**_environment(), **(environment or {})}
    try:
        code = None
        if package:
            place = {"folder": str(folder.absolute()), "here": str(Path.cwd()), "path": _paths()}
            job = {"work": name_of(work), "environment": variables, **place}
            code = run_forked(package, job, timeout=timeout, each_second=each_second)
        if code is None:
            code = _run_new(_command(work, folder), folder, variables, timeout=timeout, each_second=each_second)
    except TimeoutError:
        return _late(folder, timeout)
    return _completed(code, folder)


def run_program(command: Sequence[str], folder: Path, *, timeout: float) -> Completed:
    """Run a program that is not a module of ours and wait; what happens to it is reported, as by `run_job`.

    Args:
        command: The program and its arguments.
        folder: Where the job's files lie and the results go. The program may write there why it failed.
        timeout: Seconds after which the program is killed.

    Raises:
        OSError: If there is no such program.
    """
    try:
        return _completed(_run_new(command, folder, os.environ, timeout=timeout, each_second=None), folder)
    except TimeoutError:
        return _late(folder, timeout)


def _late(folder: Path, timeout: float) -> Completed:
    return Completed(ok=False, reason=f"did not finish in {timeout:g} s", output=_output(folder))


def _completed(code: int, folder: Path) -> Completed:
    text = _output(folder)
    if code == 0:
        return Completed(ok=True, reason="", output=text)
    return Completed(ok=False, reason=_failure(code, folder, text), output=text)


def _run_new(
    command: Sequence[str],
    folder: Path,
    variables: Mapping[str, str],
    *,
    timeout: float,
    each_second: Callable[[], None] | None,
) -> int:
    end = time.monotonic() + timeout
    with _started(command, folder, variables) as child:
        while True:
            rest = max(0.0, end - time.monotonic())
            try:
                return child.wait(min(1.0, rest) if each_second else rest)
            except subprocess.TimeoutExpired as error:
                if each_second is None or rest <= 1.0:
                    raise TimeoutError from error
                each_second()


@contextmanager
def started(work: Work, folder: Path, *, environment: Mapping[str, str]) -> Iterator[Callable[[], Completed | None]]:
    """Start what `run_job` runs, and kill it at the end of the block.

    Yields:
        A function that tells how it ended; None as long as it runs.
    """
    with _started(_command(work, folder), folder, {**_environment(), **environment}) as child:
        yield lambda: None if child.poll() is None else _completed(child.returncode, folder)


def name_of(work: Work) -> str:
    """Return the name by which another process finds a function: `module:function`."""
    return work if isinstance(work, str) else f"{work.__module__}:{work.__qualname__}"


def _command(work: Work, folder: Path) -> list[str]:
    return [sys.executable, "-m", STARTER, name_of(work), str(folder)]


@contextmanager
def _started(command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> Iterator[subprocess.Popen]:
    with (
        (folder / OUTPUT).open("wb") as output,
        # Nothing is written to stdin. That it closes tells the child that the parent is gone.
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=variables
        ) as child,
    ):
        try:
            yield child
        finally:
            child.kill()  # nothing to one that has ended


def _output(folder: Path) -> str:
    output = folder / OUTPUT
    return output.read_bytes().decode("utf-8", "replace")[-OUTPUT_TAIL:] if output.exists() else ""


def _paths() -> list[str]:
    return [os.path.abspath(os.fspath(path)) for path in sys.path]  # noqa: PTH100 ("" stands for here)


def _environment() -> dict[str, str]:
    """Let the child find the modules that the parent finds, and keep its C++ libraries quiet."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "utf-8"}
    return {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(_paths())}


def _failure(code: int, folder: Path, output: str) -> str:
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    if (folder / REASON).exists():
        return (folder / REASON).read_text(encoding="utf-8").rstrip(".")
    lines = output.strip().splitlines()
    return lines[-1] if lines else f"ended with exit code {code}"
