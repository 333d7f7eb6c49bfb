"""Perplexity of files of Gemma 3 on more text than its page has, beside that of the first file.

python bench/generate_perplexity.py FLOAT32 OTHER...   # files that sample_apps/write_on_a_pi.py wrote
"""

from __future__ import annotations

import math
import os
import statistics
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

from sample_apps.data.cache import CACHE
from sample_apps.language_model import subjects
from tfprune.export import Generator

WINDOWS, PARTS, TOKENS = 4, (0, 256), 128  # of each text, of each window, and of each part


def main() -> None:
    subject = subjects.load("gemma", None, CACHE)
    files = {path: Generator(path, threads=2) for path in sys.argv[1:]}
    print("| text | tokens | file | perplexity | of the first |\n|---|---|---|---|---|")
    for name, windows in subject.evaluation.items():
        parts = [
            [int(window[0]), *window[start + 1 : start + TOKENS].tolist()]
            for window in windows[:WINDOWS]
            for start in PARTS
        ]
        first = None
        for path, generator in files.items():
            loss = statistics.mean(math.log(generator.perplexity(part)) for part in parts)
            first = loss if first is None else first
            figures = f"{math.exp(loss):.1f} | {math.exp(loss - first):.3f}"
            print(f"| {name} | {len(parts) * (TOKENS - 1):,} | {Path(path).name} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
