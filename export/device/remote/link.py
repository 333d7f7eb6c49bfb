"""A connection to a device on which the device half of this library waits for jobs."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from tfprune.export.device.remote.error_messages import error_message
from tfprune.export.device.remote.messages import LARGEST_ANSWER, Message, receive, send, skip_to_mark
from tfprune.export.device.remote.payload import START, payload
from tfprune.export.device.remote.transport import Transport

_log = logging.getLogger(__name__)
START_SECONDS = 120  # a slow board, which imports NumPy from a memory card
GRACE_SECONDS = 30  # beyond the time that the device itself allows a job
END_SECONDS = 10
SILENCE_SECONDS = 60  # after which the device takes us for lost
LARGEST_PRINTED = 1 << 16  # bytes, of the last that was printed there


class Link:
    """Starts Python on a device, sends it the device half, and exchanges messages with it.

    When it is closed, this program ends, or the connection is lost, the device ends what runs and removes its folder.

    Args:
        way: How a command line reaches the device.
        python: The Python to call there.

    Raises:
        ValueError: If nothing answers, with the reason and what to do.
    """

    def __init__(self, way: Transport, python: str) -> None:
        self._way, self._python, self._is_late = way, python, False
        content, digest = payload()
        # Encoded, because not every login shell takes a text of several lines.
        start = f'import base64;exec(base64.b64decode("{base64.b64encode(START.encode()).decode()}"))'
        words = [python, "-c", start, str(len(content)), digest, str(SILENCE_SECONDS)]
        self._errors: Any = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the link)
        self._process = subprocess.Popen(
            way.command(words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        self._input: BinaryIO = self._process.stdin  # type: ignore[assignment]
        self._output: BinaryIO = self._process.stdout  # type: ignore[assignment]
        self._sending, self._is_closed = threading.Lock(), threading.Event()
        with self.refusing(), self._deadline(START_SECONDS):
            self._begin(lambda: self._input.write(content))
            hello = receive(self._output) if skip_to_mark(self._output) else None
        if hello is None:
            code = self._end()
            printed = self._printed()
            self._errors.close()
            text = error_message(printed, address=way.address, python=python, code=None if self._is_late else code)
            raise ValueError(text)
        _log.info("connected to %s: %.300s", way.address, hello.header)
        threading.Thread(target=self._live, args=(SILENCE_SECONDS / 5,), daemon=True).start()

    def request(self, message: Message, *, timeout: float) -> Message:
        """Send a message, and return the answer.

        Raises:
            ValueError: If there is none in time, it is not an answer, or the connection is lost.
        """
        with self.refusing(), self._deadline(timeout + GRACE_SECONDS):
            self._begin(lambda: send(self._input, message))
            answer = receive(self._output, most=LARGEST_ANSWER)
        if answer is not None:
            return answer
        self.close()
        ending = f"no answer in {timeout + GRACE_SECONDS:g} s" if self._is_late else "a connection that was lost"
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
                send(self._input, Message({}, {}))

    def _end(self) -> int:
        with contextlib.suppress(OSError), self._deadline(END_SECONDS):  # which waits for what is still written
            self._input.close()
        try:
            code = self._process.wait(END_SECONDS)
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
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - LARGEST_PRINTED))
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
