"""Fit a landscape of the bench of policies to true searches: fit_landscapes.py NAME EPOCH FOLDER [FOLDER ...].

The folders are those of `compress` for one network, such as compress.py keeps them; EPOCH is the number of its
training steps in an epoch. Prints an entry of recorded_landscapes.json: the constants, and how far the drops that
they give are from those that were measured, for files near the limit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))
from landscapes import BATCH, MAX_DROP, SAMPLES, Landscape

from tfprune.export.compressing.trials import Recipe, Trial, read_trial

RANGES = {  # of the constants of a drop: lowest, highest, first guess
    "redundancy": (0.1, 20.0, 2.0),
    "steepness": (0.0005, 3.0, 0.02),
    "of_zeros": (0.1, 1.5, 0.8),
    "of_channels": (0.1, 2.5, 0.8),
    "hurt": (0.0003, 0.3, 0.01),
    "heals": (0.003, 10.0, 0.5),
    "gain": (0.0001, 0.03, 0.004),
    "gain_epochs": (0.5, 40.0, 5.0),
    "int8_loss": (1e-5, 0.03, 5e-4),
    "left_by_training": (0.01, 1.0, 0.2),
}
NOISE, OF_A_DROP = 0.002, 0.15  # by which a drop of 0 is uncertain, and more by this part of it
STARTS = 6


def read_search(folder: Path, epoch: int) -> list[Trial]:
    """Read the trials of a search, in their order, with steps such as those of an epoch of a landscape."""
    paths = [folder / "trials" / "dense.npz", *sorted(folder.glob("trials/trial-*.npz"))]
    trials = []
    for path in paths:
        with np.load(path) as arrays:
            trials.append(read_trial({name: arrays[name] for name in arrays.files}))
    return [replace(trial, recipe=_scaled(trial.recipe, SAMPLES / BATCH / epoch)) for trial in trials if trial.tried]


def _scaled(recipe: Recipe | None, factor: float) -> Recipe | None:
    if recipe is None:
        return None
    steps = max(1, round(recipe.steps * factor))
    return replace(recipe, steps=steps, learning_rate=1e-3, after=_scaled(recipe.after, factor))


def drops(searches: Sequence[Sequence[Trial]], constants: Mapping[str, float]) -> np.ndarray:
    """Return what each file loses on a landscape, and what was measured: (files, 2)."""
    rows = []
    for trials in searches:
        landscape = Landscape(0, constants={**constants, "wobble": 0.0, "best_rate": 1.0, "of_pattern": 0.0})
        for trial in trials[1:]:
            landscape.add(trial.recipe)
            rows += [(landscape.true_drop(trial.recipe, file.quantize), file.drop) for file in trial.tried]
    return np.array(rows)


def fit_drops(searches: Sequence[Sequence[Trial]]) -> tuple[dict[str, float], float]:
    """Return the constants of the drops, and the root of their mean squared error within twice the limit."""
    lowest, highest, guess = np.log([*RANGES.values()]).T

    def errors(logarithms: np.ndarray) -> np.ndarray:
        pairs = drops(searches, dict(zip(RANGES, np.exp(logarithms), strict=True)))
        return (pairs[:, 0] - pairs[:, 1]) / (NOISE + OF_A_DROP * np.abs(pairs[:, 1]))

    rng = np.random.default_rng(0)
    starts = [np.clip(guess + rng.normal(0, 0.5, len(guess)), lowest + 0.01, highest - 0.01) for _ in range(STARTS)]
    fits = [least_squares(errors, start, bounds=(lowest, highest), loss="soft_l1") for start in starts]
    constants = dict(zip(RANGES, np.exp(min(fits, key=lambda fit: fit.cost).x).tolist(), strict=True))
    pairs = drops(searches, constants)
    near = pairs[pairs[:, 1] < 2 * MAX_DROP]
    return constants, float(np.sqrt(np.mean((near[:, 0] - near[:, 1]) ** 2)))


def fit_bytes(searches: Sequence[Sequence[Trial]]) -> dict[str, float]:
    """Return the constants of the bytes of files."""
    names = ("weights", "graph_bytes", "weights_of_channels")
    files = [file for trials in searches for trial in trials for file in trial.tried]

    def errors(logarithms: np.ndarray) -> np.ndarray:
        landscape = Landscape(0, constants=dict(zip(names, np.exp(logarithms), strict=True)))
        return np.log([landscape.bytes(file.recipe, file.quantize) / file.bytes for file in files])

    fit = least_squares(errors, np.log([2e5, 8e3, 1.2]), diff_step=0.01)  # bytes are whole numbers
    return dict(zip(names, np.exp(fit.x).tolist(), strict=True))


def times(searches: Sequence[Sequence[Trial]]) -> dict[str, float]:
    """Return the steps of a short trial, and the time of an epoch and of an export in parts of the search."""
    length = max(trial.ended for trials in searches for trial in trials) / 0.95
    trials = [trial for trials in searches for trial in trials[1:]]
    step = float(np.median([trial.training / trial.recipe.all_steps for trial in trials]))
    return {
        "shortest": min(trial.recipe.steps for trial in trials),
        "epoch": step * SAMPLES / BATCH / length,
        "overhead": float(np.median([trial.seconds - trial.training for trial in trials])) / length,
    }


def main(name: str, epoch: int, folders: Sequence[Path]) -> None:
    searches = [read_search(folder, epoch) for folder in folders]
    constants, error = fit_drops(searches)
    constants |= {**fit_bytes(searches), **times(searches), "deviation": 0.0008, "wobble": 0.0008}
    constants = {each: float(f"{value:.4g}") for each, value in constants.items()}
    entry = {name: {"error": round(error, 4), "searches": len(searches), "constants": constants}}
    sys.stdout.write(json.dumps(entry, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [Path(folder) for folder in sys.argv[3:]])
