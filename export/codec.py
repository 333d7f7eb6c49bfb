"""Model files as bytes: pack, unpack, read, write. What a file is, its first bytes say, never its suffix."""

from __future__ import annotations

import lzma
import os
import uuid
import zlib
from pathlib import Path
from typing import Any

from tfprune.export.operator_check import check_operators
from tfprune.export.packed import BOUND, LIMIT, MAGIC, check_expansion, most, unpack
from tfprune.export.packing import pack
from tfprune.export.sparse_check import check_sparse
from tfprune.export.structure import IDENTIFIER, check_whole

METHODS = (None, "gzip", "xz", "packed")
XZ_MEMORY = 2**28  # four times what the strongest preset needs; a header could ask for gigabytes
GZIP_FORMAT = 31  # zlib's wbits: the largest window, with gzip's header and checksum
GZIP = b"\x1f\x8b"
XZ = b"\xfd7zXZ\x00"
HEAD = 2**16  # packed bytes that surely hold the first of the content

Source = str | os.PathLike[str] | bytes | bytearray | memoryview


def encode(data: bytes, method: str | None) -> bytes:
    """Pack bytes without loss; the same bytes always give the same result.

    Args:
        data: What to pack.
        method: None (as it is), "gzip" or "xz", each at its strongest setting, or "packed", which is smaller for
            a TFLite file, and for nothing else.

    Returns:
        The packed bytes, which `decode` turns back.

    Raises:
        ValueError: For another method, for "packed" with what is no TFLite file, or for data that pack so well that
            `decode` would take them for a bomb.

    Example:
        >>> decode(encode(b"weights", "xz"))
        b'weights'
    """
    check_method(method)
    packed = _encode(data, method)
    check_expansion(data, packed)
    return packed


def _encode(data: bytes, method: str | None) -> bytes:
    if method == "gzip":
        # Not gzip.compress: what it writes into the header differs from one Python to the next.
        packer = zlib.compressobj(9, zlib.DEFLATED, GZIP_FORMAT, zlib.DEF_MEM_LEVEL + 1)
        return packer.compress(data) + packer.flush()
    if method == "xz":
        return lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    if method == "packed":
        return pack(data)
    return bytes(data)


def check_method(method: str | None) -> None:
    """Refuse what `encode` cannot do.

    Raises:
        ValueError: For anything but None, "gzip", "xz" and "packed".
    """
    if method not in METHODS:
        raise ValueError(f"Expected `compress` to be None, 'gzip', 'xz' or 'packed'. Received: compress={method!r}")


def decode(data: bytes, *, limit: int = LIMIT) -> bytes:
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
        return _unpack(data, most(len(data), limit))
    if data.startswith(MAGIC):
        return unpack(data, limit=limit)
    if len(data) > limit:
        raise ValueError(f"Expected at most {limit:,} bytes. Received: {len(data):,}. This is no TFLite file.")
    return data


def _method(data: bytes) -> str | None:
    return "gzip" if data.startswith(GZIP) else "xz" if data.startswith(XZ) else None


def _decompressor(method: str | None) -> Any:
    return zlib.decompressobj(GZIP_FORMAT) if method == "gzip" else lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY)


def _head(data: bytes) -> bytes:
    """Return the first 8 bytes of what gzip or xz packed; nothing of other data, or where these are damaged."""
    method = _method(data)
    try:
        return _decompressor(method).decompress(data[:HEAD], 8) if method else b""
    except (lzma.LZMAError, zlib.error):
        return b""


def _unpack(data: bytes, limit: int) -> bytes:
    method = _method(data)
    decompressor = _decompressor(method)
    try:
        unpacked = decompressor.decompress(data, limit + 1)
    except (lzma.LZMAError, zlib.error) as error:
        raise ValueError(
            f"Expected whole {method} data. Received: data that are damaged ({error}). Copy the file again."
        ) from error
    if len(unpacked) > limit:
        raise ValueError(
            f"Expected {method} data of at most {limit:,} bytes. Received: data that hold more. This is no TFLite "
            f"file: what is packed holds at most {BOUND}."
        )
    if not decompressor.eof or decompressor.unused_data.strip(b"\0"):
        problem = "go on after their end" if decompressor.eof else "are cut short"
        raise ValueError(f"Expected whole {method} data. Received: data that {problem}. Copy the file again.")
    return unpacked


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
        head = _head(raw)  # all of it may be much
        data = decode(raw) if len(head) < 8 or head[4:] == IDENTIFIER else head
    except ValueError as error:
        raise ValueError(f"Cannot unpack {name}. {error}") from error
    if data[4:8] != IDENTIFIER:
        raise ValueError(
            f"Expected a TFLite file (bytes 4 to 8 are {IDENTIFIER!r}), plain, gzip, xz or packed. "
            f"Received: {name}, whose content begins with {data[:8]!r}."
        )
    try:
        check_whole(data)
        check_sparse(data)
        check_operators(data)
    except ValueError as error:
        raise ValueError(
            f"Expected a whole TFLite file. Received: {name}, which is damaged or cut short ({error}). "
            "Copy the file again."
        ) from error
    return data


def is_model_file(path: str | os.PathLike[str]) -> bool:
    """Tell by its first bytes whether a file is a TFLite file, plain or packed; one that cannot be read is none."""
    try:
        with Path(path).open("rb") as stream:
            head = stream.read(8)
    except (OSError, ValueError):  # ValueError: a path with a zero byte
        return False
    return head[4:] == IDENTIFIER or head.startswith((GZIP, XZ, MAGIC))


def source_name(source: Source) -> str:
    """Return how errors call a source: its path, or the number of its bytes."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"a file of {len(source):,} bytes"
    if isinstance(source, (str, os.PathLike)):
        return repr(os.fspath(source))
    raise TypeError(
        "Expected the path of a TFLite file, or its content as bytes. "
        f"Received: {source!r} of type {type(source).__name__}."
    )


def read_source(source: Source) -> bytes:
    """Return the bytes of a source as they are, still packed.

    Raises:
        TypeError: If `source` is neither a path nor bytes.
        ValueError: If there is no such file, or it cannot be read.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    name = source_name(source)
    try:
        return Path(source).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"Expected a TFLite file. Received: {name}, which does not exist.") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise ValueError(f"Cannot read {name}: {_why(error)}. Check the path and its permissions.") from error


def _why(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


def check_target(path: str | os.PathLike[str]) -> Path:
    """Return the path if a file can be written there, before any work is done for it.

    Raises:
        ValueError: If it is a folder or a device, or its folder is missing or not writable.
        TypeError: If it is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"Expected the path of the file to write. Received: an object of type {type(path).__name__}")
    target = Path(path)
    try:
        place = _place(target)
        is_folder, has_folder = place.is_dir(), place.parent.is_dir()
        is_special = os.path.lexists(place) and not place.is_file()
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise ValueError(f"Cannot write {str(target)!r}: {_why(error)}. Choose another path.") from error
    if is_folder:
        raise ValueError(f"Cannot write {str(target)!r}: it is a folder. Add a file name.")
    if is_special:  # a device or a pipe, which a file would replace, or a link to itself
        raise ValueError(f"Cannot write {str(target)!r}: it is there and is no regular file. Choose another path.")
    if not has_folder:
        raise ValueError(
            f"Cannot write {str(target)!r}: the folder {str(place.parent)!r} does not exist. Create it first."
        )
    if not os.access(place.parent, os.W_OK | os.X_OK):
        raise ValueError(
            f"Cannot write {str(target)!r}: no permission to write in the folder {str(place.parent)!r}. "
            "Choose another folder or change its permissions."
        )
    return target


def _place(path: Path) -> Path:
    """Return where a file really lies: links are kept, and what they point to is written."""
    return Path(os.path.realpath(path))


def check_apart(target: str, *sources: str | None) -> None:
    """Refuse to write where something is read.

    Raises:
        ValueError: If one of the sources is the file at the target, under whatever name.
    """
    for source in filter(None, sources):
        try:
            same = Path(target).samefile(source)
        except (OSError, ValueError):
            continue  # what is missing is told where it is read
        if same:
            raise ValueError(
                f"Expected a target that is not read as well. Received: {target!r}, which is {source!r}. "
                "Choose another target."
            )


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all: readers see the old content or the new, never a part.

    Args:
        path: Where to write, exactly as given; a link stays, and what it points to is written.
        data: The content.

    Raises:
        ValueError: If the file cannot be written; what was there before is untouched.
    """
    target = check_target(path)
    place = _place(target)
    temporary = place.parent / f".tfprune-{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(place)
    except OSError as error:
        raise ValueError(
            f"Cannot write {str(target)!r}: {error.strerror}. Choose another folder or free some space."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
