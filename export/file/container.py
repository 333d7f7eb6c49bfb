"""Model files as bytes: open them, whatever packs them, and write them whole or not at all."""

from __future__ import annotations

import logging
import lzma
import mmap
import os
import shutil
import struct
import uuid
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.base.spec import ArgumentError, check_choice
from tfprune.export.file import schema
from tfprune.export.file.document import ALIGNMENT, save_objects
from tfprune.export.file.metadata import LITERTLM
from tfprune.export.file.pack import (
    EXPANSION_LIMIT,
    MAGIC,
    MAX_UNPACKED_BYTES,
    Source,
    check_expansion,
    most_unpacked,
    pack,
    read_source,
    source_name,
    unpack,
)
from tfprune.export.file.reader import IDENTIFIER, FlatbufferTable, check_operators, check_sparse, check_structure
from tfprune.export.file.report import reason_of

# Model files as bytes: pack, unpack, read, write. What a file is, its first bytes say, never its suffix.

METHODS = ("gzip", "xz", "packed")
SUFFIXES = {".tflite": None, ".tfz": "packed", ".gz": "gzip", ".xz": "xz"}  # what each promises; others nothing
_OTHER_FILES = {".keras": "a Keras model", ".h5": "a Keras model", ".npy": "a NumPy array", ".npz": "NumPy arrays"}
_OTHER_FILES[".litertlm"] = "a file of LiteRT-LM"
_XZ_MEMORY_LIMIT = 2**28  # four times what the strongest preset needs; a header could ask for gigabytes
_GZIP_FORMAT = 31  # zlib's wbits: the largest window, with gzip's header and checksum
GZIP = b"\x1f\x8b"
XZ = b"\xfd7zXZ\x00"
_PACKED_HEAD_BYTES = 2**16  # packed bytes that surely hold the first of the content


def encode(data: bytes, method: str | None) -> bytes:
    """Pack bytes without loss; the same bytes always give the same result.

    Args:
        data: What to pack.
        method: None (as it is), "gzip" or "xz", each at its strongest setting, or "packed", which is smaller for
            a TFLite file, and for nothing else.

    Returns:
        The packed bytes, which `_decode` turns back.

    Raises:
        TypeError: If `method` is neither None nor a string.
        ValueError: If the method is another, the data for "packed" are not a TFLite file, or they pack so well that
            `_decode` would take them for a bomb.

    Example:
        >>> _decode(encode(b"weights", "xz"))
        b'weights'
    """
    check_method(method)
    packed = _encode(data, method)
    check_expansion(data, packed)
    return packed


def _encode(data: bytes, method: str | None) -> bytes:
    if method == "gzip":
        # Not gzip.compress: what it writes into the header differs from one Python to the next.
        packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP_FORMAT, zlib.DEF_MEM_LEVEL + 1)
        return packer.compress(data) + packer.flush()
    if method == "xz":
        return lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    if method == "packed":
        return pack(data)
    return bytes(data)


def check_method(method: str | None) -> None:
    """Refuse methods that `encode` does not have.

    Raises:
        TypeError: If it is neither None nor a string.
        ValueError: If it is a string, but not "gzip", "xz" or "packed".
    """
    check_choice(method, "compress", choices=(None, *METHODS))


def check_suffix(path: Path, method: str | None) -> None:
    """Refuse a path whose suffix promises other content than is written there.

    Raises:
        ValueError: If it does, or the suffix is that of a Keras model or of NumPy arrays.
    """
    suffix = path.suffix.lower()
    promised = SUFFIXES.get(suffix, method)
    right = next(suffix for suffix, content in SUFFIXES.items() if content == method)
    if suffix in _OTHER_FILES:  # probably a trained model or data, which would be lost
        raise ArgumentError(
            "path",
            "the path of a TFLite file to write",
            f"{str(path)!r}, which has the suffix of {_OTHER_FILES[suffix]}",
            advice=f"Let the path end in {right}.",
        )
    if promised != method:
        raise ArgumentError(
            "compress",
            f"compress={promised!r} with a path that ends in {suffix}",
            repr(method),
            advice=f"Let the path end in {right}, or pass compress={promised!r}.",
            beside={"path": str(path)},
        )


def _decode(data: bytes, *, limit: int = MAX_UNPACKED_BYTES) -> bytes:
    """Unpack gzip, xz or packed bytes, known by how they begin; let all others through.

    Args:
        data: Packed or plain bytes.
        limit: The most bytes that may come out; never more than 64 MiB and 1,000 times the packed bytes do.

    Returns:
        The unpacked bytes.

    Raises:
        ValueError: If the stream is damaged or cut short, or holds more.
    """
    data = bytes(data)
    if _method(data):
        return _unpack(data, most_unpacked(len(data), limit))
    if data.startswith(MAGIC):
        return unpack(data, max_bytes=limit)
    if len(data) > limit:
        raise ValueError(f"Expected at most {limit:,} bytes. Received: {len(data):,}. This is not a TFLite file.")
    return data


def _method(data: bytes) -> str | None:
    return "gzip" if data.startswith(GZIP) else "xz" if data.startswith(XZ) else None


def _decompressor(method: str | None) -> Any:
    return (
        zlib.decompressobj(_GZIP_FORMAT)
        if method == "gzip"
        else lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY_LIMIT)
    )


def _head_of(data: bytes) -> bytes:
    """Return the first 8 bytes of what gzip or xz packed; nothing of other data, or where these are damaged."""
    method = _method(data)
    try:
        return _decompressor(method).decompress(data[:_PACKED_HEAD_BYTES], 8) if method else b""
    except (lzma.LZMAError, zlib.error):
        return b""


def _unpack(data: bytes, limit: int) -> bytes:
    method = _method(data)
    decompressor = _decompressor(method)
    try:
        unpacked = decompressor.decompress(data, limit + 1)
    except (lzma.LZMAError, zlib.error) as error:
        raise ValueError(
            f"Expected whole {method} data. Received: data that are damaged ({reason_of(error)}). "
            "Copy the file again."
        ) from error
    if len(unpacked) > limit:
        raise ValueError(
            f"Expected {method} data of at most {limit:,} bytes. Received: data that hold more. This is not a TFLite "
            f"file: packed data hold at most {EXPANSION_LIMIT}."
        )
    if not decompressor.eof or decompressor.unused_data.strip(b"\0"):
        problem = "go on after their end" if decompressor.eof else "are cut short"
        raise ValueError(f"Expected whole {method} data. Received: data that {problem}. Copy the file again.")
    return unpacked


# Read a model file, packed or not.


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
        head = _head_of(raw)  # all of it may be much
        data = _decode(raw) if len(head) < 8 or head[4:] == IDENTIFIER else head
    except ValueError as error:
        raise ValueError(f"Cannot unpack {name}. {reason_of(error)}.") from error
    if data[4:8] != IDENTIFIER:
        raise ValueError(
            f"Expected a TFLite file (bytes 4 to 8 are {IDENTIFIER!r}), plain, gzip, xz or packed. "
            f"Received: {name}, whose content begins with {data[:8]!r}.{_advice(raw, name)}"
        )
    check_whole(data, name=name)
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
    check_whole(data, name=name)
    return data


def is_packed(path: str | os.PathLike[str]) -> bool:
    """Tell by its first bytes whether a file is packed, or is in another file; one that cannot be read is not."""
    return _head(path).startswith((GZIP, XZ, MAGIC, LITERTLM))


def check_whole(data: bytes | memoryview, *, name: str) -> None:
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


# Write a model file array by array: the values go from where they are to the disk, without a copy of all of them.

LARGEST_FILE = 2**31  # bytes, which offsets in a flatbuffer can count
_BUFFERS, _DATA = 4, 0  # the numbers of the fields in the format
_LENGTH = 4  # bytes of the number in front of the values


def write_model(model: schema.ModelT, path: Path) -> None:
    """Write a .tflite file. The values behind its tables are read, and written, one array after another.

    Args:
        model: What `load_objects` returns, changed or not. The data of its buffers may be anything that NumPy reads
            as an array and that has `nbytes`.
        path: Where the file goes.

    Raises:
        ValueError: If it does not fit into 2 GB, or a part cannot be packed.
    """
    buffers = enumerate(model.buffers)
    contents = {number: buffer.data for number, buffer in buffers if buffer.data is not None and buffer.data.nbytes}
    tables = bytearray(save_objects(_emptied(model, contents)))
    holders = FlatbufferTable.root(bytes(tables)).tables(_BUFFERS)
    starts, end = {}, len(tables)
    for number, values in contents.items():
        starts[number] = -(-(end + _LENGTH) // ALIGNMENT) * ALIGNMENT
        end = starts[number] + values.nbytes
        field = holders[number].position(_DATA)
        struct.pack_into("<I", tables, field, min(starts[number] - _LENGTH - field, LARGEST_FILE))
    if end >= LARGEST_FILE:
        raise ValueError(
            f"Expected a model that makes a TFLite file of less than 2 GB. Received: one of {end / 1e9:.2f} GB."
        )
    with path.open("wb") as stream:
        stream.write(tables)
        for number, values in contents.items():
            stream.write(bytes(starts[number] - _LENGTH - stream.tell()))
            stream.write(struct.pack("<I", values.nbytes))
            np.ascontiguousarray(values).tofile(stream)


def _emptied(model: schema.ModelT, contents: Mapping[int, Any]) -> schema.ModelT:
    """Return a copy of a model without the values of buffers, but with the fields that say where they are."""
    emptied = schema.ModelT()
    vars(emptied).update(vars(model))
    empty = schema.BufferT(data=np.zeros(0, np.uint8))
    emptied.buffers = [empty if number in contents else buffer for number, buffer in enumerate(model.buffers)]
    return emptied


# Write a file whole or not at all.

_log = logging.getLogger(__name__)


def check_destination(path: str | os.PathLike[str]) -> Path:
    """Return the path if a file can be written there, before any work is done for it.

    Raises:
        ValueError: If it is a folder or a device, or its folder is missing or not writable.
        TypeError: If it is not a path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"Expected the path of the file to write. Received: an object of type {type(path).__name__}.")
    destination = Path(path)
    try:
        real = _real_path(destination)
        is_folder, has_folder = real.is_dir(), real.parent.is_dir()
        is_special = os.path.lexists(real) and not real.is_file()
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise ValueError(f"Cannot write {str(destination)!r}: {reason_of(error)}. Choose another path.") from error
    if is_folder:
        raise ValueError(f"Cannot write {str(destination)!r}: it is a folder. Add a file name.")
    if is_special:  # a device or a pipe, which a file would replace, or a link to itself
        raise ValueError(
            f"Cannot write {str(destination)!r}: it exists and is not a regular file. Choose another path."
        )
    if not has_folder:
        raise ValueError(
            f"Cannot write {str(destination)!r}: the folder {str(real.parent)!r} does not exist. Create it first."
        )
    if not os.access(real.parent, os.W_OK | os.X_OK):
        raise ValueError(
            f"Cannot write {str(destination)!r}: no permission to write in the folder {str(real.parent)!r}. "
            "Choose another folder or change its permissions."
        )
    return destination


def _real_path(path: Path) -> Path:
    """Return where a file really lies: links are kept, and what they point to is written."""
    return Path(os.path.realpath(path))


def check_not_read(destination: str, *sources: str | None) -> None:
    """Refuse to write where something is read.

    Raises:
        ValueError: If one of the sources is the file to write, under whatever name.
    """
    for source in filter(None, sources):
        try:
            same = Path(destination).samefile(source)
        except (OSError, ValueError):
            continue  # a missing file is reported where it is read
        if same:
            raise ValueError(
                f"Expected a path to write that is not read as well. Received: {destination!r}, which is {source!r}. "
                "Choose another path."
            )


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all: readers see the old content or the new, never a part.

    The permissions of a file that is replaced stay.

    Args:
        path: Where to write, exactly as given; a link stays, and what it points to is written.
        data: The content.

    Raises:
        ValueError: If the file cannot be written; what was there before is untouched.
    """
    destination = check_destination(path)
    real = _real_path(destination)
    temporary = real.parent / f".tfprune-{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as stream:
            if real.exists():
                shutil.copymode(real, temporary)  # who may read a file stays as it is
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(real)
    except OSError as error:
        raise ValueError(
            f"Cannot write {str(destination)!r}: {error.strerror}. Choose another folder or free some space."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    _log.info("wrote %s: %s bytes", destination, f"{len(data):,}")
