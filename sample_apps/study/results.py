"""Results on disk: a line of JSON for each training, appended when it ends, so that a killed study can continue."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sample_apps.study.grid import Settings


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file, without an incomplete last line; none if there is no file.

    Raises:
        ValueError: If another line is not a result.
    """
    if not path.exists():
        return []
    *whole, _ = path.read_bytes().split(b"\n")  # what follows the last newline is empty, or half a line
    found = []
    for number, line in enumerate(whole, start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise ValueError(
                f"Expected a result in JSON on each line. Received: {line[:40]!r} in line {number} of {path}. "
                f"Delete that line; --resume repeats its training."
            ) from error
    return found


def append(path: Path, result: dict[str, Any]) -> None:
    """Add a line, in one piece and down to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _drop_half_a_line(path)
    with path.open("ab") as file:
        file.write(json.dumps(result).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _drop_half_a_line(path: Path) -> None:
    content = path.read_bytes() if path.exists() else b""
    if not content.endswith(b"\n"):
        with path.open("ab") as file:
            file.truncate(content.rfind(b"\n") + 1)


def of(results: Iterable[dict[str, Any]], settings: Settings) -> dict[str, Any] | None:
    """Return the result of a training with exactly these settings, or None."""
    wanted = {"replicas": 1, **settings}
    return next((result for result in results if wanted.items() <= {"replicas": 1, **result}.items()), None)
