"""Read JSON and arrays that may be damaged, or made to do harm: bounded, and whatever is wrong is one ValueError."""

from __future__ import annotations

import dataclasses
import functools
import json
import lzma
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from tokenize import TokenError
from typing import Any, BinaryIO, TypeVar, cast, get_args, get_type_hints

import numpy as np

from tfprune.report import shortened

Value = TypeVar("Value")
# What NumPy, Keras, h5py, json and zipfile raise for files that are damaged, cut short, or hold something else.
UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, MemoryError),
    *(ArithmeticError, SyntaxError, TokenError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
)
LONGEST_REASON = 1000  # characters
LARGEST_JSON = 1 << 24  # bytes; Python takes up to thirty times as many to read it
LARGEST_INTEGER = 1 << 63
MOST_ARRAYS = 1 << 17  # in a file; zipfile takes half a kilobyte for each
ENTRY = re.compile(rb"PK\x01\x02")  # what each entry in the directory of an archive begins with
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


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


def read_fields(kind: type[Value], fields: Any, **values: Any) -> Value:
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
        count += sum(1 for _ in islice(ENTRY.finditer(tail + part), MOST_ARRAYS))
        tail = part[-3:]
        if count > MOST_ARRAYS:
            raise ValueError(f"more than {MOST_ARRAYS:,} arrays")


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in HEADERS:
            raise ValueError(f"{entry.filename!r} has the version {version}")
        shape, _, dtype = HEADERS[version](stream)
        if dtype.hasobject or math.prod(shape) * max(1, dtype.itemsize) != entry.file_size - stream.tell():
            raise ValueError(f"{entry.filename!r} is not what its header says")
    with archive.open(entry) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
