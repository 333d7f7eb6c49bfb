"""Remote: a board or a phone, reached over ssh or adb, that runs files in place of this machine."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from tfprune.base.untrusted import LONGEST_REASON, read_fields
from tfprune.export.device.processes.child_process import Completed, Work, name_of
from tfprune.export.device.processes.job_files import read_job
from tfprune.export.device.remote.link import Link
from tfprune.export.device.remote.messages import RESULTS, Message
from tfprune.export.device.remote.transport import transport
from tfprune.report import shortened


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
            raise TypeError(f"Expected `python` to be the name or path of a Python. Received: python={python!r}.")
        self.address, self.python, self.options = address, python, tuple(options)
        self._way = transport(address, options)
        self._link: Link | None = None
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
        contents = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
        with self._lock:
            link = self._connected()
            answer = link.request(Message({"work": name_of(work), "timeout": timeout}, contents), timeout=timeout)
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

    def _connected(self) -> Link:
        if self._link is None or not self._link.is_open:
            self._link = Link(self._way, self.python.removeprefix("~/"))
            weakref.finalize(self, Link.close, self._link)  # also when this program ends
        return self._link


def _completed(answer: Message, folder: str | os.PathLike[str]) -> Completed:
    """Write the results of a job into its folder, and return how it ended.

    Raises:
        ValueError: If they cannot be read, or it does not say how it ended.
    """
    completed = read_fields(Completed, answer.header)
    for name in RESULTS:
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
