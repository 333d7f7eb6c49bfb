"""Run files on another machine: a board over ssh, or a phone over adb.

A link starts Python there by a transport, sends the payload (the device half, as an archive), and exchanges
messages with the agent, which runs jobs there and removes its folder when the connection ends. Start at `Remote`.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import io
import json
import logging
import os
import platform
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tfprune.base.folders import HELD, LARGEST_INTEGER, LONGEST_REASON, parse_json, read_fields
from tfprune.base.spec import ArgumentError, ArgumentTypeError
from tfprune.export.device.benchmark import benchmark
from tfprune.export.device.processes import Completed, Device, Work, name_of, read_job, run_job, runner_on
from tfprune.export.device.runner import board_name
from tfprune.report import shortened

# Messages between this machine and a device: a header in JSON, and contents by name.

_MARK = b"\n\x00tfprune-device\x00\n"  # what a shell prints when it starts comes before it
_LARGEST_HEADER = 1 << 20
_LARGEST_BANNER = 1 << 20  # bytes before the mark
_LARGEST_ANSWER = 1 << 29  # bytes of the files that a job leaves
# The files that a job leaves; no other name is taken, whatever a device says.
_RESULTS = ("loaded.json", "loaded.npz", "result.json", "result.npz")


class _Message(NamedTuple):
    """A message of one side: plain values, and contents of files."""

    header: dict[str, Any]
    contents: Mapping[str, bytes | bytearray]


def _send(stream: BinaryIO, message: _Message) -> None:
    """Write a message."""
    sizes = [[name, len(content)] for name, content in message.contents.items()]
    text = json.dumps([message.header, sizes]).encode()
    stream.write(len(text).to_bytes(8, "big") + text)
    for content in message.contents.values():
        stream.write(content)
    stream.flush()


def _receive(stream: BinaryIO, *, most: int = 0) -> _Message | None:
    """Read a message; None if the stream has ended before it was whole.

    Args:
        stream: Where it comes from.
        most: The bytes that its contents may have in total.

    Raises:
        ValueError: If what comes is not a message, or a larger one.
    """
    length = int.from_bytes(_exactly(stream, 8) or b"", "big")
    if length > _LARGEST_HEADER:
        raise ValueError(f"Expected a message. Received: a header of {length:,} bytes.")
    text = _exactly(stream, length) if length else None
    if text is None:
        return None
    header, sizes = _parts(text)
    if sum(sizes.values()) > most:
        raise ValueError(f"Expected at most {most:,} bytes in a message. Received: {sum(sizes.values()):,}.")
    contents = {}
    for name, size in sizes.items():
        content = _exactly(stream, size)
        if content is None:
            return None
        contents[name] = content
    return _Message(header, contents)


def _parts(text: bytes | bytearray) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the two parts of a header: what it says, and the sizes of the contents by name."""
    match parse_json(text):
        case [dict(header), list(entries)] if all(_is_entry(entry) for entry in entries):
            sizes: dict[str, int] = dict(entries)
            if len(sizes) == len(entries):
                return header, sizes
    raise ValueError(f"Expected a message. Received: {bytes(text[:40])!r}, which is another text.")


def _is_entry(entry: Any) -> bool:
    return type(entry) is list and [type(part) for part in entry] == [str, int] and 0 <= entry[1] < LARGEST_INTEGER


def _skip_to_mark(stream: BinaryIO) -> bool:
    """Read past the mark; return False if the stream ends without it.

    Raises:
        ValueError: If it is too far away.
    """
    _, own_line = _MARK.split(b"\n", 1)  # it begins with the end of a line
    remaining = _LARGEST_BANNER
    while remaining:
        line = stream.readline(remaining)
        if not line or line == own_line:
            return bool(line)
        remaining -= len(line)
    raise ValueError(
        f"Expected a message. Received: {_LARGEST_BANNER:,} bytes of other text first. Let the shell there print "
        f"less when it starts."
    )


def _exactly(stream: BinaryIO, size: int) -> bytearray | None:
    content = bytearray()
    while len(content) < size:
        part = stream.read(min(size - len(content), 1 << 20))
        if not part:
            return None
        content += part
    return content


# The other end, on the device: takes jobs, runs each in a process of its own, and sends what came of it.

_JOBS = ("tfprune.export.device.benchmark:_benchmark_job", "tfprune.export.device.verify:_verify_job")


def serve(folder: str, *, silence: float) -> None:
    """Answer jobs until the input ends, which it also does when the connection is lost.

    Args:
        folder: Where jobs lie while they run. The caller removes it.
        silence: Seconds without a message after which the other side is taken for lost, because a network that is
            cut ends no input.
    """
    requests: queue.SimpleQueue[_Message] = queue.SimpleQueue()
    answers, sys.stdout = sys.stdout.buffer, sys.stderr  # nothing that a library prints gets between messages
    stream = _Watched(sys.stdin.buffer)
    threading.Thread(target=_listen, args=(stream, requests), daemon=True).start()
    threading.Thread(target=stream.watch, args=(silence,), daemon=True).start()
    answers.write(_MARK)
    _send(
        answers,
        _Message({"python": platform.python_version(), "numpy": np.__version__, "board": board_name()}, {}),
    )
    while True:
        _answer(requests.get(), folder, answers)


class _Watched:
    """A stream that remembers when something last came."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._last = stream, time.monotonic()

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._last = time.monotonic()
        return content

    def watch(self, silence: float) -> None:
        while time.monotonic() - self._last < silence:
            time.sleep(silence / 10)
        _end()


def _listen(stream: Any, requests: queue.SimpleQueue[_Message]) -> None:
    while (message := _receive(stream, most=sys.maxsize)) is not None:  # who started us is trusted
        if message.header:  # else it is a sign of life
            requests.put(message)
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)  # a signal, because the main thread may wait for a child, which then ends


def _answer(message: _Message, folder: str, answers: BinaryIO) -> None:
    if message.header["work"] not in _JOBS:
        raise ValueError(f"Expected a job among {_JOBS}. Received: {message.header['work']!r}.")
    with tempfile.TemporaryDirectory(dir=folder) as job:
        for name, content in message.contents.items():
            Path(job, Path(name).name).write_bytes(content)
        completed = run_job(message.header["work"], job, timeout=message.header["timeout"])
        results = {name: Path(job, name).read_bytes() for name in _RESULTS if Path(job, name).exists()}
    header = {"ok": completed.ok, "reason": completed.reason, "output": completed.output}
    _send(answers, _Message(header, results))


# Time files on several devices at once, each against the same dense file on the same device.


class DevicePool:
    """Devices of one kind that time files in parallel.

    Two boards of one kind differ by some percent, so only the ratio to a dense file on the same board is used.

    Args:
        devices: The devices, which `check_devices` has seen.
        dense: The bytes of the dense file.
        runs: Timed runs of each file.
    """

    def __init__(self, devices: Sequence[Device], dense: bytes, *, runs: int) -> None:
        self._devices, self._dense_file, self._runs = devices, dense, runs
        self._dense_ms: list[float] = []  # of each device, measured when the first file is timed

    def milliseconds(self, contents: Sequence[bytes]) -> list[float]:
        """Time files, each on the device that is free next.

        Returns:
            For each file its time divided by that of the dense file on the same device, times that of the dense file
            on the first device.

        Raises:
            ValueError: If a file does not run, or a device does not answer.
        """
        free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(len(self._devices)):
            free.put(number)

        def timed(content: bytes) -> float:
            number = free.get()
            try:
                return self._dense_ms[0] * self._time(content, number) / self._dense_ms[number]
            finally:
                free.put(number)

        with ThreadPoolExecutor(len(self._devices)) as threads:
            if not self._dense_ms:
                numbers = range(len(self._devices))
                self._dense_ms = [*threads.map(lambda number: self._time(self._dense_file, number), numbers)]
            return [*threads.map(timed, contents)]

    def _time(self, content: bytes, number: int) -> float:
        return benchmark(content, runs=self._runs, on=self._devices[number], verbose=0).median_ms


def check_devices(on: Any) -> None:
    """Check a device, or several of them.

    Raises:
        TypeError: If one is not a device.
        ValueError: If there are none, or the same one twice, on which two files would disturb each other.
    """
    if not isinstance(on, (list, tuple)):
        runner_on(on)
        return
    for device in on:
        if device is None:
            raise ArgumentTypeError("on", "a device in each entry of `on`", repr(on), advice="Leave None out.")
        runner_on(device)
    if len(set(map(repr, on))) < max(1, len(on)):
        raise ArgumentError("on", "different devices in `on`, at least one", repr(on), advice="Name each board once.")


# What went wrong with a device, in words that say what to do, from what ssh, adb and the device's shell print.

# What is printed -> what it means, and what to do; {address} and {python} are filled in.
_CONNECTION_ERRORS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "a host whose key is another one than before. Another machine may answer in its place; if it was set up "
        "anew, remove the old key with ssh-keygen -R, and connect once with ssh",
    ),
    (
        "Host key verification failed",
        "a host whose key is not known here. Connect once with ssh {address}, and accept its key",
    ),
    (
        "Permission denied|Too many authentication failures",
        "a host that takes none of the keys here, and would ask for a password. Copy a key there once, with "
        "ssh-copy-id {address}",
    ),
    (
        "Could not resolve hostname|Name or service not known",
        "a name that no network knows. Check the address, or put it into ~/.ssh/config",
    ),
    ("Connection refused", "a host on which no ssh server answers. Start one; raspi-config has a switch for it"),
    ("timed out|No route to host|unreachable", "a host that does not answer. Check that it is on, and the network"),
    (
        "device '.*' not found|no devices|device offline",
        "a phone that adb does not see. Plug it in, allow debugging on its screen, and look at adb devices",
    ),
    ("device unauthorized", "a phone that does not trust this machine. Allow debugging on its screen"),
)
_STARTUP_ERRORS = (
    ("No module named 'numpy'", "a Python without NumPy. Run there: {python} -m pip install numpy ai-edge-litert"),
    ("the device half needs", "an old Python. Name one of 3.10 or later, as in python='python3.11'"),
    ("No space left on device", "a device without space for temporary files. Free some"),
    ("arrived damaged", "a connection that changes what is sent. Try again, and another network"),
)
_NO_PYTHON = (
    "no Python by the name {python!r}. Install one there, with numpy and ai-edge-litert, or say where it is, as in "
    "python='env/bin/python'"
)
_SHELL_EXIT_CODES = (126, 127)  # exit codes: what was found cannot be run, and nothing was found
_SSH_EXIT_CODE = 255
_LONGEST_LINE = 500  # characters


def _error_message(printed: str, *, address: str, python: str, code: int | None) -> str:
    """Return an error text for a device that did not start.

    Args:
        printed: What was printed on the way.
        address: The device.
        python: The Python that was called there.
        code: How the command ended; None if it had to be ended here.
    """
    tables = (
        _CONNECTION_ERRORS + _STARTUP_ERRORS
        if code in (None, _SSH_EXIT_CODE)
        else _STARTUP_ERRORS + _CONNECTION_ERRORS
    )
    meaning = next((meaning for pattern, meaning in tables if re.search(pattern, printed)), None)
    if code in _SHELL_EXIT_CODES:
        meaning = _NO_PYTHON
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    quoted = f" It printed: {shortened(lines[-1], _LONGEST_LINE).rstrip('.')}." if lines else ""
    ending = "nothing within the time for a connection" if code is None else f"exit code {code} from {python!r} there"
    reason = (meaning or ending).format(address=address, python=python)
    return f"Expected a device that answers at {address!r}. Received: {reason}.{quoted}"


# What a device needs of this library, as one archive that Python imports from; and the line that takes it there.

# What `benchmark` and `verify` import, on the device.
_OF_BASE = ("__init__", "spec", "limit", "arrays", "folders", "output")
_OF_BOTH = ("__init__", "report", *(f"base/{name}" for name in _OF_BASE))
_FOLDERS = ("file", "device")

# Runs on the device: takes the archive from its input into a folder of its own, and removes it whatever happens.
_START = """\
import hashlib, os, shutil, signal, sys, tempfile
for name in ("SIGTERM", "SIGHUP", "SIGINT"):
    signal.signal(getattr(signal, name), lambda number, frame: sys.exit(128 + number))
if sys.version_info < (3, 10):
    sys.exit("Python %d.%d is too old, the device half needs 3.10" % sys.version_info[:2])
content = sys.stdin.buffer.read(int(sys.argv[1]))
if hashlib.sha256(content).hexdigest() != sys.argv[2]:
    sys.exit("the archive arrived damaged")
folder = tempfile.mkdtemp(prefix="tfprune-")
try:
    path = os.path.join(folder, "device.zip")
    with open(path, "wb") as file:
        file.write(content)
    sys.path.insert(0, path)
    from tfprune.export.device.remote import serve
    serve(folder, silence=float(sys.argv[3]))
finally:
    shutil.rmtree(folder, ignore_errors=True)
"""


class _Payload(NamedTuple):
    """The archive and its hash."""

    content: bytes
    digest: str


@functools.cache
def _payload() -> _Payload:
    """Return the device half as a zip archive, the same bytes each time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(_files()):
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), path.read_bytes(), zipfile.ZIP_DEFLATED)
    content = buffer.getvalue()
    return _Payload(content, hashlib.sha256(content).hexdigest())


def _files() -> Iterator[tuple[str, Path]]:
    import tfprune.export

    both, export = Path(tfprune.__path__[0]), Path(tfprune.export.__path__[0])
    yield from ((f"tfprune/{name}.py", both / f"{name}.py") for name in _OF_BOTH)
    yield "tfprune/export/__init__.py", export / "__init__.py"
    for folder in _FOLDERS:
        yield from ((f"tfprune/export/{folder}/{path.name}", path) for path in (export / folder).glob("*.py"))


# How a command line reaches a device: through the ssh of this system, or through adb.

# Nothing is asked, because nobody may be there to answer; a connection that is lost is noticed in 15 seconds.
_BATCH = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3")
_ADB = "adb:"
_MISSING = {
    "ssh": "the package openssh-client, or the optional feature OpenSSH client of Windows",
    "adb": "Android's platform tools, and a phone that allows USB debugging",
}


@dataclass(frozen=True)
class _Transport:
    """The command that starts another one on a device, whose input and output are ours.

    Attributes:
        tool: "ssh" or "adb".
        address: Whom it calls, for messages.
        arguments: What goes before the command.
    """

    tool: str
    address: str
    arguments: tuple[str, ...]

    def command(self, words: Sequence[str]) -> list[str]:
        """Return the whole command line; the shell of the device reads the words as they are.

        Raises:
            ValueError: If the tool is not installed here.
        """
        program = shutil.which(self.tool)
        if program is None:
            raise ValueError(f"Expected {self.tool} on this machine. Received: none. Install {_MISSING[self.tool]}.")
        return [program, *self.arguments, f"exec {shlex.join(words)}"]


def _transport(address: Any, options: Sequence[str]) -> _Transport:
    """Return the way to an address.

    Args:
        address: As ssh takes it, `user@host` or `ssh://user@host:port`; or `adb:` with the serial number of a phone.
        options: Further arguments of ssh.

    Raises:
        TypeError: If the address is not a string, or the options are not strings.
        ValueError: If the address is empty, or would be an option.
    """
    if not isinstance(address, str):
        raise TypeError(f"Expected an address, such as 'pi@raspberrypi'. Received: {address!r}.")
    if isinstance(options, str) or not all(isinstance(option, str) for option in options):
        raise ArgumentTypeError("options", "`options` to be a list of arguments of ssh", repr(options))
    serial = address.removeprefix(_ADB)
    if not serial.strip() or serial.startswith("-") or any(ord(letter) < 33 for letter in address):
        raise ValueError(f"Expected an address, such as 'pi@raspberrypi' or 'adb:SERIAL'. Received: {address!r}.")
    if address.startswith(_ADB):
        return _Transport("adb", address, ("-s", serial, "shell", "-T"))
    batch = [word for setting in _BATCH for word in ("-o", setting)]
    return _Transport("ssh", address, (*batch, *options, "-T", "--", address))


# A connection to a device on which the device half of this library waits for jobs.

_log = logging.getLogger(__name__)
_START_SECONDS = 120  # a slow board, which imports NumPy from a memory card
_GRACE_SECONDS = 30  # beyond the time that the device itself allows a job
_END_SECONDS = 10
_SILENCE_SECONDS = 60  # after which the device takes us for lost
_LARGEST_PRINTED = 1 << 16  # bytes, of the last that was printed there


class _Link:
    """Starts Python on a device, sends it the device half, and exchanges messages with it.

    When it is closed, this program ends, or the connection is lost, the device ends what runs and removes its folder.

    Args:
        way: How a command line reaches the device.
        python: The Python to call there.

    Raises:
        ValueError: If nothing answers, with the reason and what to do.
    """

    def __init__(self, way: _Transport, python: str) -> None:
        self._way, self._python, self._is_late = way, python, False
        content, digest = _payload()
        # Encoded, because not every login shell takes a text of several lines.
        start = f'import base64;exec(base64.b64decode("{base64.b64encode(_START.encode()).decode()}"))'
        words = [python, "-c", start, str(len(content)), digest, str(_SILENCE_SECONDS)]
        self._errors: Any = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the link)
        self._process = subprocess.Popen(
            way.command(words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        self._input: BinaryIO = self._process.stdin  # type: ignore[assignment]
        self._output: BinaryIO = self._process.stdout  # type: ignore[assignment]
        self._sending, self._is_closed = threading.Lock(), threading.Event()
        with self.refusing(), self._deadline(_START_SECONDS):
            self._begin(lambda: self._input.write(content))
            hello = _receive(self._output) if _skip_to_mark(self._output) else None
        if hello is None:
            code = self._end()
            printed = self._printed()
            self._errors.close()
            text = _error_message(printed, address=way.address, python=python, code=None if self._is_late else code)
            raise ValueError(text)
        _log.info("connected to %s: %.300s", way.address, hello.header)
        threading.Thread(target=self._live, args=(_SILENCE_SECONDS / 5,), daemon=True).start()

    def request(self, message: _Message, *, timeout: float) -> _Message:
        """Send a message, and return the answer.

        Raises:
            ValueError: If there is none in time, it is not an answer, or the connection is lost.
        """
        with self.refusing(), self._deadline(timeout + _GRACE_SECONDS):
            self._begin(lambda: _send(self._input, message))
            answer = _receive(self._output, most=_LARGEST_ANSWER)
        if answer is not None:
            return answer
        self.close()
        ending = f"no answer in {timeout + _GRACE_SECONDS:g} s" if self._is_late else "a connection that was lost"
        raise ValueError(
            f"Expected an answer of {self._way.address!r}. Received: {ending}. What ran there ends, and its files "
            f"are removed as soon as the device notices. Check the network, and try again."
        )

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Close the connection where what comes from the device is not what this library sends."""
        try:
            yield
        except ValueError as error:
            self._process.kill()
            self.close()
            raise ValueError(
                f"{error} It came from {self._way.address!r}, and the connection was closed. Check the address, and "
                f"what runs there."
            ) from error

    @property
    def is_open(self) -> bool:
        """Whether it can still be used."""
        return self._process.poll() is None

    def close(self) -> None:
        """Let the device tidy up and end; waits until it has."""
        self._is_closed.set()
        self._end()
        self._errors.close()

    def _live(self, seconds: float) -> None:
        """Tell the device from time to time that we are here."""
        while not self._is_closed.wait(seconds):
            with contextlib.suppress(OSError, ValueError), self._sending:  # ValueError: it was closed meanwhile
                _send(self._input, _Message({}, {}))

    def _end(self) -> int:
        with contextlib.suppress(OSError), self._deadline(_END_SECONDS):  # which waits for what is still written
            self._input.close()
        try:
            code = self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._output.close()
        return code

    def _begin(self, write: Callable[[], Any]) -> None:
        """Write in a thread, because the other end may take nothing before what it says is read."""

        def work() -> None:
            with contextlib.suppress(OSError, ValueError), self._sending:  # why it was not taken, the other end says
                write()
                self._input.flush()

        threading.Thread(target=work, daemon=True).start()

    def _printed(self) -> str:
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - _LARGEST_PRINTED))
        return self._errors.read().decode("utf-8", "replace")

    @contextlib.contextmanager
    def _deadline(self, seconds: float) -> Iterator[None]:
        timer = threading.Timer(seconds, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        self._is_late = True
        self._process.kill()


# Remote: a board or a phone, reached over ssh or adb, that runs files in place of this machine.


class Remote:
    """A device that runs files in place of this machine: pass it as `on` to `benchmark`, `verify` and `latency`.

    It needs Python 3.10 or later there, with NumPy and an interpreter (`pip install numpy ai-edge-litert`), and a key
    for ssh: nothing is asked. The device half of this library is sent when it is first used, checked by its hash, and
    waits for jobs. All files lie in one temporary folder, which is removed when the connection ends, whatever ends
    it: nothing is left on the device.

    It is also what `tfprune.budget(latency=..., measure=Remote(...))` asks for: called with a Keras model, it
    converts it here, as `latency` does, and measures it there.

    Args:
        address: What ssh calls the device: `user@host`, `ssh://user@host:port`, or a name of `~/.ssh/config`. Or
            `adb:SERIAL`, a phone that `adb devices` lists; its Python has to be one that adb's shell can run.
        python: The Python to call there, by name or by its path from the home folder; default `"python3"`.
        options: Further arguments of ssh, such as `["-p", "2222"]`.

    Raises:
        TypeError: If an argument is not a string.
        ValueError: If the address cannot be one. Later, if the device does not answer: the message says why.

    Example:
        >>> remote = Remote("pi@raspberrypi", python="env/bin/python")
        >>> remote
        Remote('pi@raspberrypi', python='env/bin/python')
    """

    def __init__(self, address: str, *, python: str = "python3", options: Sequence[str] = ()) -> None:
        if not isinstance(python, str) or not python:
            raise ArgumentTypeError("python", "`python` to be the name or path of a Python", repr(python))
        self.address, self.python, self.options = address, python, tuple(options)
        self._way = _transport(address, options)
        self._link: _Link | None = None
        self._lock = threading.Lock()

    def run_job(self, work: Work, folder: str | os.PathLike[str], *, timeout: float) -> Completed:
        """Run a job in a process of its own on the device; its results are written into the folder.

        Args:
            work: A function of the device half that does a job.
            folder: Where the files of the job lie.
            timeout: Seconds after which the process there is stopped.

        Raises:
            ValueError: If the device does not answer, or the connection is lost.
        """
        files = [path for path in Path(folder).iterdir() if path.is_file() and path.name != HELD]
        contents = {path.name: path.read_bytes() for path in files}
        with self._lock:
            link = self._connected()
            answer = link.request(_Message({"work": name_of(work), "timeout": timeout}, contents), timeout=timeout)
            with link.refusing():
                return _completed(answer, folder)

    def __call__(self, model: Any) -> float:
        """Return the microseconds of one inference of a Keras model on the device."""
        from tfprune.export import latency

        return latency(model, on=self)

    def close(self) -> None:
        """End the connection. The next job starts another one."""
        with self._lock:
            if self._link is not None:
                self._link.close()
            self._link = None

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        options = f", options={list(self.options)!r}" if self.options else ""
        return f"Remote({self.address!r}, python={self.python!r}{options})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Go into other processes as an address; each has a connection of its own."""
        return _again, (self.address, self.python, self.options)

    def _connected(self) -> _Link:
        if self._link is None or not self._link.is_open:
            self._link = _Link(self._way, self.python.removeprefix("~/"))
            weakref.finalize(self, _Link.close, self._link)  # also when this program ends
        return self._link


def _completed(answer: _Message, folder: str | os.PathLike[str]) -> Completed:
    """Write the results of a job into its folder, and return how it ended.

    Raises:
        ValueError: If they cannot be read, or it does not say how it ended.
    """
    completed = read_fields(Completed, answer.header)
    for name in _RESULTS:
        if name in answer.contents:
            Path(folder, name).write_bytes(answer.contents[name])
    for name in ("loaded", "result"):
        if f"{name}.json" in answer.contents:
            read_job(folder, name)
        elif name == "result" and completed.ok:
            raise ValueError("Expected the results of a job that ended well. Received: none.")
    return replace(completed, reason=shortened(completed.reason, LONGEST_REASON))


def _again(address: str, python: str, options: Sequence[str]) -> Remote:
    return Remote(address, python=python, options=options)
