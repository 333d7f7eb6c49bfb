"""Greedy ranking of the hidden units of a large feed-forward network, in seconds of one core."""

from __future__ import annotations

import sys
import time

import numpy as np
from common import Row, at_most

from tfprune.solving.surgery import _greedy_obs


def ranking(units: int, outputs: int, bar: float) -> Row:
    """Time the removal of half of some units that depend on each other."""
    generator = np.random.default_rng(0)
    mixed = generator.normal(size=(2 * units, units)).astype("float32")
    mixed = np.maximum(mixed @ (generator.normal(size=(units, units)) / units**0.5).astype("float32"), 0)
    gram, weights = (mixed.T @ mixed).astype("float64"), generator.normal(size=(outputs, units))
    del mixed
    start = time.process_time()
    _greedy_obs(gram, weights, keep=units // 2)
    seconds = time.process_time() - start
    return at_most(f"greedy OBS: {units} units of {outputs} outputs to half, processor time", seconds, bar, unit=" s")


if __name__ == "__main__":
    for row in (ranking(1536, 384, 3), ranking(8192, 2048, 60)):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
