"""Run one of our functions in a process of its own, where a crash can be caught and reported.

Native code of interpreters and of the converter can crash, and that must be an answer and not the end of the
program. A folder holds a job, as JSON and NumPy; out come a result in the same folder, or the reason why there is
none. `run_job` starts a new Python for each job; where a job needs a package that takes seconds to import, one
Python that has imported it forks for each job. A child ends with its parent and removes the folder. A `Device` may
take the place of this machine: it has the same `run_job`.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import gc
import importlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from tfprune.base.folders import full_disk, parse_json, read_arrays, read_fields, reading
from tfprune.base.output import Progress
from tfprune.base.spec import ArgumentTypeError

# What a child process does: end as soon as its parent is gone, even while importing, and call the job's function.

_MODULE = "tfprune.export.device.processes"  # this one: `__name__` is another in a child
_FORK = "--fork"  # what a child does that has a package imported, and forks for each job
_REASON = "reason.txt"  # in the folder of a job: why it refused
_NO_ROOM = 74  # the exit code of a child for which the disk was full
_REMOVE_TRIES = 100  # to remove a folder into which another thread may still write


def _end_with_parent(folder: Path) -> None:
    """Wait in a thread until stdin closes, which tells that the parent is gone; then remove the folder and end.

    Args:
        folder: The folder of the child's job.
    """
    threading.Thread(target=_wait_and_end, args=(folder,), daemon=True).start()


def _call_work(work: str, folder: Path) -> None:
    """Import and call a function of one argument, the folder of the job.

    Args:
        work: `module:function`.
        folder: The folder. The text of a ValueError or TypeError is written there, as the reason for the parent.
    """
    module, _, function = work.partition(":")
    with contextlib.ExitStack() as stack:
        stack.push(_exit_if_full)
        try:
            getattr(importlib.import_module(module), function)(folder)
        except (TypeError, ValueError) as error:
            (folder / _REASON).write_text(str(error), encoding="utf-8")
            raise


def _exit_if_full(kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
    """Tell the parent of a full disk by the exit code: nothing can be written that would say it."""
    if isinstance(error, Exception) and full_disk(str(error)):
        sys.exit(_NO_ROOM)


def _wait_and_end(folder: Path) -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock could not be taken when Python ends
        pass
    for _ in range(_REMOVE_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
    os._exit(1)


# Keep a Python that has imported a large package, and let it fork for each job: seconds for each but the first.

# Elsewhere forking a process that has imported a large package is not safe, or not possible.
_CAN_FORK = sys.platform == "linux"
_READ_AT_IMPORT = ("TF_", "XLA_", "CUDA_", "KERAS_", "LD_", "OMP_", "OPENBLAS_")  # a change needs a new process


class _ForkServer:
    """One Python process that imports a package and then waits for jobs.

    Args:
        package: Name of the package.
        environment: All of the environment variables of the process.
    """

    def __init__(self, package: str, environment: Mapping[str, str]) -> None:
        self._key = _read_at_import(environment)
        watched, self._lifeline = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, _FORK, package, str(watched)],
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
_waiting: dict[str, _ForkServer] = {}  # by package


def _run_forked(
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
    if not _CAN_FORK or not lock.acquire(blocking=False):
        return None
    try:
        with _borrowed(package, job["environment"]) as process:
            return process.run(job, timeout=timeout, each_second=each_second)
    except EOFError:
        return None
    finally:
        lock.release()


@contextlib.contextmanager
def _borrowed(package: str, environment: Mapping[str, str]) -> Iterator[_ForkServer]:
    """Give the process that waits, or a new one; one that did not end its job does not wait again."""
    process = _waiting.pop(package, None)
    if process is not None and not process.fits(environment):
        process.close()
        process = None
    if process is None:
        process = _ForkServer(package, environment)
    with contextlib.ExitStack() as unless_it_ends:
        unless_it_ends.callback(process.close)
        yield process
        unless_it_ends.pop_all()
        _waiting[package] = process


def _read_at_import(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_IMPORT)}


def _end() -> None:
    while _waiting:
        _waiting.popitem()[1].close()


atexit.register(_end)
if _CAN_FORK:
    os.register_at_fork(after_in_child=_waiting.clear)  # it is the parent's


# The process that has a package imported and forks for each job: the other side of `_ForkServer`.

OUTPUT = "output.txt"  # in the folder of a job: what its process says
_IDLE_SECONDS = 60.0  # seconds without a job, after which the memory is given back
_WATCH_SECONDS = 0.2  # between two looks at the parent


def _next_job(lifeline: int) -> dict[str, Any]:
    """Wait for jobs and fork for each; return the job in the child that has to do it.

    The process itself never returns from here: it ends when nothing has come for `IDLE` seconds, or nobody is left to
    ask.

    Args:
        lifeline: A pipe to which nothing is written. That it closes tells the child that the parent is gone.
    """
    while select.select([sys.stdin], [], [], _IDLE_SECONDS)[0]:
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
        while not is_over.wait(_WATCH_SECONDS):
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


# Run one of our functions in a process of its own, where a crash can be caught and reported.
#
# The job travels in a folder that the caller owns (`write_job`).

Work = Callable[[Path], None] | str  # a function of a module, by itself or as `module:function`
_OUTPUT_TAIL = 20_000  # characters: enough for a traceback, little enough for an error message


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
    """Call `work(folder)` in a new process and wait; what happens to the child is reported, not raised.

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

    Raises:
        OSError: If the disk was too full for the child's files, which says nothing of its work.
    """
    folder = Path(folder)
    variables = {**_environment(), **(environment or {})}
    try:
        code = None
        if package:
            place = {"folder": str(folder.absolute()), "here": str(Path.cwd()), "path": _paths()}
            job = {"work": name_of(work), "environment": variables, **place}
            code = _run_forked(package, job, timeout=timeout, each_second=each_second)
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
    if code == _NO_ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
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
    with _process(command, folder, variables) as child:
        while True:
            rest = max(0.0, end - time.monotonic())
            try:
                return child.wait(min(1.0, rest) if each_second else rest)
            except subprocess.TimeoutExpired as error:
                if each_second is None or rest <= 1.0:
                    raise TimeoutError from error
                each_second()


@contextmanager
def _started(work: Work, folder: Path, *, environment: Mapping[str, str]) -> Iterator[Callable[[], Completed | None]]:
    """Start what `run_job` runs, and kill it at the end of the block.

    Yields:
        A function that tells how it ended; None as long as it runs.
    """
    with _process(_command(work, folder), folder, {**_environment(), **environment}) as child:
        yield lambda: None if child.poll() is None else _completed(child.returncode, folder)


def name_of(work: Work) -> str:
    """Return the name by which another process finds a function: `module:function`."""
    return work if isinstance(work, str) else f"{work.__module__}:{work.__qualname__}"


def _command(work: Work, folder: Path) -> list[str]:
    return [sys.executable, "-m", _MODULE, name_of(work), str(folder)]


@contextmanager
def _process(command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> Iterator[subprocess.Popen]:
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
    return output.read_bytes().decode("utf-8", "replace")[-_OUTPUT_TAIL:] if output.exists() else ""


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
    if (folder / _REASON).exists():
        return (folder / _REASON).read_text(encoding="utf-8").rstrip(".")
    lines = output.strip().splitlines()
    return lines[-1] if lines else f"ended with exit code {code}"


# Units of work that a child process counts in a file of its folder, and the bar that its parent draws of them.

_COUNT = "progress.txt"


class ChildProgress:
    """Counts units of work in a child process.

    Args:
        folder: The folder of the job.
        rounds: How often the child works on all of its units.
    """

    def __init__(self, folder: Path, *, rounds: int = 1) -> None:
        self._path, self._rounds = folder / _COUNT, rounds
        self._done = self._total = 0

    def expect(self, units: int) -> None:
        """Set the number of units of one round."""
        self._total = self._rounds * units

    def add(self) -> None:
        """Count a unit as done."""
        self._done += 1
        unfinished = self._path.with_suffix(".partial")
        unfinished.write_text(f"{self._done} {self._total}", encoding="utf-8")
        unfinished.replace(self._path)  # whole: the parent may read it at any time


class ChildBar:
    """A context with the bar of a child, drawn in its parent.

    Args:
        folder: The folder of the job.
        verbose: As `Progress` takes it.
        unit: The name of a unit.
    """

    def __init__(self, folder: str | os.PathLike[str], *, verbose: int | str, unit: str) -> None:
        self._path, self._verbose, self._unit = Path(folder, _COUNT), verbose, unit
        self._bar: Progress | None = None
        self._seen = 0

    def look(self) -> None:
        """Draw how far the child is."""
        if not self._path.exists():
            return
        done, total = map(int, self._path.read_text(encoding="utf-8").split())
        if self._bar is None:
            self._bar = Progress(total, verbose=self._verbose, unit=self._unit)
        self._bar.add(done - self._seen)
        self._seen = done

    def __enter__(self) -> ChildBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.look()
        if self._bar is not None:
            self._bar.__exit__(kind, error, at)


# Where jobs run: on this machine, or on a device that takes its place.


class Device(Protocol):
    """A machine that runs jobs in place of this one."""

    def run_job(self, work: Work, folder: str | os.PathLike[str], *, timeout: float) -> Completed:
        """Do there what the function `run_job` does here."""


def check_device(device: Any) -> None:
    """Refuse what is neither a `Device` nor None.

    Raises:
        TypeError: If it is neither.
    """
    if device is not None and not hasattr(device, "run_job"):
        raise ArgumentTypeError(
            "on", "`on` to be a device, such as tfprune.export.Remote('pi@raspberrypi')", repr(device)
        )


def runner_on(
    device: Any, *, package: str | None = None, each_second: Callable[[], None] | None = None
) -> Callable[..., Completed]:
    """Return the function that runs jobs on a `Device`; None is this machine.

    Args:
        device: The device, or None.
        package: What jobs on this machine need, and what is slow to import.
        each_second: Called once in each second that a job runs on this machine, to move a bar.

    Raises:
        TypeError: If it is not a device.
    """
    check_device(device)
    if device is not None:
        return device.run_job
    return functools.partial(run_job, package=package, each_second=each_second)


# A job, or its result, as JSON and NumPy files in a folder: what two processes tell each other.

_ADVICE = "It was damaged on its way, or on the disk: run the job again"


@dataclass(frozen=True)
class _Content:
    """The content of the file in JSON."""

    settings: dict
    arrays: list  # the names, in the order of the other file


def write_job(
    folder: str | os.PathLike[str],
    name: str,
    *,
    settings: Mapping[str, Any] | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write `_name.json` and `_name.npz` into the folder, for `read_job` on the other side.

    Args:
        folder: An existing folder.
        name: Stem of the two files, such as `job` or `result`.
        settings: What JSON can hold.
        arrays: Arrays by any name, slashes and colons included.

    Raises:
        TypeError: If an array holds Python objects.
    """
    arrays = {key: np.asarray(value) for key, value in (arrays or {}).items()}
    for key, value in arrays.items():
        if value.dtype.hasobject:
            raise TypeError(
                f"Expected numbers. Received: {key!r} with dtype {value.dtype}, which holds Python objects. "
                "Turn it into a numeric array first."
            )
    # Numbered, because names of tensors are not always good names of files in an archive.
    stored: dict[str, Any] = {f"array_{index}": value for index, value in enumerate(arrays.values())}
    text = json.dumps({"settings": dict(settings or {}), "arrays": list(arrays)})
    with Path(folder, f"{name}.npz").open("wb") as archive:
        np.savez(archive, **stored)
    unfinished = Path(folder, f"{name}.partial")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(Path(folder, f"{name}.json"))  # last, and whole: its writer may be killed at any time


def read_job(folder: str | os.PathLike[str], name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the settings and the arrays that `write_job` wrote under this name.

    Raises:
        ValueError: If one of the two files is missing or damaged.
    """
    path, archive = (Path(folder, f"{name}.{suffix}") for suffix in ("json", "npz"))
    with reading(path, expected="settings of a job, or its results", advice=_ADVICE):
        content = read_fields(_Content, parse_json(path.read_bytes()))
    with reading(archive, expected="arrays of a job, or of its results", advice=_ADVICE):
        stored = read_arrays(archive)
        return content.settings, {str(key): stored[f"array_{index}"] for index, key in enumerate(content.arrays)}


def _do_job(work: str, folder: str) -> None:
    _end_with_parent(Path(folder))  # before the module is imported, which may take many seconds
    _call_work(work, Path(folder))


def _fork_for_jobs(package: str, lifeline: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # that of the terminal is for the child
    with _ending_with_parent(lifeline):
        importlib.import_module(package)
    gc.freeze()  # what is never looked at is never copied
    job = _next_job(lifeline)
    _do_job(job["work"], job["folder"])


if __name__ == "__main__":
    if sys.argv[1] == _FORK:
        _fork_for_jobs(sys.argv[2], int(sys.argv[3]))
    else:
        _do_job(*sys.argv[1:])
