"""Shrink random graphs of operations on channels: `shrink_graphs.py --graphs 2000`, which takes a quarter of an hour.

A finding is a graph whose smaller model computes something else than the masked one, or an error other than that all
channels have to stay. Each is printed with the call that makes it again.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections import Counter
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.append(str(Path(__file__).parents[1] / "helpers"))

import keras
import numpy as np
from channel_graphs import KINDS, outcome


def main() -> int:
    """Shrink that many graphs; return 1 when one has a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=2000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first graph (default: %(default)s)")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    gc.freeze()  # spares the garbage collector what the imports made
    for seed in range(options.seed, options.seed + options.graphs):
        generator = np.random.default_rng(seed)
        kinds = generator.choice(KINDS, size=generator.integers(1, 5)).tolist()
        try:
            counts[outcome(kinds, seed)] += 1
        except Exception as error:  # noqa: BLE001 (each is a finding)
            counts["wrong"] += 1
            print(f"outcome({kinds}, {seed}): {type(error).__name__}: {str(error).strip()[:300]}", flush=True)
        if seed % 50 == 0:
            keras.backend.clear_session()  # which collects garbage
    print(
        f"{counts.total()} graphs of {len(KINDS)} kinds of operations: {counts['removed']} lost channels and compute "
        f"what the masked model computes, {counts['kept']} kept all channels, {counts['wrong']} wrong"
    )
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
