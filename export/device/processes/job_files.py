"""A job, or its result, as JSON and NumPy files in a folder: what two processes tell each other."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.base.untrusted import parse_json, read_arrays, read_fields, reading

ADVICE = "It was damaged on its way, or on the disk: run the job again"


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
    with reading(path, expected="settings of a job, or its results", advice=ADVICE):
        content = read_fields(_Content, parse_json(path.read_bytes()))
    with reading(archive, expected="arrays of a job, or of its results", advice=ADVICE):
        stored = read_arrays(archive)
        return content.settings, {str(key): stored[f"array_{index}"] for index, key in enumerate(content.arrays)}
