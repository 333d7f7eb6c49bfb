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

from tfprune.base.arrays import FORMS, split, split_rows

FOLDER, DAMAGED = (Path(__file__).parents[1] / "readers" / name for name in ("vectors", "damaged"))
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
    rest = (rest + content[end:])[: max(0, len(content) - sum(piece.size for piece in pieces))]  # if they overlap
    streams = [coder(rest), *(stream for piece in pieces for stream in piece.streams)]
    table = b"".join(struct.pack("<IIBQ", *piece[:4]) for piece in pieces)
    number, table = coder(table + b"".join(struct.pack("<BI", kind, len(data)) for kind, data in streams))
    header = (b"TFZ", version, len(content), zlib.crc32(content), len(pieces), number, len(table))
    return struct.pack("<3sBQIIBI", *header) + table + b"".join(data for _, data in streams)


def weights(random: np.random.Generator, width: int) -> bytes:
    """Return entries of which two thirds are 3, with a run of 254 of them; of single bytes also one of over 510."""
    kind = {1: np.int8, 2: np.float16, 4: np.float32}[width]
    values = random.normal(size=BYTES // width) * (30 if width == 1 else 1)
    values[random.random(len(values)) < 2 / 3] = 3
    values[5:264] = 3
    values[[4, 259]] = 1
    if width == 1:
        values[600:1200] = 3
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
    """Return three pieces, in another order than in the content: the second is a product, the third one of it."""
    form, entries = FORMS[number], random.normal(size=100).astype(np.float32)
    entries[:6] = [0, -0.0, 1e-44, -1e-44, 1e38, -1e38]  # the products of the small ones are subnormal
    _, planes = split(entries.tobytes(), FORMS[2])
    pieces, contents = [(2, 0, [coder(plane) for plane in planes])], [entries.tobytes()]
    for index, factor in enumerate(np.float32([0.0123, 1e30])):
        steps = (random.integers(-128, 128, 100) * (form.kind == "near")).astype(np.int8)
        with np.errstate(over="ignore"):
            product = np.frombuffer(contents[-1], np.float32) * factor
        contents.append((product.view(np.uint32) + steps.astype(np.uint32)).tobytes())
        streams = [coder(steps.tobytes())] * (form.kind == "near")
        pieces.append((number, int(factor.view(np.uint32)) * 2**32 + index, streams))
    starts = [2 * len(contents[0]) + 3, 0, len(contents[0])]
    records = [
        Piece(start, len(content), kind, detail, streams)
        for start, content, (kind, detail, streams) in zip(starts, contents, pieces, strict=True)
    ]
    return VERSIONS[form.kind], contents[1] + contents[2] + b"gap" + contents[0], records


def main() -> None:
    random = np.random.default_rng(0)
    vectors = {}
    for number, form in enumerate(FORMS):
        coder = [*CODERS.values()][number % len(CODERS)]
        vectors[f"form_{number:02}_{form.kind}_{form.width}"] = of_form(number, random, coder), coder
    text = b"".join(b"layer_%d/kernel, and again layer_%d/bias; " % (index, index % 7) for index in range(60))
    for name, coder in CODERS.items():
        vectors[f"coder_{name}"] = (3 if name == "lzma_far" else 1, text + random.bytes(300), []), coder
    for name, coder in (("stored", stored), ("lzma", CODERS["lzma_000"])):
        vectors[f"empty_{name}"] = (1, b"", []), coder
    for name, ((version, content, pieces), coder) in vectors.items():
        far = any(kind == 3 for piece in pieces for kind, _ in piece.streams)
        (FOLDER / f"{name}.tfz").write_bytes(packed(max(version, 3 * far), content, pieces, coder))
        (FOLDER / f"{name}.bin").write_bytes(content)
    for name, data in damaged(random).items():
        (DAMAGED / f"{name}.tfz").write_bytes(data)


def damaged(random: np.random.Generator) -> dict[str, bytes]:
    """Return files that break one rule of the page each, with the right checksum of what they might hold."""
    content = random.bytes(100) + weights(random, 1) + random.bytes(100)
    size = BYTES

    def piece(start: int = 100, size: int = size, form: int = 0, detail: int = 0, count: int = 1) -> Piece:
        return Piece(start, size, form, detail, [stored(content[100 : 100 + size])] * count)

    def file(*pieces: Piece, version: int = 4, coder: Coder = stored) -> bytes:
        return packed(version, content, [*pieces], coder)

    def runs(stream: bytes, *, detail: int = 3, size: int = size) -> Piece:
        return Piece(100, size, 6, detail, [stored(stream), stored(bytes(1))])

    good = file(piece())
    return {
        "other_magic": b"TFX" + good[3:],
        "version_0": file(piece(), version=0),
        "version_5": file(piece(), version=5),
        "cut_short": good[:-1],
        "goes_on": good + b"x",
        "header_cut_short": good[:24],
        "too_long": good[:4] + struct.pack("<Q", 2**40) + good[12:],
        "bomb": good[:4] + struct.pack("<Q", 2**30) + good[12:],
        "too_many_pieces": file(*(piece(size=256, start=256 * index) for index in range(7))),
        "piece_too_short": file(piece(size=255)),
        "no_such_form": file(piece(form=16)),
        "no_such_coder": file(coder=lambda data: (4, data)),
        "too_few_streams": file(piece(count=0)),
        "too_many_streams": file(piece(count=2)),
        "not_whole_entries": file(Piece(100, 1498, 2, 0, [stored(bytes(375))] * 4)),
        "overlap": file(piece(size=600), piece(size=600, start=699)),
        "beyond_the_content": file(piece(start=201)),
        "stream_too_short": file(Piece(100, size, 0, 0, [stored(bytes(size - 1))])),
        "stream_too_long": file(Piece(100, size, 0, 0, [stored(bytes(size + 1))])),
        "runs_beyond_the_end": file(runs(bytes([255] * 5 + [254]))),
        "common_does_not_fit": file(runs(b"\0", detail=256)),
        "common_is_too_high": file(runs(b"\0", detail=2**32)),
        "row_of_0": file(Piece(100, size, 14, 3, [stored(b"")] * 8)),
        "no_such_class": file(
            Piece(100, size, 14, 3 + size * 2**32, [stored(b""), stored(b"\6")] + [stored(b"")] * 6)
        ),
        "scaled_from_itself": file(Piece(100, size, 12, 0, [])),
        "scaled_from_later": file(Piece(100, 400, 12, 1, []), piece(start=500, size=400)),
        "scaled_from_another_length": file(piece(size=400), Piece(600, 404, 12, 0, [])),
        "deflate_goes_on": file(coder=lambda data: (1, CODERS["deflate_dynamic"](data)[1] + b"x")),
        "lzma_without_an_end": file(coder=lambda data: (2, lzma2(0, 0, 0)(data)[1][:-1])),
        "distance_too_far": far_file(random),
        "checksum": good[:12] + bytes(4) + good[16:],
    }


def far_file(random: np.random.Generator) -> bytes:
    """Return a file whose stream of coder 2 looks back farther than 4 MiB."""
    noise = random.bytes(1000)
    content = noise + bytes(2**22 + 5000) + noise
    return packed(3, content, [], lambda data: (2, lzma2(3, 0, 2, number=3)(data)[1]))


if __name__ == "__main__":
    main()
