"""What to try next: Optuna draws recipes, and those that promise most train longer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfprune.export.compressing.front import Limits
from tfprune.export.compressing.measured import Tried
from tfprune.export.compressing.recipe import PATTERNS, Recipe

LONGER = 4  # times, of a recipe that promises much, and of each so many the best one
FIRST = 4  # recipes that halve what is left, one after the other, before Optuna draws
STEP = math.log(2)  # what is left may shrink by this, weights times multiply-adds, from one model to the next
LEAST_FLOPS, LEAST_WEIGHTS = 0.08, 0.02
HALF = math.log(2)
WHOLE = {"flops": 1.0, "weights": 1.0, "pattern": "unstructured", "quantize_aware": False}


def rung(number: int) -> int:
    """Return how often a trial of this number multiplies the training: 0, 0, 0, 1, ..., and 2 for every sixteenth."""
    times = 0
    while number % LONGER == LONGER - 1:
        number, times = number // LONGER, times + 1
    return times


def next_recipe(
    done: Sequence[tuple[Recipe, float]],
    *,
    kept: Sequence[Recipe],
    number: int,
    first: Recipe,
    can_shrink: bool,
    halve: str,
    seed: int,
    most: int | None = None,
) -> Recipe:
    """Return the recipe of the next trial.

    Args:
        done: The recipes so far, and the cost of each (`cost`).
        kept: Those with whose models another recipe can go on.
        number: How many were drawn before.
        first: One whose steps, rounds and learning rate the shortest trials have.
        can_shrink: Whether channels of the model can be removed.
        halve: What the first recipes halve: `"weights"`, or `"flops"` by fewer channels.
        seed: Of what is drawn. The same trials and seed give the same recipe.
        most: How often the training may be multiplied; None lets `rung` say it.
    """
    for times in range(rung(number) if most is None else most, 0, -1):
        before = [(price, recipe) for recipe, price in done if recipe.rounds == first.rounds * LONGER ** (times - 1)]
        longer = {_choice(recipe) for recipe, _ in done if recipe.rounds == first.rounds * LONGER**times}
        waiting = [(price, recipe) for price, recipe in before if _choice(recipe) not in longer]
        if waiting:
            _, best = min(waiting, key=lambda pair: pair[0])
            after = best if best in kept else best.after
            return dataclasses.replace(best, rounds=best.rounds * LONGER, seed=seed + number, after=after)
    short = sum(recipe.rounds == first.rounds for recipe, _ in done)
    part = 0.5 ** (short + 1)
    if short < FIRST:
        drawn = _fields({**WHOLE, halve: part})
    else:
        drawn = _drawn(_cheapest(done), can_shrink=can_shrink, seed=seed + number)
    return _going_on(dataclasses.replace(first, **drawn, seed=seed + number), kept)


def cost(tried: Tried, dense: Tried, *, limits: Limits, by: str) -> float:
    """Return what a file costs: its size or time against the dense file, twice as much for each `excess`.

    Args:
        tried: The file.
        dense: That of the model as it was.
        limits: What it may lose and take.
        by: The attribute that counts, such as `"bytes"`.
    """
    return math.log(getattr(tried, by) / getattr(dense, by)) + HALF * limits.excess(tried)


def _cheapest(done: Iterable[tuple[Recipe, float]]) -> list[tuple[Recipe, float]]:
    """Return one trial of each choice, as what goes on from there begins with the best of them."""
    found = {_choice(recipe): (recipe, price) for recipe, price in sorted(done, key=lambda pair: -pair[1])}
    return list(found.values())


def _going_on(recipe: Recipe, kept: Iterable[Recipe]) -> Recipe:
    """Let a recipe go on with the nearest model that more is left of, and go only a step from there."""
    milder = [one for one in kept if _is_milder(one, recipe)]
    before = min(milder, key=lambda one: (_distance(one, recipe), -one.steps_of_chain), default=None)
    part = STEP / max(STEP, _distance(before, recipe))
    flops, sparsity = (before.flops, before.sparsity) if before else (1.0, 0.0)
    changes: dict[str, Any] = {"flops": round(flops * (recipe.flops / flops) ** part, 2)}
    if recipe.pattern == "unstructured":
        weights = (1 - sparsity) * ((1 - recipe.sparsity) / (1 - sparsity)) ** part
        changes["sparsity"] = max(sparsity, round(1 - weights, 2))
    return dataclasses.replace(recipe, **changes, after=before)


def _is_milder(one: Recipe, other: Recipe) -> bool:
    has_pattern = other.pattern == "unstructured" or one.pattern == other.pattern or not one.sparsity
    return one.flops >= other.flops and one.sparsity <= other.sparsity and has_pattern


def _distance(one: Recipe | None, other: Recipe) -> float:
    flops, sparsity = (one.flops, one.sparsity) if one else (1.0, 0.0)
    return math.log(flops / other.flops) + math.log((1 - sparsity) / (1 - other.sparsity))


def _drawn(done: Sequence[tuple[Recipe, float]], *, can_shrink: bool, seed: int) -> dict[str, Any]:
    """Return what Optuna draws after trials of these costs."""
    import optuna

    space = {
        "flops": optuna.distributions.FloatDistribution(LEAST_FLOPS if can_shrink else 1.0, 1.0, log=True),
        "weights": optuna.distributions.FloatDistribution(LEAST_WEIGHTS, 1.0, log=True),
        "pattern": optuna.distributions.CategoricalDistribution(PATTERNS),
        "quantize_aware": optuna.distributions.CategoricalDistribution((False, True)),
    }
    loud = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=FIRST))
        for recipe, price in done:
            study.add_trial(optuna.create_trial(params=_parameters(recipe), distributions=space, value=price))
        return _fields(study.ask(space).params)
    finally:
        optuna.logging.set_verbosity(loud)


def _parameters(recipe: Recipe) -> dict[str, Any]:
    weights = 1 - recipe.sparsity if recipe.pattern == "unstructured" else 0.5
    return {
        "flops": recipe.flops,
        "weights": weights,
        "pattern": recipe.pattern,
        "quantize_aware": recipe.quantize_aware,
    }


def _fields(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a recipe, with numbers as one would write them."""
    is_free = parameters["pattern"] == "unstructured"
    return {
        "flops": max(LEAST_FLOPS, round(parameters["flops"], 2)),
        "sparsity": round(1 - parameters["weights"], 2) if is_free else 0.5,
        "pattern": parameters["pattern"],
        "quantize_aware": parameters["quantize_aware"],
    }


def _choice(recipe: Recipe) -> tuple:
    return recipe.flops, recipe.sparsity, recipe.pattern, recipe.quantize_aware
