"""Packed files against gzip -9 and xz -9: python packed.py [FOLDER ...] takes every .tflite in these folders.

Without a folder it takes those of the device tests and of the grid (`make build/device/files.json
build/grid/files.json`, some minutes).
"""

from __future__ import annotations

import sys
from pathlib import Path

from common import Row

from tfprune.export import unpack
from tfprune.export.file.container import encode

MADE = [Path(__file__).parents[1] / "build" / name for name in ("device", "grid")]
ALLOWED = 64  # bytes of header


def measure(folders: list[Path]) -> list[Row]:
    rows = []
    for folder in folders:
        files = sorted(folder.rglob("*.tflite"))
        if not files:
            print(f"skipped: no .tflite in {folder} (make build/{folder.name}/files.json)", file=sys.stderr)
            continue
        sizes = [_sizes(path.read_bytes()) for path in files]
        worst, path = max((packed - min(rest), path) for (packed, *rest), path in zip(sizes, files, strict=True))
        packed, zipped, xz = map(sum, zip(*sizes, strict=True))
        what = f"{folder.name}, {len(files)} files: packed - min(gzip, xz), the worst ({path.name})"
        rows.append(Row(what, f"{worst:+,} bytes", f"<= {ALLOWED}", worst <= ALLOWED))
        rows.append(Row(f"{folder.name}: all files packed, gzip, xz", f"{packed:,}, {zipped:,}, {xz:,}", "", True))
    return rows


def _sizes(data: bytes) -> tuple[int, int, int]:
    packed = encode(data, "packed")
    if unpack(packed) != data:
        raise AssertionError("a packed file does not unpack to what it was")
    return len(packed), len(encode(data, "gzip")), len(encode(data, "xz"))


if __name__ == "__main__":
    for row in measure([Path(name) for name in sys.argv[1:]] or MADE):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
