"""Pack a .tflite file: take its weights out, code each as streams that suit it, and the rest as it is."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from tfprune.base.coders import FAR_LZMA, compress, compress_quickly, compress_whole
from tfprune.base.streams import FORMS, NEAR, ROWS, SCALED, SPLITS, Split, split, split_rows
from tfprune.export.file.files.scaled_vectors import find_scaled
from tfprune.export.file.files.source import Source, read_source
from tfprune.export.file.files.unpack import (
    FAR_VERSION,
    HEADER,
    MAGIC,
    MAX_PIECE_BYTES,
    MAX_UNPACKED_BYTES,
    MIN_PIECE_BYTES,
    NEAR_VERSION,
    PIECE,
    STREAM,
    VERSION,
    check_expansion,
    most_pieces,
)
from tfprune.export.file.report import reason_of
from tfprune.export.file.tflite.check_structure import IDENTIFIER, Vector, long_vectors

MAX_SINGLE_STREAM_BYTES = 2**16  # files up to so many bytes are tried as one stream of our own, too
SAMPLED_BYTES = 2**15  # bytes of a piece on which forms are compared
PLAIN_SPLIT = Split(1, "plain")
SPARSE_SPLITS = (Split(1, "runs"), Split(1, "mask"))  # what rows can be smaller than
Coder = Callable[[bytes], tuple[int, bytes]]


class Piece(NamedTuple):
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
    if len(pieces) > most_pieces(len(ways[0])):
        del ways[0]
    if len(data) <= MAX_SINGLE_STREAM_BYTES:
        ways.append(_build(data, []))
    packed = min(ways, key=len)
    check_expansion(data, packed)
    return packed


def _pieces(data: bytes, ranges: list[Vector]) -> list[Piece]:
    """Split and pack parts of a file where that makes them smaller; those last that come from others."""
    scaled = find_scaled([memoryview(data)[start : start + size] for start, size, _ in ranges])
    needed = {way.reference for way in scaled.values()}
    piece_indices: dict[int, int] = {}
    pieces: list[Piece] = []
    for index, (start, size, row) in enumerate(ranges):
        if index in scaled:
            continue
        content = data[start : start + size]
        piece = _piece(content, row)._replace(start=start)
        # Long ones are kept out of the rest, whatever they cost: the rest is packed all at once, which takes memory.
        if index in needed or _cost(piece) < size or size >= SAMPLED_BYTES:
            piece_indices[index] = len(pieces)
            pieces.append(piece)
    for index, way in scaled.items():
        start, size, _ = ranges[index]
        form, streams = (NEAR, (compress(way.steps),)) if way.steps else (SCALED, ())
        pieces.append(Piece(start, size, form, piece_indices[way.reference] + way.factor * 2**32, streams))
    return pieces


def _ranges(data: bytes) -> Iterator[Vector]:
    for start, size, row in long_vectors(data, smallest=MIN_PIECE_BYTES):
        step = MAX_PIECE_BYTES - MAX_PIECE_BYTES % min(row, MAX_PIECE_BYTES)  # whole rows
        for first in range(0, size, step):
            length = min(step, size - first)
            if length >= MIN_PIECE_BYTES:
                yield Vector(start + first, length, row)


def _piece(content: bytes, row: int) -> Piece:
    """Split by the form that suits a sample, or by rows if that is smaller."""
    piece = _sampled(content)
    if piece.form not in SPARSE_SPLITS or row >= len(content):
        return piece
    return min(piece, _coded(content, ROWS, split_rows(content, row), compress), key=_cost)


def _sampled(content: bytes) -> Piece:
    """Split by the form that quick coders like best, unless repeats in the whole, which slow ones find, save more."""
    size = min(len(content), SAMPLED_BYTES)
    start = (len(content) - size) // 2 // 4 * 4
    sample = content[start : start + size]
    fitting = [form for form in SPLITS if len(content) % form.width == 0]
    quick = min((_split(sample, form, compress_quickly) for form in fitting), key=_cost)
    best = min((_split(sample, form, compress) for form in (quick.form, PLAIN_SPLIT)), key=_cost)
    return best if size == len(content) else _split(content, best.form, compress)


def _split(content: bytes, form: Split, coder: Coder) -> Piece:
    return _coded(content, form, split(content, form), coder)


def _coded(content: bytes, form: Split, parts: tuple[int, list[bytes]], coder: Coder) -> Piece:
    detail, streams = parts
    return Piece(0, len(content), form, detail, tuple(map(coder, streams)))


def _cost(piece: Piece) -> int:
    """Return the bytes that a piece takes in the packed file, those in the table as they are before it is packed."""
    return PIECE.itemsize + sum(STREAM.itemsize + len(packed) for _, packed in piece.streams)


def _build(data: bytes, pieces: list[Piece], *, coder: Coder = compress) -> bytes:
    rest, end = [], 0
    for piece in sorted(pieces):
        rest.append(data[end : piece.start])
        end = piece.start + piece.size
    rest.append(data[end:])
    streams = [coder(b"".join(rest)), *(stream for piece in pieces for stream in piece.streams)]
    records = [(piece.start, piece.size, FORMS.index(piece.form), piece.detail) for piece in pieces]
    sizes = [(coder, len(packed)) for coder, packed in streams]
    number, table = compress(np.array(records, PIECE).tobytes() + np.array(sizes, STREAM).tobytes())
    version = FAR_VERSION if any(used == FAR_LZMA for used, _ in streams) else VERSION
    version = NEAR_VERSION if any(piece.form == NEAR for piece in pieces) else version
    header = HEADER.pack(MAGIC, version, len(data), zlib.crc32(data), len(pieces), number, len(table))
    return b"".join([header, table, *(packed for _, packed in streams)])
