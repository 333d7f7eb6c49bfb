"""A folder with the results of the steps of a long run, so that a stopped run continues where it stopped."""

from __future__ import annotations

import json
import logging
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

_log = logging.getLogger(__name__)
NamedArrays = dict[str, np.ndarray]


class RunFolder:
    """Results of the steps of a run, one file each, written whole or not at all.

    Args:
        path: The folder, which is made if there is none; None stores nothing.
        settings: The arguments of the run.
        arrays: The weights and data that it depends on.

    Raises:
        TypeError: If the path is neither a string nor a path.
        ValueError: If the folder is one of another run.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, *, settings: dict[str, Any], arrays: Iterable[np.ndarray]
    ) -> None:
        if path is not None and not isinstance(path, (str, os.PathLike)):
            raise TypeError(
                f"Expected `folder` to be a path. Received: folder={path!r} of type {type(path).__name__}. Pass a "
                f"string, or None to keep nothing."
            )
        self._path = None if path is None else Path(path)
        if self._path is not None:
            self._path.mkdir(parents=True, exist_ok=True)
            self._check(settings, arrays)

    @property
    def is_kept(self) -> bool:
        """Whether there is a folder."""
        return self._path is not None

    def _check(self, settings: dict[str, Any], arrays: Iterable[np.ndarray]) -> None:
        checksum = 0
        for array in arrays:
            checksum = zlib.crc32(np.ascontiguousarray(array).tobytes(), checksum)
        run = {"run": np.array(json.dumps({**settings, "checksum": checksum}, sort_keys=True))}
        stored = self.remember("run", lambda: run)["run"]
        if str(stored) != str(run["run"]):
            raise ValueError(
                f"Expected `folder` to be empty or of the same run. Received: folder={str(self._path)!r}, started "
                f"with {stored}; this one is {run['run']}. Pass another folder, or the same model, data and settings."
            )

    def has(self, step: str) -> bool:
        """Tell whether a step was done before."""
        return self._path is not None and (self._path / f"{step}.npz").exists()

    def remember(self, step: str, make: Callable[[], NamedArrays]) -> NamedArrays:
        """Return the result of a step: read it from its file, or make it and write the file.

        Raises:
            ValueError: If the file cannot be read.
        """
        if self._path is None:
            return make()
        file = self._path / f"{step}.npz"
        if not file.exists():
            result = make()
            partial = file.with_suffix(".partial")
            with partial.open("wb") as stream:
                np.savez(stream, allow_pickle=False, **{name: _storable(array) for name, array in result.items()})
            partial.replace(file)
            return result
        try:
            with np.load(file, allow_pickle=False) as stored:
                result = dict(stored)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"Expected a file that this library wrote. Received: {str(file)!r}, which cannot be read: {error}. "
                f"Delete it, and the step is done again."
            ) from None
        _log.info("%s was done before, and is read from %s", step, file)
        return result


def _storable(array: np.ndarray) -> np.ndarray:
    """Return an array of a type that NumPy can save; float32 holds all values of shorter floats."""
    return array if array.dtype.kind in "biufcU" else array.astype("float32")
