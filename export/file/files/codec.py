"""Model files as bytes: pack, unpack, read, write. What a file is, its first bytes say, never its suffix."""

from __future__ import annotations

import lzma
import zlib
from pathlib import Path
from typing import Any

from tfprune.base.spec import check_choice
from tfprune.export.file.files.pack import pack
from tfprune.export.file.files.unpack import (
    EXPANSION_LIMIT,
    MAGIC,
    MAX_UNPACKED_BYTES,
    check_expansion,
    most_unpacked,
    unpack,
)
from tfprune.export.file.report import reason_of

METHODS = ("gzip", "xz", "packed")
SUFFIXES = {".tflite": None, ".tfz": "packed", ".gz": "gzip", ".xz": "xz"}  # what each promises; others nothing
_OTHER_FILES = {".keras": "a Keras model", ".h5": "a Keras model", ".npy": "a NumPy array", ".npz": "NumPy arrays"}
_OTHER_FILES[".litertlm"] = "a file of LiteRT-LM"
XZ_MEMORY_LIMIT = 2**28  # four times what the strongest preset needs; a header could ask for gigabytes
GZIP_FORMAT = 31  # zlib's wbits: the largest window, with gzip's header and checksum
GZIP = b"\x1f\x8b"
XZ = b"\xfd7zXZ\x00"
PACKED_HEAD_BYTES = 2**16  # packed bytes that surely hold the first of the content


def encode(data: bytes, method: str | None) -> bytes:
    """Pack bytes without loss; the same bytes always give the same result.

    Args:
        data: What to pack.
        method: None (as it is), "gzip" or "xz", each at its strongest setting, or "packed", which is smaller for
            a TFLite file, and for nothing else.

    Returns:
        The packed bytes, which `decode` turns back.

    Raises:
        TypeError: If `method` is neither None nor a string.
        ValueError: If the method is another, the data for "packed" are not a TFLite file, or they pack so well that
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
        raise ValueError(
            f"Expected the path of a TFLite file to write. Received: path={str(path)!r}, which has the suffix of "
            f"{_OTHER_FILES[suffix]}. Let the path end in {right}."
        )
    if promised != method:
        raise ValueError(
            f"Expected compress={promised!r} with a path that ends in {suffix}. Received: compress={method!r}, "
            f"path={str(path)!r}. Let the path end in {right}, or pass compress={promised!r}."
        )


def decode(data: bytes, *, limit: int = MAX_UNPACKED_BYTES) -> bytes:
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
        zlib.decompressobj(GZIP_FORMAT)
        if method == "gzip"
        else lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY_LIMIT)
    )


def head_of(data: bytes) -> bytes:
    """Return the first 8 bytes of what gzip or xz packed; nothing of other data, or where these are damaged."""
    method = _method(data)
    try:
        return _decompressor(method).decompress(data[:PACKED_HEAD_BYTES], 8) if method else b""
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
