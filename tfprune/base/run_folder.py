"""A folder with the results of the steps of a long run, so that a stopped run continues where it stopped."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from tfprune.base.untrusted import LONGEST_REASON, read_arrays, reading
from tfprune.base.warn_user import warn_user
from tfprune.report import shortened

_log = logging.getLogger(__name__)
_UNFINISHED, LOCK = ".tfprune-", "run.lock"
NamedArrays = dict[str, np.ndarray]
ADVICE = "Delete it, and the step is done again"

if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[str]) -> None:
        file.seek(1 << 30)  # others cannot read the byte that is locked: one behind the text
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

    def _sync(folder: Path) -> None:
        """Do nothing: this system writes the names in a folder at once."""

else:
    import fcntl

    def _try_lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _sync(folder: Path) -> None:
        """Write the names in a folder to the disk, as `fsync` writes what a file holds."""
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def checksum(arrays: Iterable[np.ndarray]) -> int:
    """Return a number that tells arrays from others."""
    number = 0
    for array in arrays:
        number = zlib.crc32(np.ascontiguousarray(array).tobytes(), number)
    return number


class RunFolder:
    """Results of the steps of a run, one file each, written whole or not at all: a context, which holds the folder.

    Until the context ends, or its process does, no other run can use the folder.

    Args:
        path: The folder, which is made if there is none; None stores nothing.
        settings: The arguments of the run.
        arrays: The weights and data that it depends on.

    Raises:
        TypeError: If the path is neither a string nor a path.
        ValueError: If the folder is one of another run, is in use, or cannot be written.
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
        self._lock: _Lock | None = None
        if self._path is not None:
            try:
                self._path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(_no_folder(self._path, error)) from error
            self._lock = _Lock(self._path)
            try:
                self._check(settings, arrays)
            except ValueError:
                self._lock.release()
                raise
            for unfinished in self._path.glob(f"{_UNFINISHED}*"):  # of a run that was killed
                if not unfinished.is_dir():
                    unfinished.unlink()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()

    @property
    def is_kept(self) -> bool:
        """Whether there is a folder."""
        return self._path is not None

    def _check(self, settings: dict[str, Any], arrays: Iterable[np.ndarray]) -> None:
        run = {"run": np.array(json.dumps({**settings, "checksum": checksum(arrays)}, sort_keys=True))}
        stored = self.remember("run", lambda: run, lambda arrays: str(arrays["run"]))
        if stored != str(run["run"]):
            raise ValueError(
                f"Expected `folder` to be empty or of the same run. Received: folder={str(self._path)!r}, started "
                f"with {shortened(' '.join(stored.split()), LONGEST_REASON)}; this one is {run['run']}. Pass another "
                f"folder, or the same model, data and settings."
            )

    def has(self, step: str) -> bool:
        """Tell whether a step was done before."""
        return self._path is not None and (self._path / f"{step}.npz").exists()

    def remember(
        self, step: str, make: Callable[[], NamedArrays], read: Callable[[NamedArrays], Any] = lambda arrays: arrays
    ) -> Any:
        """Return the result of a step: read it from its file, or make it and write the file.

        Args:
            step: The name of the step.
            make: Makes the arrays.
            read: Turns the arrays into the result; an error in it says that the file is damaged.

        Raises:
            ValueError: If the file cannot be read or written.
        """
        if self._path is None:
            return read(make())
        file = self._path / f"{step}.npz"
        if not file.exists():
            result = make()
            self._write(file, {name: _storable(array) for name, array in result.items()})
            return read(result)
        _log.info("%s was done before, and is read from %s", step, file)
        return self.read(step, read)

    def read(self, step: str, read: Callable[[NamedArrays], Any]) -> Any:
        """Return the result of a step that was done before.

        Raises:
            ValueError: If its file cannot be read.
        """
        assert self._path is not None
        file = self._path / f"{step}.npz"
        with reading(file, expected="a file that this library wrote", advice=ADVICE):
            return read(read_arrays(file))

    @contextmanager
    def temporary_file(self, content: bytes) -> Iterator[Path]:
        """Write a file for other processes, which is removed when the block ends, or by the next run in the folder.

        Raises:
            ValueError: If it cannot be written.
        """
        assert self._path is not None
        file = self._path.resolve() / f"{_UNFINISHED}{uuid.uuid4().hex}"
        try:
            with _writing(file):
                file.write_bytes(content)
            yield file
        finally:
            file.unlink(missing_ok=True)

    @staticmethod
    def _write(file: Path, arrays: NamedArrays) -> None:
        unfinished = file.with_name(f"{_UNFINISHED}{uuid.uuid4().hex}")
        try:
            with _writing(file):
                with unfinished.open("xb") as stream:
                    np.savez(stream, allow_pickle=False, **arrays)
                    stream.flush()
                    os.fsync(stream.fileno())
                unfinished.replace(file)
                _sync(file.parent)
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"Cannot write {str(file)!r}: {error.strerror}. Free some space, and call again with the same "
            f"arguments: the steps before are kept."
        ) from error


class _Lock:
    """Holds a folder for this object alone, until `release` or the end of the process, however that ends.

    Args:
        folder: The folder, which exists.

    Raises:
        ValueError: If another process, or another call in this one, holds it, or no file can be written there.
    """

    def __init__(self, folder: Path) -> None:
        file = folder / LOCK
        if file.is_symlink():
            raise ValueError(
                f"Expected a folder of this library. Received: {str(file)!r}, a link to another place. Remove it."
            )
        try:
            self._file = file.open("a+", encoding="utf-8", errors="replace")
        except OSError as error:
            raise ValueError(_no_folder(folder, error)) from error
        try:
            _try_lock(self._file)
        except (BlockingIOError, PermissionError) as error:
            self._file.seek(0)
            holder = self._file.readline(200).strip() or "another process"
            self._file.close()
            raise ValueError(
                f"Expected a folder that no other run uses. Received: folder={str(folder)!r}, which is in use by "
                f"{holder}. Wait until that run has ended, or choose another folder."
            ) from error
        except OSError as error:  # some network file systems have no locks
            warn_user(
                f"The folder {str(folder)!r} cannot be locked: {error.strerror}. Make sure that no other process "
                f"uses it until this run has ended."
            )
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        self._file.flush()

    def release(self) -> None:
        """Let others use the folder."""
        self._file.close()


def _no_folder(folder: Path, error: OSError) -> str:
    return (
        f"Expected a folder to write in. Received: folder={str(folder)!r}: {error.strerror}. Choose another folder, "
        f"or change its permissions."
    )


def _storable(array: np.ndarray) -> np.ndarray:
    """Return an array of a type that NumPy can save; float32 holds all values of shorter floats."""
    return array if array.dtype.kind in "biufcU" else array.astype("float32")
