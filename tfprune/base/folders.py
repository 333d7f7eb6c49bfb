"""Folders and files that may be damaged: the steps of a long run, and bounded reading of JSON and arrays."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import errno
import functools
import json
import logging
import lzma
import math
import os
import platform
import re
import shutil
import signal
import stat
import struct
import sys
import tempfile
import threading
import time
import uuid
import weakref
import zipfile
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from tokenize import TokenError
from types import TracebackType
from typing import IO, Any, BinaryIO, Literal, TypeVar, cast, get_args, get_type_hints

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
_MOST_ENTRIES = 1 << 17  # in an archive; zipfile takes half a kilobyte for each
_ALWAYS_UNPACKED, _MOST_EXPANSION = (
    1 << 25,
    100,
)  # bytes that any archive may unpack to, and then so many times its own
_ENTRY = re.compile(rb"PK\x01\x02")  # what each entry in the directory of an archive begins with
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def meant_file(path: str | os.PathLike[str]) -> str:
    """Return a question about a file with a similar name beside one that does not exist, after a space."""
    file = Path(path)
    try:
        beside = [each.name for each in file.parent.iterdir()]
    except OSError:
        return ""
    close = difflib.get_close_matches(file.name, beside, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


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


def read_arrays(source: str | os.PathLike[str] | BinaryIO) -> dict[str, np.ndarray]:
    """Read the arrays that `numpy.savez` wrote into a file or stream, in no more memory than the file is large.

    Raises:
        ValueError: If it is not such a file, or its arrays are larger than itself, or of Python objects. Call it
            within `reading`, as a damaged file may raise anything of `UNREADABLE`.
    """
    if not isinstance(source, (str, os.PathLike)):
        return _arrays(source, most=_size(source))
    with open(source, "rb") as stream:  # noqa: PTH123 (a folder is refused in the same words by all)
        return _arrays(stream, most=_size(stream))


def read_data(
    path: str | os.PathLike[str], *, only: Container[str] | None = None, mmap_mode: Literal["r"] | None = None
) -> np.ndarray | dict[str, np.ndarray]:
    """Read the array of a .npy file, or the arrays of a .npz file, which may be compressed.

    Args:
        path: The file.
        only: The names of the arrays that are read from a .npz file; None for all.
        mmap_mode: With `"r"`, only entries of a .npy file that are used are read from the disk.

    Raises:
        ValueError: If it is neither, its arrays are of Python objects, or what it says of them does not fit what it
            holds. Call it within `reading`, as a damaged file may raise anything of `UNREADABLE`.
    """
    with open(path, "rb") as stream:  # noqa: PTH123 (as above)
        size, head = _size(stream), stream.read(len(np.lib.format.MAGIC_PREFIX))
        stream.seek(0)
        if not head.startswith((np.lib.format.MAGIC_PREFIX, b"PK")):
            raise ValueError(f"it begins with {head!r}, as neither of them does")
        if head != np.lib.format.MAGIC_PREFIX:
            return dict(_arrays(stream, most=most_unpacked(size), only=only))  # a subclass is no structure of Keras
        if _described(stream, "it") > size - stream.tell():
            raise ValueError("its header promises more than it holds")
        stream.seek(0)
        return np.load(path if mmap_mode else stream, mmap_mode=mmap_mode, allow_pickle=False)


def most_unpacked(size: int) -> int:
    """Return how many bytes the content of an archive or picture of so many bytes may take: more is a bomb."""
    return _ALWAYS_UNPACKED + _MOST_EXPANSION * size


@contextmanager
def open_archive(stream: BinaryIO, *, most: int) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive from outside, whose entries take no more memory together than is allowed.

    Read them by `read_entry`, or through `ZipFile.open` in parts of bounded size.

    Args:
        stream: The archive.
        most: The most bytes that its entries may say that they take.

    Raises:
        ValueError: If they take more, are too many, or are packed by another way than deflate: with bzip2 and LZMA,
            Python's reader unpacks the whole of an entry, whatever its size is said to be.
    """
    _check_entries(stream)
    with zipfile.ZipFile(stream) as archive:
        for entry in archive.infolist():
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{entry.filename!r} is packed by another way than deflate")
            if entry.compress_type == zipfile.ZIP_STORED and entry.file_size != entry.compress_size:
                raise ValueError(f"{entry.filename!r} is not as long as it says")
        total = sum(entry.file_size for entry in archive.infolist())
        if total > most:
            raise ValueError(f"it would take {total:,} bytes, and at most {most:,} are read from a file of its size")
        yield archive


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Return what an entry of `open_archive` holds.

    Raises:
        ValueError: If it holds more or less than it says. All else of `UNREADABLE`, if it is damaged.
    """
    with _opened(archive, entry) as stream:
        content = stream.read(entry.file_size)
        _check_end(stream, entry)
    if len(content) < entry.file_size:
        raise ValueError(f"{entry.filename!r} is not as long as it says")
    return content


def _opened(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> IO[bytes]:
    longer = copy.copy(entry)
    longer.file_size += 1  # else what comes after the end by the directory would be cut off without a word
    return archive.open(longer)


def _check_end(stream: IO[bytes], entry: zipfile.ZipInfo) -> None:
    if stream.read(1):
        raise ValueError(f"{entry.filename!r} is not as long as it says")


def _size(stream: BinaryIO) -> int:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    return size


def _arrays(stream: BinaryIO, *, most: int, only: Container[str] | None = None) -> _Arrays:
    with open_archive(stream, most=most) as archive:
        names = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        return _Arrays(
            {name: _array(archive, entry) for name, entry in names.items() if only is None or name in only}
        )


def _check_entries(stream: BinaryIO) -> None:
    """Refuse archives with more entries than there can be, before all of them are read."""
    count, tail = 0, b""
    while part := stream.read(1 << 20):
        count += sum(1 for _ in islice(_ENTRY.finditer(tail + part), _MOST_ENTRIES))
        tail = part[-3:]
        if count > _MOST_ENTRIES:
            raise ValueError(f"more than {_MOST_ENTRIES:,} entries")


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as stream:
        if _described(stream, repr(entry.filename)) != entry.file_size - stream.tell():
            raise ValueError(f"{entry.filename!r} is not what its header says")
    with _opened(archive, entry) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        _check_end(stream, entry)
    return array


def _described(stream: IO[bytes], name: str) -> int:
    """Return how many bytes follow by the header of an array, which is read."""
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"{name} has the version {version}")
    shape, _, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects")
    if min(shape, default=0) < 0:
        raise ValueError(f"{name} has a negative length")
    return math.prod(shape) * max(1, dtype.itemsize)


# Temporary files and folders, of which nothing is left: not by an error, by SIGTERM, or by a process that was killed.

_log = logging.getLogger(__name__)
_UNFINISHED, _TEMPORARY, HELD = ".tfprune-", "tfprune-", ".tfprune-held"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LEAST_AGE = 1.0  # seconds: a file that shows that a folder is in use is locked a moment after it was made
_live: dict[Path, int] = {}  # what is removed at SIGTERM, and the process that made it: a fork has a copy of this


def full_disk(text: str) -> str:
    """Return why nothing could be written, if a message says that a disk is full; empty if it does not."""
    reasons = [reason for reason in map(os.strerror, _FULL) if reason in text]
    if re.search(r"\d requested and \d+ written", text):  # all that NumPy says
        reasons = [os.strerror(errno.ENOSPC)]
    return reasons[0] if reasons else ""


class TemporaryFolder(tempfile.TemporaryDirectory[str]):
    """A folder for temporary files, which is removed at the end of the block, or with the object.

    SIGTERM removes it, too, if the program does nothing else at SIGTERM. After SIGKILL, the next process that makes
    such a folder removes it.

    Args:
        beside: The folder in which it is made; None takes that of the system for temporary files.

    Raises:
        ValueError: If there is no room for it; at the end of the block, if there was not enough for its files.
    """

    def __init__(self, *, beside: Path | None = None) -> None:
        self._place = "the folder for temporary files" if beside is None else repr(str(beside))
        try:
            parent = Path(tempfile.gettempdir()) if beside is None else beside
            self._place = repr(str(parent))
            prefix = _TEMPORARY if beside is None else _UNFINISHED
            _remove_abandoned(parent, prefix)
            super().__init__(prefix=prefix, dir=parent)
        except OSError as error:
            raise ValueError(self._no_room(str(error.strerror or error))) from error
        path = Path(self.name)
        _watch(path)
        self._let_go = weakref.finalize(self, _let_go, path, _hold(path))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, at)
        if isinstance(error, Exception) and not isinstance(error, ValueError):
            self._check_room(error)

    def cleanup(self) -> None:
        """Remove the folder."""
        self._let_go()
        super().cleanup()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Say of an error within the block that there was not enough room, where the folder outlives the block."""
        try:
            yield
        except OSError as error:
            self._check_room(error)
            raise

    def _check_room(self, error: Exception) -> None:
        if reason := full_disk(str(error)):
            raise ValueError(self._no_room(reason)) from error

    def _no_room(self, reason: str) -> str:
        return (
            f"Expected room for temporary files in {self._place}. Received: {reason}. Free some space there, or let "
            f"the environment variable TMPDIR name another folder."
        )


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Give the path of a new file or folder beside another one, and remove what is there at the end of the block."""
    new = path.with_name(f"{_UNFINISHED}{uuid.uuid4().hex}")
    _watch(new)
    try:
        yield new
    finally:
        _remove(new)
        _unwatch(new)


def write_whole(files: Mapping[Path, bytes], *, check: Callable[[Path], None] | None = None) -> None:
    """Write files, each whole or not at all; none of them if there is no room for all.

    Args:
        files: Content by path.
        check: Called with each new file before any of them takes its place; raises if the file is wrong.

    Raises:
        OSError: If they cannot be written, with the path of the one that could not.
    """
    with ExitStack() as stack:
        written = {path: stack.enter_context(unfinished(path)) for path in files}
        for path, new in written.items():
            try:
                with new.open("xb") as stream:
                    if path.exists():
                        shutil.copymode(path, new)  # who may read a file stays as it is
                    stream.write(files[path])
                    stream.flush()
                    os.fsync(stream.fileno())
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error
            if check is not None:
                check(new)
        for path, new in written.items():
            new.replace(path)


def save_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        ValueError: If it cannot be written; what was there stays.
    """
    try:
        write_whole({Path(os.path.realpath(path)): content})
    except OSError as error:
        raise ValueError(
            f"Expected a file that can be written. Received: {os.fspath(path)!r} ({error.strerror}). Choose another "
            f"folder, or free some space."
        ) from error


@functools.cache
def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove temporary folders of this user's processes that were killed, once for each place: those nobody holds."""
    for folder in parent.glob(f"{prefix}*"):
        with suppress(OSError):  # it has no such file, or is held, or of another user
            status = folder.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != _user():
                continue
            with (folder / HELD).open("r+", encoding="utf-8") as held:
                if time.time() - os.fstat(held.fileno()).st_mtime < _LEAST_AGE:
                    continue
                _try_lock(held)
            _log.info("%s is removed: its process was killed", folder)
            shutil.rmtree(folder, ignore_errors=True)  # after the file was closed, as Windows wants it


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0  # elsewhere each user has a folder for temporary files


def _hold(folder: Path) -> IO[str] | None:
    with suppress(OSError):  # some file systems have no locks; there, nobody finds the folder to be free
        held = (folder / HELD).open("x", encoding="utf-8")
        _try_lock(held)
        return held
    return None


def _let_go(folder: Path, held: IO[str] | None) -> None:
    if held is not None:
        held.close()
    _unwatch(folder)


def _watch(path: Path) -> None:
    """Let SIGTERM remove a file or folder, if it would end the process at once."""
    _live[path] = os.getpid()
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)


def _unwatch(path: Path) -> None:
    _live.pop(path, None)
    is_last = not _live and threading.current_thread() is threading.main_thread()
    if is_last and signal.getsignal(signal.SIGTERM) is _end:  # Python answers late while native code runs
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, frame: object) -> None:
    for path, process in [*_live.items()]:
        if process == os.getpid():
            _remove(path)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# A folder with the results of the steps of a long run, so that a stopped run continues where it stopped.

_LOCK = "run.lock"
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
            for left in self._path.glob(f"{_UNFINISHED}*"):  # of a run that was killed
                if not left.is_dir():
                    left.unlink()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if self._path is not None and error is not None and [*self._path.glob("*.npz")] == [self._path / "run.npz"]:
            (self._path / "run.npz").unlink()  # refused before its first step: the next run may have other settings
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
        with unfinished(self._path.resolve() / "step") as file:
            with _writing(file):
                file.write_bytes(content)
            yield file

    @staticmethod
    def _write(file: Path, arrays: NamedArrays) -> None:
        with unfinished(file) as new, _writing(file):
            with new.open("xb") as stream:
                np.savez(stream, allow_pickle=False, **arrays)
                stream.flush()
                os.fsync(stream.fileno())
            new.replace(file)
            sync(file.parent)


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
        try:
            self._file.seek(0)
            self._file.truncate()
            holder = f"process {os.getpid()} on {platform.node()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
            self._file.write(holder)
            self._file.flush()
        except OSError as error:
            with suppress(OSError):  # it tries to write once more
                self._file.close()
            raise ValueError(_no_folder(folder, error)) from error

    def release(self) -> None:
        """Let others use the folder."""
        self._file.close()


def _no_folder(folder: Path, error: OSError) -> str:
    return (
        f"Expected a folder to write in. Received: folder={str(folder)!r}: {error.strerror}. Choose another folder, "
        f"change its permissions, or free some space."
    )


def _storable(array: np.ndarray) -> np.ndarray:
    """Return an array of a type that NumPy can save; float32 holds all values of shorter floats."""
    return array if array.dtype.kind in "biufcU" else array.astype("float32")
