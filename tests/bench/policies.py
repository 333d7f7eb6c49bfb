"""Record how well a search chooses its trials, on simulated landscapes: policies.py [LANDSCAPES].

Writes hypervolume, nats of the smallest file and trials of each search to policy_before.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
from landscapes import MAX_DROP, Landscape, search, worth

from tfprune.export.compressing.recipe import Recipe
from tfprune.export.compressing.search_policy import next_recipe, trial_number
from tfprune.export.compressing.search_settings import Goal, SearchSettings
from tfprune.export.compressing.trial import Trial
from tfprune.export.compressing.trial_outcomes import trial_outcomes

LANDSCAPES, DRAWS = 40, 5
CASES = {
    "smallest, 1 at once": ("bytes", 1),
    "fastest, 1 at once": ("latency_ms", 1),
    "smallest, 4 at once": ("bytes", 4),
}


def product(
    trials: Sequence[Trial], running: Sequence[Recipe], first: Recipe, may_be_long: bool, *, by: str
) -> Recipe:
    """Choose as `compress` does."""
    settings = SearchSettings(Goal(by, MAX_DROP))
    outcomes = trial_outcomes(trials, running, first=first, settings=settings)
    number = trial_number(outcomes, first)
    return next_recipe(
        outcomes, number=number, first=first, can_shrink=True, settings=settings, may_be_long=may_be_long
    )


def measure(by: str, workers: int, landscapes: int) -> list[list[list[float]]]:
    """Return the results of each search, by landscape and draw."""
    results = []
    for seed in range(landscapes):
        results.append([])
        for draw in range(DRAWS):
            landscape = Landscape(seed, draw)
            trials = search(landscape, partial(product, by=by), workers=workers)
            volume, smallest = worth(landscape, trials, by=by)
            results[-1].append([round(volume, 4), round(smallest, 4), len(trials) - 1])
    return results


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else LANDSCAPES
    record = {name: measure(*case, count) for name, case in CASES.items()}
    Path(__file__).with_name("policy_before.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
