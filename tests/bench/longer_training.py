"""What longer training wins back, in searches: longer_training.py FOLDER [FOLDER ...], as `compress` leaves them.

Of what a step lost in a short trial, the part that is left after a long one of the same recipe, by the error of what
`after_longer_training` expects of it.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfprune.export.compressing.trial import read_trial

PARTS = (0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)


class Pair(NamedTuple):
    """The drops of a short trial, of a long one, and of the model before, which may have been made by a short one."""

    short: float
    long: float
    before: float
    is_before_short: bool

    def error(self, part: float) -> float:
        """Return how much more the long one lost than is expected."""
        before = self.before * (part if self.is_before_short else 1)
        return self.long - min(self.short, before + part * (self.short - before))


def pairs(folder: Path) -> Iterator[Pair]:
    """Yield short and long trials of the same recipe."""
    trials = [read_trial(np.load(path)) for path in sorted(folder.glob("trials/trial-*.npz"))]
    made = {trial.recipe: trial for trial in trials if trial.recipe and trial.tried}
    shortest = min(recipe.rounds for recipe in made)
    short = {recipe.choice: trial for recipe, trial in made.items() if recipe.rounds == shortest}
    for recipe, trial in made.items():
        if recipe.rounds > shortest and (first := short.get(recipe.choice)) and first.recipe:
            after = first.recipe.after
            before = made[after].drop if after else 0.0
            yield Pair(first.drop, trial.drop, before, after is not None and after.rounds == shortest)


if __name__ == "__main__":
    found = [pair for folder in sys.argv[1:] for pair in pairs(Path(folder))]
    sys.stdout.write(f"{len(found)} recipes were tried twice.\npart\tin the middle\ton average, without sign\n")
    for part in PARTS:
        errors = [pair.error(part) for pair in found]
        middle, size = statistics.median(errors), statistics.mean(map(abs, errors))
        sys.stdout.write(f"{part}\t{middle:+.4f}\t{size:.4f}\n")
