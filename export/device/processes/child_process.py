"""Run one of our modules in a process of its own, where a crash can be caught and reported.

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

from tfprune.export.device.processes.fork_server import run_forked
from tfprune.export.device.processes.fork_server_child import OUTPUT

REASON = "reason.txt"
STARTER = "tfprune.export.device.processes.end_with_parent"
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


def run_module(
    module: str,
    folder: str | os.PathLike[str],
    *,
    timeout: float,
    environment: Mapping[str, str] | None = None,
    package: str | None = None,
    each_second: Callable[[], None] | None = None,
) -> Completed:
    """Run `python -m module folder` and wait; whatever happens to the child is reported, not raised.

    Args:
        module: Dotted name of a module that calls `run_as_child` when run as `__main__`.
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
            job = {"module": module, "environment": variables, **place}
            code = run_forked(package, job, timeout=timeout, each_second=each_second)
        if code is None:
            code = _run_new(_command(module, folder), folder, variables, timeout=timeout, each_second=each_second)
    except TimeoutError:
        return _late(folder, timeout)
    return _completed(code, folder)


def run_program(command: Sequence[str], folder: Path, *, timeout: float) -> Completed:
    """Run a program that is not a module of ours and wait; what happens to it is reported, as by `run_module`.

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
def started(module: str, folder: Path, *, environment: Mapping[str, str]) -> Iterator[Callable[[], Completed | None]]:
    """Start `python -m module folder`, as `run_module` does, and kill it at the end of the block.

    Yields:
        A function that tells how it ended; None as long as it runs.
    """
    with _started(_command(module, folder), folder, {**_environment(), **environment}) as child:
        yield lambda: None if child.poll() is None else _completed(child.returncode, folder)


def _command(module: str, folder: Path) -> list[str]:
    return [sys.executable, "-m", STARTER, module, str(folder)]


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


def run_as_child(work: Callable[[Path], None]) -> None:
    """Run `work(folder)` in the child; the text of a ValueError or TypeError reaches the parent as the reason."""
    folder = Path(sys.argv[1])
    try:
        work(folder)
    except (TypeError, ValueError) as error:
        (folder / REASON).write_text(str(error), encoding="utf-8")
        raise


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
