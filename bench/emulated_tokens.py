"""The time of a token on an emulated Cortex-A72 (Raspberry Pi 4), as a multiple of a dense file's.

python bench/emulated_tokens.py FOLDER DENSE OTHER...   # FOLDER: where the emulator is kept, as build/device

Only the ratios mean anything: the median of pairs of tokens that take turns, in processor time of one thread.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

PAIRS = 5
sys.path.insert(0, str(Path(__file__).parents[1] / "tests/device"))


def emulated(folder: Path, files: list[str]) -> None:
    """Run `paired` on the emulated processor."""
    import root

    if root.obstacle():
        raise SystemExit(root.obstacle())
    python, site = root.build(folder / "aarch64"), folder / "aarch64-tfprune"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", f"--target={site}"]
    subprocess.run([*pip, str(Path(__file__).parents[1])], check=True)
    paths = [str(Path(file).resolve()) for file in files]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    subprocess.run([str(python), str(Path(__file__).resolve()), "--paired", *paths], env=environment, check=True)


def paired(dense: str, *others: str) -> None:
    """Print the ratio of each file to the dense one."""
    from tfprune.export.device.writer_file import InterpretedFile, Signatures

    print("| file | MB | time of a token |\n|---|---|---|")
    first = Signatures(InterpretedFile(dense, threads=1)).begin()
    for other in others:
        second = Signatures(InterpretedFile(other, threads=1)).begin()
        seconds(first), seconds(second)  # the first call may still arrange something
        ratio = statistics.median(seconds(second) / seconds(first) for _ in range(PAIRS))
        print(f"| {Path(other).name} | {Path(other).stat().st_size / 1e6:.0f} | {ratio:.2f} |", flush=True)


def seconds(text: CachedText) -> float:  # noqa: F821
    start = time.process_time()
    text.decode(1)
    return time.process_time() - start


if __name__ == "__main__":
    if sys.argv[1] == "--paired":
        paired(*sys.argv[2:])
    else:
        emulated(Path(sys.argv[1]), sys.argv[2:])
