"""Model files as bytes: open them, whatever packs them, pack them, and write them whole or not at all."""

from __future__ import annotations

import functools
import logging
import lzma
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfprune.base.arrays import (
    FAR_LZMA,
    FORMS,
    NEAR,
    ROWS,
    SCALED,
    SPLITS,
    Split,
    compress,
    compress_quickly,
    compress_whole,
    expand,
    join,
    split,
    split_rows,
)
from tfprune.base.folders import meant_file, write_whole
from tfprune.base.spec import ArgumentError, check_choice, check_count
from tfprune.export.file import schema
from tfprune.export.file.document import ALIGNMENT, LITERTLM, save_objects
from tfprune.export.file.reader import (
    IDENTIFIER,
    Vector,
    check_operators,
    check_sparse,
    check_structure,
    find_lack,
    find_missing_values,
    long_vectors,
)
from tfprune.export.file.report import reason_of
from tfprune.export.file.sparse_tensors import FlatbufferTable

# Vectors of floats that are a number times another vector, such as the scales of the biases in an integer file.
#
# A bias is held in steps of (scale of the input) x (scale of the weight), channel by channel, so that its scales
# need not be stored beside those of the weight.

_Buffer = bytes | memoryview
_REFERENCES_TRIED = 3  # vectors of a group that are tried as the reference of the others
_SMALLEST_PRODUCT = np.finfo(np.float32).tiny  # smaller products are not the same on every processor
_MAX_STEPS_FROM_PRODUCT = 127  # steps of float32 from a product: what a signed byte holds


class _Scaled(NamedTuple):
    """How a vector follows from another one.

    Attributes:
        reference: The index of the other one.
        factor: The bits of the number.
        steps: How many steps of float32 each entry lies above the product, as signed bytes; empty if none does.
    """

    reference: int
    factor: int
    steps: bytes


def _scaled(reference: _Buffer, factor: int, *, steps: _Buffer = b"") -> bytes:
    """Multiply a vector of float32.

    Args:
        reference: The vector's bytes.
        factor: The number's bits.
        steps: How many steps of float32 to go on from each product, as signed bytes; none if empty.

    Returns:
        The product's bytes.

    Raises:
        ValueError: If there are not as many steps as entries.

    Example:
        >>> _scaled(np.float32([1, 2]).tobytes(), int(np.float32(3).view(np.uint32))) == np.float32([3, 6]).tobytes()
        True
    """
    product = _product(np.frombuffer(reference, "<f4"), factor)
    if len(steps) not in (0, len(product)):
        raise ValueError("a scaled piece has too few steps, or too many.")
    # As unsigned numbers they wrap around, whatever a file may claim.
    return (product.view("<u4") + np.frombuffer(steps or bytes(len(product)), np.int8).astype("<u4")).tobytes()


def _product(entries: np.ndarray, factor: int) -> np.ndarray:
    with np.errstate(all="ignore"):
        return (entries * np.uint32(factor).view(np.float32)).astype("<f4")


def _find_scaled(vectors: Sequence[_Buffer]) -> dict[int, _Scaled]:
    """Find vectors that are a number times another vector, but for the last bits of some entries.

    Args:
        vectors: Bytes of any kind.

    Returns:
        By the index of each such vector how it follows from its reference, which is not itself such a vector.
    """
    ways_by_index: dict[int, _Scaled] = {}
    for group in _groups(vectors):
        tried = [_from_reference(vectors, group, index) for index in group[:_REFERENCES_TRIED]]
        best: dict[int, _Scaled] = max(
            tried, key=lambda ways: (len(ways), sum(not way.steps for way in ways.values()))
        )
        ways_by_index |= best
    return ways_by_index


def _groups(vectors: Sequence[_Buffer]) -> Iterator[list[int]]:
    """Yield the vectors that have their largest and smallest entries in common, as a factor leaves them."""
    groups: dict[tuple[int, int, int], list[int]] = {}
    for index, vector in enumerate(vectors):
        if len(vector) % 4 == 0:
            entries = np.abs(np.frombuffer(vector, "<f4"))
            if np.isfinite(entries).all() and entries.max(initial=0) >= _SMALLEST_PRODUCT:
                key = (len(vector), int(entries.argmax()), int(entries.argmin()))
                groups.setdefault(key, []).append(index)
    yield from (group for group in groups.values() if len(group) > 1)


def _from_reference(vectors: Sequence[_Buffer], group: list[int], reference: int) -> dict[int, _Scaled]:
    others = {index: _follow(vectors, reference, index) for index in group if index != reference}
    return {index: way for index, way in others.items() if way is not None}


def _follow(vectors: Sequence[_Buffer], reference: int, index: int) -> _Scaled | None:
    """Return how one vector follows from another; None if it does not."""
    entries, wanted = (np.frombuffer(vectors[place], "<f4") for place in (reference, index))
    if (np.abs(wanted[wanted != 0]) < _SMALLEST_PRODUCT).any():
        return None
    largest = np.abs(entries).argmax()
    with np.errstate(all="ignore"):
        guess = int((wanted[largest] / entries[largest]).view(np.uint32))
    # Both the product and the quotient are rounded, so the number may be two steps away.
    factors = range(max(guess - 2, 0), guess + 3)
    steps = {bits: wanted.view("<i4").astype(np.int64) - _product(entries, bits).view("<i4") for bits in factors}
    bits = min(steps, key=lambda bits: int(np.abs(steps[bits]).sum()))
    if np.abs(steps[bits]).max() > _MAX_STEPS_FROM_PRODUCT:
        return None
    return _Scaled(reference, bits, steps[bits].astype(np.int8).tobytes() if steps[bits].any() else b"")


# Sources: a file by its path, or its bytes.

Source = str | os.PathLike[str] | bytes | bytearray | memoryview


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
        ValueError: If the file does not exist or cannot be read.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    name = source_name(source)
    try:
        return Path(source).read_bytes()
    except FileNotFoundError as error:
        text = f"Expected a TFLite file. Received: {name}, which does not exist.{meant_file(source)}"
        raise ValueError(text) from error
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise ValueError(f"Cannot read {name}: {reason_of(error)}. Check the path and its permissions.") from error


# The packed file, as it is read: a header, a table, and streams. Nothing in it is trusted.
#
#     header   HEADER: magic, version, bytes and CRC-32 of the original, number of pieces, coder and
#              bytes of the table
#     table    packed: PIECE for each piece, then STREAM for each stream
#     streams  first what lies outside of the pieces, then those of each piece
#
# A piece is a part of the original that was split by `streams`. `detail` is its commonest entry; where it was split
# by rows, plus 2^32 times their length; or, where the piece is another one times a number, that one's index in the
# table, which is an earlier one, and 2^32 times the bits of the number. Files of version 1 have no pieces that are
# folded or split by rows, those of version 2 no streams of the coder FAR_LZMA, those of version 3 no pieces that
# lie near another's product; they are the same otherwise.

_MAGIC = b"TFZ"
_VERSION, _FAR_VERSION, _NEAR_VERSION = 2, 3, 4  # a file has the lowest with which earlier readers can read it
_READABLE_VERSIONS = (1, _VERSION, _FAR_VERSION, _NEAR_VERSION)
_MAX_UNPACKED_BYTES = 2**31  # bytes of the original: a flatbuffer's offsets reach no further
_ALWAYS_ALLOWED_BYTES = 2**26  # bytes that any packed file may hold, and beyond them so many times its own:
_MAX_EXPANSION = 1000  # float32 weights of which 99.9 % are zeros pack to about 1/700: 0.04 bits of entropy for 32
_EXPANSION_LIMIT = f"{_MAX_EXPANSION:,} for each packed byte beyond {_ALWAYS_ALLOWED_BYTES:,}"
_ALWAYS_ALLOWED_PIECES = 2**12  # pieces that any packed file may have, and beyond them one for so many of its bytes:
_PACKED_BYTES_PER_PIECE = 16  # each costs time, and a table of pieces without content packs to nearly nothing
_HEADER = struct.Struct("<3sBQIIBI")
_PIECE = np.dtype([("start", "<u4"), ("size", "<u4"), ("form", "u1"), ("detail", "<u8")])
_STREAM = np.dtype([("coder", "u1"), ("size", "<u4")])
_MIN_PIECE_BYTES = 256  # bytes of a piece: each takes less in the table, so a table is never longer than the original
_MAX_PIECE_BYTES = 2**20  # bytes of a piece, which bounds the memory for splitting it and for putting it together
_MAX_STREAMS = max(form.streams for form in FORMS)


def unpack(source: Source, *, max_bytes: int = _MAX_UNPACKED_BYTES) -> bytes:
    """Return the .tflite file that `pack` packed, bit for bit.

    Use it where a program needs the plain file; everything here that reads a model file unpacks it by itself. The
    memory needed is at most three times the unpacked size. A file whose header declares more than `max_bytes`, or
    more than 64 MiB and 1,000 times the packed bytes, is refused.

    Args:
        source: A path, or the bytes of a packed file.
        max_bytes: The most bytes that the original file may have, at least 1. Default 2 GiB.

    Returns:
        The bytes of the original file.

    Raises:
        TypeError: If `source` is neither a path nor bytes.
        ValueError: If the file cannot be read, is not a packed file, has another version, is damaged or cut short, or
            unpacks to more than `max_bytes`.

    Example:
        >>> unpack(tfprune.export.pack("digits.tflite")) == Path("digits.tflite").read_bytes()
        True
    """
    check_count(max_bytes, "max_bytes", least=1)
    data = read_source(source)
    if data[:3] != _MAGIC:
        raise ValueError(
            f"Expected a packed file, which begins with {_MAGIC!r}. Received: {len(data):,} bytes that begin with "
            f"{data[:8]!r}. Only what `tfprune.export.pack` returned can be unpacked."
        )
    if len(data) > len(_MAGIC) and data[len(_MAGIC)] not in _READABLE_VERSIONS:
        raise ValueError(
            f"Expected a packed file of version {max(_READABLE_VERSIONS)} at most. Received: version "
            f"{data[len(_MAGIC)]}. Install the newest tfprune, or copy the file again."
        )
    try:
        return _unpack(memoryview(data), max_bytes)
    except (struct.error, ValueError) as error:
        raise ValueError(
            f"Expected a whole packed file. Received: {len(data):,} bytes that are damaged or cut short "
            f"({reason_of(error)}). Copy the file again."
        ) from error


def _most_unpacked(packed: int, limit: int = _MAX_UNPACKED_BYTES) -> int:
    """Return how many bytes may come out of so many packed ones; more than that is a decompression bomb."""
    return min(limit, _ALWAYS_ALLOWED_BYTES + _MAX_EXPANSION * packed)


def _most_pieces(packed: int) -> int:
    """Return how many pieces a file of so many packed bytes may have."""
    return _ALWAYS_ALLOWED_PIECES + packed // _PACKED_BYTES_PER_PIECE


def _check_expansion(data: bytes, packed: bytes) -> None:
    """Refuse to pack what would be taken for a bomb when it is unpacked."""
    if len(data) > _most_unpacked(len(packed)):
        raise ValueError(
            f"Expected data that are not nearly all zeros. Received: {len(data):,} bytes that pack into "
            f"{len(packed):,}, of which at most {_most_unpacked(len(packed)):,} are unpacked, {_EXPANSION_LIMIT}. "
            "Leave them as they are."
        )


def _unpack(data: memoryview, limit: int) -> bytes:
    _, _, size, checksum, count, coder, length = _HEADER.unpack_from(data)
    if size > _most_unpacked(len(data), limit):
        raise ValueError(
            f"it declares {size:,} bytes; at most {_most_unpacked(len(data), limit):,} are unpacked, "
            f"{_EXPANSION_LIMIT}."
        )
    if count * _MIN_PIECE_BYTES > size:
        raise ValueError(f"it declares {count:,} pieces in {size:,} bytes.")
    if count > _most_pieces(len(data)):
        raise ValueError(f"it declares {count:,} pieces; a file of its size has at most {_most_pieces(len(data)):,}.")
    body = data[_HEADER.size :]
    pieces, streams = _table(expand(_cut(body, 0, length), coder, limit=_table_limit(count)), count, size)
    reader = _Streams(body[length:], streams)
    rest = memoryview(reader(size - int(pieces["size"].sum(dtype=np.int64))))
    contents = _contents(reader, pieces)
    reader.finish()
    whole = _whole(rest, dict(zip(pieces["start"].tolist(), contents, strict=True)))
    if len(whole) != size or zlib.crc32(whole) != checksum:
        raise ValueError("its content is not what was packed.")
    return whole


def _contents(reader: _Streams, pieces: np.ndarray) -> list[bytes]:
    contents: list[bytes] = []
    for _, size, form, detail in map(np.void.item, pieces):
        if FORMS[form] not in (SCALED, NEAR):
            contents.append(join(reader, FORMS[form], size=size, common=detail))
            continue
        factor, index = divmod(detail, 2**32)
        if index >= len(contents) or len(contents[index]) != size or size % SCALED.width:
            raise ValueError("a piece is scaled from one that does not fit.")
        steps = reader(size // SCALED.width) if FORMS[form] == NEAR else b""
        contents.append(_scaled(contents[index], factor, steps=steps))
    return contents


def _whole(rest: memoryview, contents: dict[int, bytes]) -> bytes:
    """Put the pieces where they begin, and the rest around them."""
    parts: list[bytes | memoryview] = []
    end = position = 0
    for start, content in sorted(contents.items()):
        gap = start - end
        if gap < 0:
            raise ValueError("its pieces overlap.")
        parts += [_cut(rest, position, gap), content]
        end, position = start + len(content), position + gap
    return b"".join([*parts, rest[position:]])


def _table_limit(count: int) -> int:
    return count * (_PIECE.itemsize + _MAX_STREAMS * _STREAM.itemsize) + _STREAM.itemsize


def _table(table: bytes, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the records of the pieces and of all streams, checked against the header."""
    pieces = np.frombuffer(_cut(memoryview(table), 0, count * _PIECE.itemsize), _PIECE)
    streams = np.frombuffer(memoryview(table)[pieces.nbytes :], _STREAM)
    if count and pieces["form"].max() >= len(FORMS):
        raise ValueError("a piece has a form that does not exist.")
    needed = np.array([form.streams for form in FORMS])[pieces["form"]]
    if len(streams) != 1 + needed.sum():
        raise ValueError("its table names too few streams, or too many.")
    sizes = pieces["size"]
    if count and not _MIN_PIECE_BYTES <= sizes.min() <= sizes.max() <= _MAX_PIECE_BYTES:
        raise ValueError(f"a piece has fewer than {_MIN_PIECE_BYTES} bytes or more than {_MAX_PIECE_BYTES:,}.")
    if sizes.sum(dtype=np.int64) > size:
        raise ValueError("its pieces are longer than it is.")
    return pieces, streams


class _Streams:
    """Gives one stream after the other, each unpacked when its turn comes."""

    def __init__(self, data: memoryview, streams: np.ndarray) -> None:
        self._data = data
        self._streams = map(np.void.item, streams)
        self._at = 0

    def __call__(self, limit: int) -> bytes:
        coder, size = next(self._streams)
        packed = _cut(self._data, self._at, size)
        self._at += size
        return expand(packed, coder, limit=limit)

    def finish(self) -> None:
        if self._at != len(self._data):
            raise ValueError("it goes on after its end.")


def _cut(data: memoryview, start: int, size: int) -> memoryview:
    if start + size > len(data):
        raise ValueError("a part goes beyond the end.")
    return data[start : start + size]


# Pack a .tflite file: take its weights out, code each as streams that suit it, and the rest as it is.

_MAX_SINGLE_STREAM_BYTES = 2**16  # files up to so many bytes are tried as one stream of our own, too
_SAMPLED_BYTES = 2**15  # bytes of a piece on which forms are compared
_PLAIN_SPLIT = Split(1, "plain")
_SPARSE_SPLITS = (Split(1, "runs"), Split(1, "mask"))  # what rows can be smaller than
_Coder = Callable[[bytes], tuple[int, bytes]]


class _Piece(NamedTuple):
    """A part of the file, split and packed."""

    start: int
    size: int
    form: Split
    detail: int
    streams: tuple[tuple[int, bytes], ...]


def pack(source: Source) -> bytes:
    """Pack a .tflite file without loss; pruned and quantized weights take about 1 % more than their entropy.

    Use it for files that are stored or sent. Unpacking needs nothing but the standard library and NumPy. The same
    bytes give the same result with the same zlib and liblzma.

    Args:
        source: A path, or the bytes of a plain .tflite file, at most 2 GiB.

    Returns:
        The packed file, usually named `.tfz`, for `unpack` and for everything here that reads model files. It is at
        most 30 bytes longer than the original, and at most 64 bytes longer than the smaller result of gzip -9 and
        xz -9.

    Raises:
        TypeError: If `source` is neither a path nor bytes.
        ValueError: If the file cannot be read, is not a whole TFLite file, is above 2 GiB, or has so many zeros that
            it would be refused as a decompression bomb: above 64 MiB and 1,000 times the packed bytes.

    Reference:
        Han, S., Mao, H. and Dally, W. J. Deep Compression. ICLR 2016. arXiv:1510.00149 (coding of pruned weights).

    Example:
        >>> len(pack("digits.tflite")) < Path("digits.tflite").stat().st_size / 2
        True
    """
    data = read_source(source)
    if data[4:8] != IDENTIFIER or len(data) > _MAX_UNPACKED_BYTES:
        raise ValueError(
            f"Expected a plain TFLite file (bytes 4 to 8 are {IDENTIFIER!r}) of at most {_MAX_UNPACKED_BYTES:,} "
            f"bytes. Received: {len(data):,} bytes that begin with {data[:8]!r}."
        )
    try:
        ranges = [*_ranges(data)]
    except ValueError as error:
        raise ValueError(
            f"Expected a whole TFLite file. Received: {len(data):,} bytes that are damaged or cut short "
            f"({reason_of(error)}). Copy the file again."
        ) from error
    # Weights with structure repeat over long distances, which pieces hide from the coder.
    pieces = _pieces(data, ranges)
    ways = [_build(data, pieces), _build(data, [], coder=compress_whole)]
    if len(pieces) > _most_pieces(len(ways[0])):
        del ways[0]
    if len(data) <= _MAX_SINGLE_STREAM_BYTES:
        ways.append(_build(data, []))
    packed = min(ways, key=len)
    _check_expansion(data, packed)
    return packed


def _pieces(data: bytes, ranges: list[Vector]) -> list[_Piece]:
    """Split and pack parts of a file where that makes them smaller; those last that come from others."""
    scaled = _find_scaled([memoryview(data)[start : start + size] for start, size, _ in ranges])
    needed = {way.reference for way in scaled.values()}
    piece_indices: dict[int, int] = {}
    pieces: list[_Piece] = []
    for index, (start, size, row) in enumerate(ranges):
        if index in scaled:
            continue
        content = data[start : start + size]
        piece = _piece(content, row)._replace(start=start)
        # Long ones are kept out of the rest, whatever they cost: the rest is packed all at once, which takes memory.
        if index in needed or _cost(piece) < size or size >= _SAMPLED_BYTES:
            piece_indices[index] = len(pieces)
            pieces.append(piece)
    for index, way in scaled.items():
        start, size, _ = ranges[index]
        form, streams = (NEAR, (compress(way.steps),)) if way.steps else (SCALED, ())
        pieces.append(_Piece(start, size, form, piece_indices[way.reference] + way.factor * 2**32, streams))
    return pieces


def _ranges(data: bytes) -> Iterator[Vector]:
    for start, size, row in long_vectors(data, smallest=_MIN_PIECE_BYTES):
        step = _MAX_PIECE_BYTES - _MAX_PIECE_BYTES % min(row, _MAX_PIECE_BYTES)  # whole rows
        for first in range(0, size, step):
            length = min(step, size - first)
            if length >= _MIN_PIECE_BYTES:
                yield Vector(start + first, length, row)


def _piece(content: bytes, row: int) -> _Piece:
    """Split by the form that suits a sample, or by rows if that is smaller."""
    piece = _sampled(content)
    if piece.form not in _SPARSE_SPLITS or row >= len(content):
        return piece
    return min(piece, _coded(content, ROWS, split_rows(content, row), compress), key=_cost)


def _sampled(content: bytes) -> _Piece:
    """Split by the form that quick coders like best, unless repeats in the whole, which slow ones find, save more."""
    size = min(len(content), _SAMPLED_BYTES)
    start = (len(content) - size) // 2 // 4 * 4
    sample = content[start : start + size]
    fitting = [form for form in SPLITS if len(content) % form.width == 0]
    quick = min((_split(sample, form, compress_quickly) for form in fitting), key=_cost)
    best = min((_split(sample, form, compress) for form in (quick.form, _PLAIN_SPLIT)), key=_cost)
    return best if size == len(content) else _split(content, best.form, compress)


def _split(content: bytes, form: Split, coder: _Coder) -> _Piece:
    return _coded(content, form, split(content, form), coder)


def _coded(content: bytes, form: Split, parts: tuple[int, list[bytes]], coder: _Coder) -> _Piece:
    detail, streams = parts
    return _Piece(0, len(content), form, detail, tuple(map(coder, streams)))


def _cost(piece: _Piece) -> int:
    """Return the bytes that a piece takes in the packed file, those in the table as they are before it is packed."""
    return _PIECE.itemsize + sum(_STREAM.itemsize + len(packed) for _, packed in piece.streams)


def _build(data: bytes, pieces: list[_Piece], *, coder: _Coder = compress) -> bytes:
    rest, end = [], 0
    for piece in sorted(pieces):
        rest.append(data[end : piece.start])
        end = piece.start + piece.size
    rest.append(data[end:])
    streams = [coder(b"".join(rest)), *(stream for piece in pieces for stream in piece.streams)]
    records = [(piece.start, piece.size, FORMS.index(piece.form), piece.detail) for piece in pieces]
    sizes = [(coder, len(packed)) for coder, packed in streams]
    number, table = compress(np.array(records, _PIECE).tobytes() + np.array(sizes, _STREAM).tobytes())
    version = _FAR_VERSION if any(used == FAR_LZMA for used, _ in streams) else _VERSION
    version = _NEAR_VERSION if any(piece.form == NEAR for piece in pieces) else version
    header = _HEADER.pack(_MAGIC, version, len(data), zlib.crc32(data), len(pieces), number, len(table))
    return b"".join([header, table, *(packed for _, packed in streams)])


# Model files as bytes: pack, unpack, read, write. What a file is, its first bytes say, never its suffix.

METHODS = ("gzip", "xz", "packed")
SUFFIXES = {".tflite": None, ".tfz": "packed", ".gz": "gzip", ".xz": "xz"}  # what each promises; others nothing
_OTHER_FILES = {".keras": "a Keras model", ".h5": "a Keras model", ".npy": "a NumPy array", ".npz": "NumPy arrays"}
_OTHER_FILES[".litertlm"] = "a file of LiteRT-LM"
_OTHER_FILES |= {".onnx": "an ONNX network", ".pt": "a PyTorch network", ".pth": "a PyTorch network"}
_CONVERTERS = dict.fromkeys((".pt", ".pth", ".pt2"), ("litert-torch", "from_pytorch.md"))  # and the page on each
_CONVERTERS[".onnx"] = ("onnx2tf", "from_onnx_and_yolo.md")
_XZ_MEMORY_LIMIT = 2**28  # four times what the strongest preset needs; a header could ask for gigabytes
_GZIP_FORMAT = 31  # zlib's wbits: the largest window, with gzip's header and checksum
_COUNTED_BYTES = 2**20  # that are unpacked at once to count them
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
    _check_expansion(data, packed)
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


def _decode(data: bytes, *, limit: int = _MAX_UNPACKED_BYTES) -> bytes:
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
        return _open_packed(data, _most_unpacked(len(data), limit))
    if data.startswith(_MAGIC):
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


def _holds_more(data: bytes, limit: int) -> bool:
    """Tell whether data packed with xz unpack to more than a limit, without keeping what comes out."""
    decompressor, rest = _decompressor("xz"), data
    while not decompressor.eof and limit >= 0 and (part := decompressor.decompress(rest, _COUNTED_BYTES)):
        rest, limit = b"", limit - len(part)
    return limit < 0


def _open_packed(data: bytes, limit: int) -> bytes:
    method = _method(data)
    decompressor = _decompressor(method)
    try:
        holds_more = method == "xz" and _holds_more(data, limit)  # gzip packs to 1/1,032 at best
        unpacked = b"" if holds_more else decompressor.decompress(data, limit + 1)
    except (lzma.LZMAError, zlib.error) as error:
        raise ValueError(
            f"Expected whole {method} data. Received: data that are damaged ({reason_of(error)}). "
            "Copy the file again."
        ) from error
    if holds_more or len(unpacked) > limit:
        raise ValueError(
            f"Expected {method} data of at most {limit:,} bytes. Received: data that hold more. This is not a TFLite "
            f"file: packed data hold at most {_EXPANSION_LIMIT}."
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
    return conversion(name.strip("'"))


def conversion(path: str) -> str:
    """Return how the file of another framework becomes a .tflite file, after a space; empty for other files."""
    tool, page = _CONVERTERS.get(Path(path).suffix.lower(), ("", ""))
    return f" Convert the network with {tool} first, as docs/howto/{page} shows." if tool else ""


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
        text = f"Expected a TFLite file. Received: {name}, which does not exist.{meant_file(path)}"
        raise ValueError(text) from error
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
    return _head(path).startswith((GZIP, XZ, _MAGIC, LITERTLM))


def check_whole(data: bytes | memoryview, *, name: str) -> None:
    """Refuse a plain file that interpreters cannot be trusted with.

    Args:
        data: The plain file.
        name: How errors call it.

    Raises:
        ValueError: If its structure is damaged, a sparse tensor is, or an operator does not fit its tensors; or if
            the format is another one, weights are missing or in other files, or a signature names what is not there.
    """
    try:
        check_structure(data)
        lack = find_lack(data)
        if lack is None:
            check_sparse(data)
            check_operators(data)
            lack = find_missing_values(data)
    except ValueError as error:
        raise ValueError(
            f"Expected a whole TFLite file. Received: {name}, which is damaged or cut short ({reason_of(error)}). "
            "Copy the file again."
        ) from error
    if lack is not None:
        raise ValueError(f"Expected {lack.expected}. Received: {name}, which {lack.received}. {lack.advice}")


def is_model_file(path: str | os.PathLike[str]) -> bool:
    """Tell by its first bytes, or else by its suffix, whether a file is a TFLite file, plain or packed."""
    return _head(path)[4:] == IDENTIFIER or is_packed(path) or os.fspath(path).lower().endswith((".tflite", ".tfz"))


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


def write_atomically(path: str | os.PathLike[str], data: bytes, *, holds: bytes | None = None) -> None:
    """Write a file whole or not at all: readers see the old content or the new, never a part.

    The permissions of a file that is replaced stay.

    Args:
        path: Where to write, exactly as given; a link stays, and what it points to is written.
        data: The content.
        holds: The checked model file that was packed: the new file is read again, and has to unpack to it. None for
            other content.

    Raises:
        ValueError: If the file cannot be written, or does not unpack to `holds`; what was there before is untouched.
    """
    check = None if holds is None else functools.partial(_check_holds, content=holds, name=os.fspath(path))
    write_together({path: data}, check=check)


def write_together(
    files: Mapping[str | os.PathLike[str], bytes], *, check: Callable[[Path], None] | None = None
) -> None:
    """Write several files as `write_atomically` does, all or none of them.

    Args:
        files: Content by path.
        check: Called with each new file before any of them takes its place; raises if the file is wrong.

    Raises:
        ValueError: If one of them cannot be written; what was there before is untouched.
    """
    places = {_real_path(check_destination(path)): path for path in files}
    try:
        write_whole({real: files[path] for real, path in places.items()}, check=check)
    except OSError as error:
        name = places.get(Path(error.filename or ""), next(iter(files)))
        raise ValueError(
            f"Cannot write {os.fspath(name)!r}: {error.strerror}. Choose another folder or free some space."
        ) from error
    for path, data in files.items():
        _log.info("wrote %s: %s bytes", os.fspath(path), f"{len(data):,}")


def _check_holds(path: Path, content: bytes, *, name: str) -> None:
    """Refuse a new file that is not what was checked, whatever changed it on its way to the disk.

    Raises:
        ValueError: If it does not unpack to the content.
    """
    try:
        unpacked = _decode(path.read_bytes())
    except ValueError:
        unpacked = b""
    if unpacked != content:
        raise ValueError(
            f"Expected a file that unpacks to the {len(content):,} bytes that were checked. Received: {name!r}, "
            "which does not. Nothing was written. Try again; if it fails again, test the memory and the disk."
        )
