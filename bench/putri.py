"""The sparsity that Putri reaches, of 25 to 95 % asked, and whether the shrunk model equals the masked one.

The backbones of KerasHub are tiny, with random weights: the budget is measured, not the quality. The last row gives
the processor time beside that of three forward passes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))

import keras
import numpy as np
from common import Row, at_most
from hub_extreme import SHAPES, backbone, texts

import tfprune

SPARSITIES = (0.25, 0.5, 0.75, 0.9, 0.95)


def difference(ours: keras.Model, theirs: keras.Model, inputs: dict[str, np.ndarray]) -> float:
    """Return the largest difference of the outputs, relative to the largest output."""
    first, second = (np.asarray(model(inputs)) for model in (ours, theirs))
    return float(np.abs(first - second).max() / np.abs(second).max())


def rows_of(shape: str) -> Iterator[Row]:
    """Compare what is asked with what the shrunk model lacks; a miss that the report explains holds, too."""
    model, inputs = backbone(shape), texts(count=8)
    for sparsity in SPARSITIES:
        masked, report = tfprune.prune_units(
            model, inputs, sparsity, judge="perplexity", reconstruction=None, verbose=0
        )
        smaller = tfprune.shrink(masked, report.plan, into="class")
        removed = (model.count_params() - smaller.count_params()) / report.total.parameters
        is_met = abs(removed - sparsity) <= 0.01 * sparsity
        holds = is_met or "The reasons" in str(report)
        yield Row(f"{shape}: {sparsity:.0%} of the blocks asked", f"{removed:.2%}", "within 1 % or explained", holds)
        apart = difference(smaller, masked, texts(count=2, seed=9))
        yield at_most("- the shrunk model against the masked one", apart, 1e-5, unit="", digits=8)


def seconds() -> Iterator[Row]:
    """Compare the processor time of a Llama of four blocks with that of its forward passes."""
    model, inputs = backbone("Llama, 2 keys"), texts()

    def of(run: object) -> float:
        start = time.process_time()
        run()
        return time.process_time() - start

    def prune() -> None:
        tfprune.prune_units(model, inputs, verbose=0)

    of(prune)
    passes = min(of(lambda: [model(inputs) for _ in range(3)]) for _ in range(3))
    pruned = min(of(prune) for _ in range(3))
    yield Row("Llama, four blocks: processor seconds", f"{pruned:.2f} ({passes:.2f} for three passes)", "-", True)


def main() -> None:
    for row in (*(row for shape in SHAPES for row in rows_of(shape)), *seconds()):
        print(row.what, row.measured, row.bar, "yes" if row.holds else "NO", sep="\t", flush=True)


if __name__ == "__main__":
    main()
