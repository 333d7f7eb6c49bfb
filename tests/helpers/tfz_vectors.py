"""Make the files for tests of readers of packed files: python tests/helpers/tfz_vectors.py. They are committed.

Header, table and coders are written here, by the page on the format and the standard library, not by `pack`.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfprune.base.streams import FORMS, split, split_rows

FOLDER = Path(__file__).parents[1] / "readers" / "vectors"
ROW = 37  # entries, so that the last row is shorter
BYTES = 1500
VERSIONS = {"scaled": 1, "folded": 2, "rows": 2, "near": 4}
Coder = Callable[[bytes], tuple[int, bytes]]


class Piece(NamedTuple):
    """A record of the table, and its packed streams."""

    start: int
    size: int
    form: int
    detail: int
    streams: list[tuple[int, bytes]]


def stored(data: bytes) -> tuple[int, bytes]:
    return 0, data


def deflated(level: int, strategy: int) -> Coder:
    def code(data: bytes) -> tuple[int, bytes]:
        packer = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
        return 1, packer.compress(data) + packer.flush()

    return code


def lzma2(lc: int, lp: int, pb: int, *, number: int = 2) -> Coder:
    def code(data: bytes) -> tuple[int, bytes]:
        size = {2: 2**22, 3: 2**26}[number]
        filters = [{"id": lzma.FILTER_LZMA2, "dict_size": size, "lc": lc, "lp": lp, "pb": pb}]
        return number, lzma.compress(data, lzma.FORMAT_RAW, filters=filters)

    return code


CODERS = {
    "stored": stored,
    "deflate_stored": deflated(0, zlib.Z_DEFAULT_STRATEGY),
    "deflate_fixed": deflated(9, zlib.Z_FIXED),
    "deflate_dynamic": deflated(9, zlib.Z_DEFAULT_STRATEGY),
    "deflate_huffman": deflated(9, zlib.Z_HUFFMAN_ONLY),
    "lzma_302": lzma2(3, 0, 2),
    "lzma_000": lzma2(0, 0, 0),
    "lzma_222": lzma2(2, 2, 2),
    "lzma_044": lzma2(0, 4, 4),
    "lzma_far": lzma2(3, 0, 2, number=3),
}


def packed(version: int, content: bytes, pieces: list[Piece], coder: Coder) -> bytes:
    """Write a file as the page on the format says."""
    rest, end = b"", 0
    for piece in sorted(pieces):
        rest, end = rest + content[end : piece.start], piece.start + piece.size
    streams = [coder(rest + content[end:]), *(stream for piece in pieces for stream in piece.streams)]
    table = b"".join(struct.pack("<IIBQ", *piece[:4]) for piece in pieces)
    number, table = coder(table + b"".join(struct.pack("<BI", kind, len(data)) for kind, data in streams))
    header = (b"TFZ", version, len(content), zlib.crc32(content), len(pieces), number, len(table))
    return struct.pack("<3sBQIIBI", *header) + table + b"".join(data for _, data in streams)


def weights(random: np.random.Generator, width: int) -> bytes:
    """Return entries of which two thirds are zero, with a run of more than 255."""
    kind = {1: np.int8, 2: np.float16, 4: np.float32}[width]
    values = random.normal(size=BYTES // width) * (30 if width == 1 else 1)
    values[random.random(len(values)) < 2 / 3] = 0
    values[10 : 10 + len(values) // 4] = 0
    return values.astype(kind).tobytes()


def of_form(number: int, random: np.random.Generator, coder: Coder) -> tuple[int, bytes, list[Piece]]:
    """Return a version, a content, and pieces of which one has this form."""
    width, kind = FORMS[number]
    data, before, after = weights(random, width), random.bytes(41), b"the end of the file"
    if kind in ("scaled", "near"):
        return _of_product(number, random, coder)
    detail, streams = split_rows(data, ROW) if kind == "rows" else split(data, FORMS[number])
    piece = Piece(len(before), len(data), number, detail, [coder(stream) for stream in streams])
    return VERSIONS.get(kind, 1), before + data + after, [piece]


def _of_product(number: int, random: np.random.Generator, coder: Coder) -> tuple[int, bytes, list[Piece]]:
    factor, entries = np.float32(0.0123), np.abs(random.normal(size=100)).astype(np.float32)
    entries[0] = np.float32(1e-44)  # whose product is subnormal, and rounded
    near = FORMS[number].kind == "near"
    steps = (random.integers(-128, 128, 100) * near).astype(np.int8)
    products = ((entries * factor).view(np.uint32) + steps.astype(np.uint32)).tobytes()
    own = [coder(steps.tobytes())] * near
    _, planes = split(entries.tobytes(), FORMS[2])
    detail = int(factor.view(np.uint32)) * 2**32  # of the piece of index 0, which comes second in the content
    reference = Piece(len(products) + 3, entries.nbytes, 2, 0, [coder(plane) for plane in planes])
    pieces = [reference, Piece(0, len(products), number, detail, own)]
    return VERSIONS[FORMS[number].kind], products + b"gap" + entries.tobytes(), pieces


def main() -> None:
    random = np.random.default_rng(0)
    vectors = {}
    for number, form in enumerate(FORMS):
        coder = [*CODERS.values()][number % len(CODERS)]
        vectors[f"form_{number:02}_{form.kind}_{form.width}"] = of_form(number, random, coder), coder
    text = b"".join(b"layer_%d/kernel, and again layer_%d/bias; " % (index, index % 7) for index in range(60))
    for name, coder in CODERS.items():
        vectors[f"coder_{name}"] = (3 if name == "lzma_far" else 1, text + random.bytes(300), []), coder
    vectors["empty"] = (1, b"", []), stored
    for name, ((version, content, pieces), coder) in vectors.items():
        far = any(kind == 3 for piece in pieces for kind, _ in piece.streams)
        (FOLDER / f"{name}.tfz").write_bytes(packed(max(version, 3 * far), content, pieces, coder))
        (FOLDER / f"{name}.bin").write_bytes(content)


if __name__ == "__main__":
    main()
