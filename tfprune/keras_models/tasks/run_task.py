"""A task as any executor can send it: a call of a function of the library, which runs in a worker.

The state that all tasks share, such as a model and data, is packed once. A worker reads it from a file if it sees
that, or else asks for it and gets it with a task; it keeps it for the tasks that follow.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np

import tfprune

DONE, NO_DATA, REFUSED = "done", "no data", "refused"  # what a task may answer
Answer = tuple[str, Any]
Opened = Callable[[bytes], Any]

_states: dict[tuple[Opened, str], Any] = {}  # in a worker: the latest one, by the hash of what it was packed into
_busy = threading.Lock()


def versions() -> dict[str, str]:
    """Return what has to be the same in all processes that share tasks."""
    backend = keras.config.backend()
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "tfprune": tfprune.__version__,
        "Keras": keras.__version__,
        "NumPy": np.__version__,
        "backend": f"{backend} {getattr(sys.modules.get(backend), '__version__', '')}",
    }


def run_task(
    key: str,
    file: str,
    *,
    call: int,
    content: bytes | None,
    expected: str,
    opened: Opened,
    work: Callable[..., Any] | None,
    arguments: Mapping[str, Any],
    seconds: float | None,
) -> Answer:
    """Run a task in this process, which is a worker.

    Args:
        key: The hash of the packed state.
        file: Where that lies, if this machine sees it.
        call: The number of the call: Dask would answer the same call from memory.
        content: The packed state itself, after this worker has asked for it; else None.
        expected: The versions of the process that waits, in JSON.
        opened: Turns the packed state into the first argument of `work`.
        work: Does the task, with the state and `arguments`; None only opens the state.
        arguments: Further arguments of `work`, by name.
        seconds: How long the task may take, from now; what is left of it is one more argument. None for any time.

    Returns:
        What came of it, and the result of `work`, or the reason for refusing it.
    """
    began = time.monotonic()
    if not _busy.acquire(blocking=False):
        return REFUSED, (
            "Expected one task at a time in a process. Received: another one on a second thread. Give each worker "
            "one thread, or pass jobs=1."
        )
    try:
        if other := _differences(json.loads(expected)):
            return REFUSED, (
                f"Expected workers with the packages of the process that waits for them. Received: {other} on "
                f"{platform.node()}. Install the same versions there."
            )
        try:
            is_open = _open(key, file, content=content, opened=opened)
        except ValueError as error:
            return REFUSED, str(error)
        if not is_open:
            return NO_DATA, None
        if work is None:
            return DONE, None
        left = {} if seconds is None else {"seconds": seconds - (time.monotonic() - began)}
        return DONE, work(_states[opened, key], **arguments, **left)
    finally:
        _busy.release()


def _differences(expected: Mapping[str, str]) -> str:
    own = versions()
    differ = [name for name in expected if own.get(name) != expected[name]]
    return ", ".join(f"{name} {own.get(name)} instead of {expected[name]}" for name in differ)


def _open(key: str, file: str, *, content: bytes | None, opened: Opened) -> bool:
    """Open the state from memory, the task or the file; return False if this worker has to ask for it."""
    if (opened, key) in _states:
        return True
    if content is None:
        with suppress(OSError):
            content = Path(file).read_bytes()
    if content is None or hashlib.sha256(content).hexdigest() != key:
        return False
    _states.clear()
    _states[opened, key] = opened(content)
    return True
