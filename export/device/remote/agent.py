"""The other end, on the device: takes jobs, runs each in a process of its own, and sends what came of it."""

from __future__ import annotations

import os
import platform
import queue
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tfprune.export.device import board
from tfprune.export.device.processes.child_process import run_job
from tfprune.export.device.remote.messages import MARK, RESULTS, Message, receive, send

JOBS = ("tfprune.export.device.running.benchmark:_run_job", "tfprune.export.device.running.verify:_run_job")


def serve(folder: str, *, silence: float) -> None:
    """Answer jobs until the input ends, which it also does when the connection is lost.

    Args:
        folder: Where jobs lie while they run. The caller removes it.
        silence: Seconds without a message after which the other side is taken for lost, because a network that is
            cut ends no input.
    """
    requests: queue.SimpleQueue[Message] = queue.SimpleQueue()
    answers, sys.stdout = sys.stdout.buffer, sys.stderr  # nothing that a library prints gets between messages
    stream = _Watched(sys.stdin.buffer)
    threading.Thread(target=_listen, args=(stream, requests), daemon=True).start()
    threading.Thread(target=stream.watch, args=(silence,), daemon=True).start()
    answers.write(MARK)
    send(answers, Message({"python": platform.python_version(), "numpy": np.__version__, "board": board.name()}, {}))
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


def _listen(stream: Any, requests: queue.SimpleQueue[Message]) -> None:
    while (message := receive(stream, most=sys.maxsize)) is not None:  # who started us is trusted
        if message.header:  # else it is a sign of life
            requests.put(message)
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)  # a signal, because the main thread may wait for a child, which then ends


def _answer(message: Message, folder: str, answers: BinaryIO) -> None:
    if message.header["work"] not in JOBS:
        raise ValueError(f"Expected a job among {JOBS}. Received: {message.header['work']!r}.")
    with tempfile.TemporaryDirectory(dir=folder) as job:
        for name, content in message.contents.items():
            Path(job, Path(name).name).write_bytes(content)
        completed = run_job(message.header["work"], job, timeout=message.header["timeout"])
        results = {name: Path(job, name).read_bytes() for name in RESULTS if Path(job, name).exists()}
    header = {"ok": completed.ok, "reason": completed.reason, "output": completed.output}
    send(answers, Message(header, results))
