"""The packed file, as it is read: a header, a table, and streams. Nothing in it is trusted.

    header   HEADER: magic, version, bytes and CRC-32 of the original, number of pieces, coder and bytes of the table
    table    packed: PIECE for each piece, then STREAM for each stream
    streams  first what lies outside of the pieces, then those of each piece

A piece is a part of the original that was split by `streams`. `detail` is its commonest entry; where it was split by
rows, plus 2^32 times their length; or, where the piece is another one times a number, that one's index in the table,
which is an earlier one, and 2^32 times the bits of the number. Files of version 1 have no pieces that are folded or
split by rows, those of version 2 no streams of the coder FAR_LZMA, those of version 3 no pieces that lie near
another's product; they are the same otherwise.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from tfprune.base.coders import expand
from tfprune.base.spec import check_count
from tfprune.base.streams import FORMS, NEAR, SCALED, join
from tfprune.export.file.files.scaled_vectors import scaled
from tfprune.export.file.files.source import Source, read_source
from tfprune.export.file.report import reason_of

MAGIC = b"TFZ"
VERSION, FAR_VERSION, NEAR_VERSION = 2, 3, 4  # a file has the lowest with which earlier readers can read it
READABLE_VERSIONS = (1, VERSION, FAR_VERSION, NEAR_VERSION)
MAX_UNPACKED_BYTES = 2**31  # bytes of the original: a flatbuffer's offsets reach no further
ALWAYS_ALLOWED_BYTES = 2**26  # bytes that any packed file may hold, and beyond them so many times its own:
MAX_EXPANSION = 1000  # float32 weights of which 99.9 % are zeros pack to about 1/700: 0.04 bits of entropy for 32
EXPANSION_LIMIT = f"{MAX_EXPANSION:,} for each packed byte beyond {ALWAYS_ALLOWED_BYTES:,}"
ALWAYS_ALLOWED_PIECES = 2**12  # pieces that any packed file may have, and beyond them one for so many of its bytes:
PACKED_BYTES_PER_PIECE = 16  # each costs time, and a table of pieces without content packs to nearly nothing
HEADER = struct.Struct("<3sBQIIBI")
PIECE = np.dtype([("start", "<u4"), ("size", "<u4"), ("form", "u1"), ("detail", "<u8")])
STREAM = np.dtype([("coder", "u1"), ("size", "<u4")])
MIN_PIECE_BYTES = 256  # bytes of a piece: each takes less in the table, so a table is never longer than the original
MAX_PIECE_BYTES = 2**20  # bytes of a piece, which bounds the memory for splitting it and for putting it together
MAX_STREAMS = max(form.streams for form in FORMS)


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
    if len(data) > len(MAGIC) and data[len(MAGIC)] not in READABLE_VERSIONS:
        raise ValueError(
            f"Expected a packed file of version {max(READABLE_VERSIONS)} at most. Received: version "
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
    return min(limit, ALWAYS_ALLOWED_BYTES + MAX_EXPANSION * packed)


def most_pieces(packed: int) -> int:
    """Return how many pieces a file of so many packed bytes may have."""
    return ALWAYS_ALLOWED_PIECES + packed // PACKED_BYTES_PER_PIECE


def check_expansion(data: bytes, packed: bytes) -> None:
    """Refuse to pack what would be taken for a bomb when it is unpacked."""
    if len(data) > most_unpacked(len(packed)):
        raise ValueError(
            f"Expected data that are not nearly all zeros. Received: {len(data):,} bytes that pack into "
            f"{len(packed):,}, of which at most {most_unpacked(len(packed)):,} are unpacked, {EXPANSION_LIMIT}. "
            "Leave them as they are."
        )


def _unpack(data: memoryview, limit: int) -> bytes:
    _, _, size, checksum, count, coder, length = HEADER.unpack_from(data)
    if size > most_unpacked(len(data), limit):
        raise ValueError(
            f"it declares {size:,} bytes; at most {most_unpacked(len(data), limit):,} are unpacked, "
            f"{EXPANSION_LIMIT}."
        )
    if count * MIN_PIECE_BYTES > size:
        raise ValueError(f"it declares {count:,} pieces in {size:,} bytes.")
    if count > most_pieces(len(data)):
        raise ValueError(f"it declares {count:,} pieces; a file of its size has at most {most_pieces(len(data)):,}.")
    body = data[HEADER.size :]
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
        contents.append(scaled(contents[index], factor, steps=steps))
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
    return count * (PIECE.itemsize + MAX_STREAMS * STREAM.itemsize) + STREAM.itemsize


def _table(table: bytes, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the records of the pieces and of all streams, checked against the header."""
    pieces = np.frombuffer(_cut(memoryview(table), 0, count * PIECE.itemsize), PIECE)
    streams = np.frombuffer(memoryview(table)[pieces.nbytes :], STREAM)
    if count and pieces["form"].max() >= len(FORMS):
        raise ValueError("a piece has a form that does not exist.")
    needed = np.array([form.streams for form in FORMS])[pieces["form"]]
    if len(streams) != 1 + needed.sum():
        raise ValueError("its table names too few streams, or too many.")
    sizes = pieces["size"]
    if count and not MIN_PIECE_BYTES <= sizes.min() <= sizes.max() <= MAX_PIECE_BYTES:
        raise ValueError(f"a piece has fewer than {MIN_PIECE_BYTES} bytes or more than {MAX_PIECE_BYTES:,}.")
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
