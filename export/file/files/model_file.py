"""Read a model file, packed or not."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from tfprune.export.file.files.codec import GZIP, XZ, decode, head_of
from tfprune.export.file.files.litertlm import LITERTLM
from tfprune.export.file.files.source import Source, read_source, source_name
from tfprune.export.file.files.unpack import MAGIC
from tfprune.export.file.report import reason_of
from tfprune.export.file.tflite.check_operators import check_operators
from tfprune.export.file.tflite.check_sparse import check_sparse
from tfprune.export.file.tflite.check_structure import IDENTIFIER, check_structure


def read_model(source: Source) -> bytes:
    """Return the plain .tflite bytes of a file or of bytes, packed or not.

    Args:
        source: A path, or the content of such a file.

    Returns:
        The unpacked flatbuffer.

    Raises:
        TypeError: If `source` is neither a path nor bytes.
        ValueError: If the file cannot be read, is empty, damaged, or is not a TFLite file.
    """
    name = source_name(source)
    raw = read_source(source)
    if not raw:
        raise ValueError(f"Expected a TFLite file. Received: {name}, which is empty. Export the model again.")
    try:
        head = head_of(raw)  # all of it may be much
        data = decode(raw) if len(head) < 8 or head[4:] == IDENTIFIER else head
    except ValueError as error:
        raise ValueError(f"Cannot unpack {name}. {reason_of(error)}.") from error
    if data[4:8] != IDENTIFIER:
        raise ValueError(
            f"Expected a TFLite file (bytes 4 to 8 are {IDENTIFIER!r}), plain, gzip, xz or packed. "
            f"Received: {name}, whose content begins with {data[:8]!r}.{_advice(raw, name)}"
        )
    check_model(data, name=name)
    return data


def _advice(raw: bytes, name: str) -> str:
    """Return what to do about files of other kinds, after a space; empty for unknown ones."""
    if raw.startswith(LITERTLM):
        return " Only Generator reads files of LiteRT-LM: write a .tflite file, too."
    if name.strip("'").endswith((".keras", ".h5", ".hdf5")):
        return f" Export a Keras model first: tfprune export {name.strip(chr(39))} model.tflite."
    return ""


def map_model(path: str | os.PathLike[str]) -> memoryview:
    """Return the bytes of a plain .tflite file, mapped into memory: only what is used is read.

    Raises:
        ValueError: If the file cannot be read, is empty, damaged, or is not a plain TFLite file.
    """
    name = source_name(path)
    try:
        with Path(path).open("rb") as stream:
            data = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError as error:
        raise ValueError(f"Expected a TFLite file. Received: {name}, which does not exist.") from error
    except (OSError, ValueError) as error:  # ValueError: an empty file, or a path with a zero byte
        raise ValueError(f"Cannot read {name}: {reason_of(error)}. Check the path and its permissions.") from error
    if data[4:8] != IDENTIFIER:
        raise ValueError(
            f"Expected a plain TFLite file (bytes 4 to 8 are {IDENTIFIER!r}). Received: {name}, whose content begins "
            f"with {bytes(data[:8])!r}."
        )
    check_model(data, name=name)
    return data


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Tell by its first bytes whether a file is packed, or is in another file; one that cannot be read is not."""
    return _head(path).startswith((GZIP, XZ, MAGIC, LITERTLM))


def check_model(data: bytes | memoryview, *, name: str) -> None:
    """Refuse a plain file that interpreters cannot be trusted with.

    Args:
        data: The plain file.
        name: How errors call it.

    Raises:
        ValueError: If its structure is damaged, a sparse tensor is, or an operator does not fit its tensors.
    """
    try:
        check_structure(data)
        check_sparse(data)
        check_operators(data)
    except ValueError as error:
        raise ValueError(
            f"Expected a whole TFLite file. Received: {name}, which is damaged or cut short ({reason_of(error)}). "
            "Copy the file again."
        ) from error


def is_model_file(path: str | os.PathLike[str]) -> bool:
    """Tell by its first bytes whether a file is a TFLite file, plain or packed; one that cannot be read is none."""
    return _head(path)[4:] == IDENTIFIER or is_packed(path)


def _head(path: str | os.PathLike[str]) -> bytes:
    try:
        with Path(path).open("rb") as stream:
            return stream.read(8)
    except (OSError, ValueError):  # ValueError: a path with a zero byte
        return b""
