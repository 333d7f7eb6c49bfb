"""Run one of our modules in a process of its own, where a crash can be caught and reported.

The job travels as JSON and NumPy files in a folder that the caller owns. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

REASON = "reason.txt"
OUTPUT = "output.txt"
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
) -> Completed:
    """Run `python -m module folder` and wait; whatever happens to the child is reported, not raised.

    Args:
        module: Dotted name of a module that calls `run_as_child` when run as `__main__`.
        folder: Where the job's files lie and the results go. The caller removes it; if the caller is killed, the
            child does, and ends.
        timeout: Seconds after which the child is killed.
        environment: Environment variables of the child besides those of this process.

    Returns:
        Whether it ended well and, if not, why: `killed by SIGSEGV`, `did not finish in 120 s`, or the
        message of the error raised in the child, without its final period.
    """
    folder = Path(folder)
    command = [sys.executable, "-m", module, str(folder)]
    with (
        (folder / OUTPUT).open("wb") as output,
        # Nothing is written to stdin. That it closes tells the child that the parent is gone.
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**_environment(), **(environment or {})},
        ) as child,
    ):
        code: int | None = None
        try:
            code = child.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        finally:
            child.kill()  # nothing to one that has ended
    text = (folder / OUTPUT).read_bytes().decode("utf-8", "replace")[-OUTPUT_TAIL:]
    if code == 0:
        return Completed(ok=True, reason="", output=text)
    if code is None:
        return Completed(ok=False, reason=f"did not finish in {timeout:g} s", output=text)
    return Completed(ok=False, reason=_failure(code, folder, text), output=text)


def run_as_child(work: Callable[[Path], None]) -> None:
    """Run `work(folder)` in the child; the text of a ValueError or TypeError reaches the parent as the reason."""
    folder = Path(sys.argv[1])
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    try:
        work(folder)
    except (TypeError, ValueError) as error:
        (folder / REASON).write_text(str(error), encoding="utf-8")
        raise


def _end_with_parent(folder: Path) -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock could not be taken when Python ends
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def write_job(
    folder: str | os.PathLike[str],
    name: str,
    *,
    settings: Mapping[str, Any] | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write `name.json` and `name.npz` into the folder, for `read_job` on the other side.

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
    Path(folder, f"{name}.json").write_text(text, encoding="utf-8")
    with Path(folder, f"{name}.npz").open("wb") as archive:
        np.savez(archive, **stored)


def read_job(folder: str | os.PathLike[str], name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the settings and the arrays that `write_job` wrote under this name."""
    content = json.loads(Path(folder, f"{name}.json").read_text(encoding="utf-8"))
    with np.load(Path(folder, f"{name}.npz"), allow_pickle=False) as archive:
        arrays = {key: archive[f"array_{index}"] for index, key in enumerate(content["arrays"])}
    return content["settings"], arrays


def _environment() -> dict[str, str]:
    """Let the child find the modules that the parent finds, and keep its C++ libraries quiet."""
    paths = [os.path.abspath(os.fspath(path)) for path in sys.path]  # noqa: PTH100 ("" stands for here)
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "utf-8"}
    return {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join(paths)}


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
