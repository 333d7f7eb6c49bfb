"""The packed format: weights as streams that suit them, and the rest as it is, unpacked bit for bit."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

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
from tfprune.base.spec import check_count
from tfprune.export.file.reader import IDENTIFIER, Vector, long_vectors
from tfprune.export.file.report import reason_of

# Vectors of floats that are a number times another vector, such as the scales of the biases in an integer file.
#
# A bias is held in steps of (scale of the input) x (scale of the weight), channel by channel, so that its scales
# need
# not be stored beside those of the weight.

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
        raise ValueError(f"Expected a TFLite file. Received: {name}, which does not exist.") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise ValueError(f"Cannot read {name}: {reason_of(error)}. Check the path and its permissions.") from error


# The packed file, as it is read: a header, a table, and streams. Nothing in it is trusted.
#
#     header   HEADER: magic, version, bytes and CRC-32 of the original, number of pieces, coder and bytes of the
# table
#     table    packed: PIECE for each piece, then STREAM for each stream
#     streams  first what lies outside of the pieces, then those of each piece
#
# A piece is a part of the original that was split by `streams`. `detail` is its commonest entry; where it was split
# by
# rows, plus 2^32 times their length; or, where the piece is another one times a number, that one's index in the
# table,
# which is an earlier one, and 2^32 times the bits of the number. Files of version 1 have no pieces that are folded
# or
# split by rows, those of version 2 no streams of the coder FAR_LZMA, those of version 3 no pieces that lie near
# another's product; they are the same otherwise.

MAGIC = b"TFZ"
_VERSION, _FAR_VERSION, _NEAR_VERSION = 2, 3, 4  # a file has the lowest with which earlier readers can read it
_READABLE_VERSIONS = (1, _VERSION, _FAR_VERSION, _NEAR_VERSION)
MAX_UNPACKED_BYTES = 2**31  # bytes of the original: a flatbuffer's offsets reach no further
_ALWAYS_ALLOWED_BYTES = 2**26  # bytes that any packed file may hold, and beyond them so many times its own:
_MAX_EXPANSION = 1000  # float32 weights of which 99.9 % are zeros pack to about 1/700: 0.04 bits of entropy for 32
EXPANSION_LIMIT = f"{_MAX_EXPANSION:,} for each packed byte beyond {_ALWAYS_ALLOWED_BYTES:,}"
_ALWAYS_ALLOWED_PIECES = 2**12  # pieces that any packed file may have, and beyond them one for so many of its bytes:
_PACKED_BYTES_PER_PIECE = 16  # each costs time, and a table of pieces without content packs to nearly nothing
_HEADER = struct.Struct("<3sBQIIBI")
_PIECE = np.dtype([("start", "<u4"), ("size", "<u4"), ("form", "u1"), ("detail", "<u8")])
_STREAM = np.dtype([("coder", "u1"), ("size", "<u4")])
_MIN_PIECE_BYTES = 256  # bytes of a piece: each takes less in the table, so a table is never longer than the original
_MAX_PIECE_BYTES = 2**20  # bytes of a piece, which bounds the memory for splitting it and for putting it together
_MAX_STREAMS = max(form.streams for form in FORMS)


def unpack(source: Source, *, max_bytes: int = MAX_UNPACKED_BYTES) -> bytes:
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
    if data[:3] != MAGIC:
        raise ValueError(
            f"Expected a packed file, which begins with {MAGIC!r}. Received: {len(data):,} bytes that begin with "
            f"{data[:8]!r}. Only what `tfprune.export.pack` returned can be unpacked."
        )
    if len(data) > len(MAGIC) and data[len(MAGIC)] not in _READABLE_VERSIONS:
        raise ValueError(
            f"Expected a packed file of version {max(_READABLE_VERSIONS)} at most. Received: version "
            f"{data[len(MAGIC)]}. Install the newest tfprune, or copy the file again."
        )
    try:
        return _unpack(memoryview(data), max_bytes)
    except (struct.error, ValueError) as error:
        raise ValueError(
            f"Expected a whole packed file. Received: {len(data):,} bytes that are damaged or cut short "
            f"({reason_of(error)}). Copy the file again."
        ) from error


def most_unpacked(packed: int, limit: int = MAX_UNPACKED_BYTES) -> int:
    """Return how many bytes may come out of so many packed ones; more than that is a decompression bomb."""
    return min(limit, _ALWAYS_ALLOWED_BYTES + _MAX_EXPANSION * packed)


def _most_pieces(packed: int) -> int:
    """Return how many pieces a file of so many packed bytes may have."""
    return _ALWAYS_ALLOWED_PIECES + packed // _PACKED_BYTES_PER_PIECE


def check_expansion(data: bytes, packed: bytes) -> None:
    """Refuse to pack what would be taken for a bomb when it is unpacked."""
    if len(data) > most_unpacked(len(packed)):
        raise ValueError(
            f"Expected data that are not nearly all zeros. Received: {len(data):,} bytes that pack into "
            f"{len(packed):,}, of which at most {most_unpacked(len(packed)):,} are unpacked, {EXPANSION_LIMIT}. "
            "Leave them as they are."
        )


def _unpack(data: memoryview, limit: int) -> bytes:
    _, _, size, checksum, count, coder, length = _HEADER.unpack_from(data)
    if size > most_unpacked(len(data), limit):
        raise ValueError(
            f"it declares {size:,} bytes; at most {most_unpacked(len(data), limit):,} are unpacked, "
            f"{EXPANSION_LIMIT}."
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
    if data[4:8] != IDENTIFIER or len(data) > MAX_UNPACKED_BYTES:
        raise ValueError(
            f"Expected a plain TFLite file (bytes 4 to 8 are {IDENTIFIER!r}) of at most {MAX_UNPACKED_BYTES:,} "
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
    check_expansion(data, packed)
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
    header = _HEADER.pack(MAGIC, version, len(data), zlib.crc32(data), len(pieces), number, len(table))
    return b"".join([header, table, *(packed for _, packed in streams)])
