"""Wrapping ResNet50 (25 M weights) and updating its masks: seconds, and wrap against clone_model."""

from __future__ import annotations

import sys

import keras
from common import Row, at_most, interleaved, median_ratio

import tfprune

SPARSITY = 0.8


def measure(*, rounds: int) -> list[Row]:
    model = keras.applications.ResNet50(weights=None)
    wrapped = tfprune.wrap(model)
    keras.models.clone_model(model)
    copies = interleaved(
        {"wrap": lambda: tfprune.wrap(model), "clone": lambda: keras.models.clone_model(model)}, rounds=rounds
    )
    updates = {
        allocation: lambda allocation=allocation: tfprune.update_masks(wrapped, SPARSITY, allocation=allocation)
        for allocation in ("uniform", "global")
    }
    seconds = interleaved(updates, rounds=rounds)
    # The quickest round: what else the machine does adds to the others.
    return [
        at_most("wrap ResNet50", min(copies["wrap"]), 3, unit=" s", digits=2),
        *(
            at_most(f"mask update of ResNet50, {SPARSITY:.0%} {allocation}", min(times), 1, unit=" s", digits=2)
            for allocation, times in seconds.items()
        ),
        at_most("wrap / clone_model", median_ratio(copies["wrap"], copies["clone"]), 3, digits=2),
    ]


if __name__ == "__main__":
    for row in measure(rounds=7):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
