"""Folders and files that may be damaged: the steps of a long run, and bounded reading of JSON and arrays."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import lzma
import math
import os
import platform
import re
import struct
import sys
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, BinaryIO, TypeVar, cast, get_args, get_type_hints

import numpy as np

from tfprune.base.spec import ArgumentError, ArgumentTypeError, warn_user
from tfprune.report import shortened

# Read JSON and arrays that may be damaged, or made to do harm: bounded, and whatever is wrong is one ValueError.

_Value = TypeVar("_Value")
# What NumPy, Keras, h5py, json and zipfile raise for files that are damaged, cut short, or hold something else.
UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, MemoryError),
    *(ArithmeticError, SyntaxError, TokenError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
)
LONGEST_REASON = 1000  # characters
LARGEST_JSON = 1 << 24  # bytes; Python takes up to thirty times as many to read it
LARGEST_INTEGER = 1 << 63
_MOST_ARRAYS = 1 << 17  # in a file; zipfile takes half a kilobyte for each
_ENTRY = re.compile(rb"PK\x01\x02")  # what each entry in the directory of an archive begins with
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@contextmanager
def reading(path: str | os.PathLike[str], *, expected: str, advice: str) -> Iterator[None]:
    """Turn whatever goes wrong with a file into one error that names it.

    Args:
        path: The file.
        expected: What it should be, for the message.
        advice: What to do, for the message; a sentence without its period.
    """
    try:
        yield
    except UNREADABLE as error:
        text = " ".join(str(error).split()).removesuffix(".") or type(error).__name__
        raise ValueError(
            f"Expected {expected}. Received: {os.fspath(path)!r}: {shortened(text, LONGEST_REASON)}. {advice}."
        ) from error


def parse_json(content: bytes | bytearray) -> Any:
    """Return what a text in JSON says.

    Raises:
        ValueError: If it is too long or too deep, or not JSON.
    """
    if len(content) > LARGEST_JSON:
        raise ValueError(f"Expected at most {LARGEST_JSON:,} bytes of JSON. Received: {len(content):,}.")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected JSON. Received: {_brief(bytes(content[:60]))} ({_brief(str(error))}).") from error


def read_fields(kind: type[_Value], fields: Any, **values: Any) -> _Value:
    """Build a dataclass from an object in JSON, each of whose fields has to have the type that the class says.

    Args:
        kind: The dataclass. Its fields are numbers, texts, bools, lists and dicts, and None where it is allowed.
        fields: What `parse_json` returned.
        values: Fields that take the place of those in JSON, of any type.

    Raises:
        ValueError: If it is not an object with these fields, or a number is not finite or too large.
    """
    if type(fields) is not dict:
        raise ValueError(f"Expected the fields of a {kind.__name__}. Received: {_brief(fields)}.")
    types = _types(cast(Any, kind))  # mypy does not see that a class is hashable
    everything, least = {**fields, **values}, _needed(kind)
    if lacking := sorted(least - set(everything)):
        raise ValueError(f"Expected the fields of a {kind.__name__}. Received: none named {_brief(lacking[0])}.")
    if unknown := sorted(set(everything) - set(types)):
        raise ValueError(f"Expected the fields of a {kind.__name__}. Received: one named {_brief(unknown[0])}.")
    entries = {name: _checked(value, types[name], name) for name, value in fields.items() if name not in values}
    return kind(**{**entries, **values})


@functools.cache
def _types(kind: Any) -> dict[str, tuple[type, ...]]:
    hints = get_type_hints(kind)
    return {field.name: get_args(hints[field.name]) or (hints[field.name],) for field in dataclasses.fields(kind)}


def _needed(kind: Any) -> set[str]:
    missing = dataclasses.MISSING
    return {each.name for each in dataclasses.fields(kind) if each.default is missing is each.default_factory}


def _checked(value: Any, types: tuple[type, ...], name: str) -> Any:
    is_too_large = type(value) is int and abs(value) >= LARGEST_INTEGER
    if is_too_large or (type(value) is float and not math.isfinite(value)):
        raise ValueError(f"Expected {name!r} to be a number of 64 bits. Received: {_brief(value)}.")
    if type(value) is int and float in types:
        return float(value)
    if type(value) not in types:
        expected = " or ".join(each.__name__ for each in types)
        raise ValueError(f"Expected {name!r} to be of type {expected}. Received: {_brief(value)}.")
    return value


def _brief(value: Any) -> str:
    """Return a value in few words; what is inside of it may be too deep to be shown."""
    is_container = isinstance(value, (list, dict))
    return f"a {type(value).__name__}" if is_container else shortened(repr(value), 60)


class _Arrays(dict[str, np.ndarray]):
    def __missing__(self, name: str) -> np.ndarray:
        raise ValueError(f"it has no array {name!r}")


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the arrays that `numpy.savez` wrote into a file, in no more memory than the file is large.

    Raises:
        ValueError: If it is not such a file, or its arrays are larger than itself, or of Python objects. Call it
            within `reading`, as a damaged file may raise anything of `UNREADABLE`.
    """
    with open(path, "rb") as stream:  # noqa: PTH123 (a folder is refused in the same words by all)
        size = os.fstat(stream.fileno()).st_size
        _check_entries(stream)
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > size:
                raise ValueError("its arrays would be larger than the file")
            return _Arrays({entry.filename.removesuffix(".npy"): _array(archive, entry) for entry in entries})


def _check_entries(stream: BinaryIO) -> None:
    """Refuse archives with more entries than there can be, before all of them are read."""
    count, tail = 0, b""
    while part := stream.read(1 << 20):
        count += sum(1 for _ in islice(_ENTRY.finditer(tail + part), _MOST_ARRAYS))
        tail = part[-3:]
        if count > _MOST_ARRAYS:
            raise ValueError(f"more than {_MOST_ARRAYS:,} arrays")


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"{entry.filename!r} has the version {version}")
        shape, _, dtype = _HEADERS[version](stream)
        if dtype.hasobject or math.prod(shape) * max(1, dtype.itemsize) != entry.file_size - stream.tell():
            raise ValueError(f"{entry.filename!r} is not what its header says")
    with archive.open(entry) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


# A folder with the results of the steps of a long run, so that a stopped run continues where it stopped.

_log = logging.getLogger(__name__)
_UNFINISHED, _LOCK = ".tfprune-", "run.lock"
NamedArrays = dict[str, np.ndarray]
_ADVICE = "Delete it, and the step is done again"

if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[str]) -> None:
        file.seek(1 << 30)  # others cannot read the byte that is locked: one behind the text
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

    def sync(path: Path) -> None:
        """Write what a file holds to the disk; this system writes the names in a folder at once."""
        if not path.is_dir():
            with path.open("r+b") as file:
                os.fsync(file.fileno())

else:
    import fcntl

    def _try_lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def sync(path: Path) -> None:
        """Write what a file holds, or the names in a folder, to the disk."""
        descriptor = os.open(path, os.O_RDONLY)
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
            raise ArgumentTypeError(
                "folder",
                "`folder` to be a path",
                f"{path!r} of type {type(path).__name__}",
                advice="Pass a string, or None to keep nothing.",
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
            raise ArgumentError(
                "folder",
                "`folder` to be empty or of the same run",
                f"{str(self._path)!r}, started with {shortened(' '.join(stored.split()), LONGEST_REASON)}; this "
                f"one is {run['run']}",
                advice="Pass another folder, or the same model, data and settings.",
            )

    def has(self, step: str) -> bool:
        """Return True if a step was done before."""
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
        with reading(file, expected="a file that this library wrote", advice=_ADVICE):
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
                sync(file.parent)
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
        file = folder / _LOCK
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
            raise ArgumentError(
                "folder",
                "a folder that no other run uses",
                f"{str(folder)!r}, which is in use by {holder}",
                advice="Wait until that run has ended, or choose another folder.",
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
