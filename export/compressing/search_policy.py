"""Choose the next trial of a search, from what the trials before have measured.

Nothing here trains a model, reads a file or looks at a clock: the same trials and settings give the same recipe.
`trial_outcomes` rates each trial before. A short trial takes a step from the model of an earlier one: the first ones
halve its cost, and Optuna draws the others. Every second trial is long: it trains a recipe again that promises the
best file, or one that promises to fill a gap in the front.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from tfprune.export.compressing.recipe import PATTERNS, Recipe
from tfprune.export.compressing.search_settings import SearchSettings
from tfprune.export.compressing.trial_outcomes import Outcome, remaining


class RecipeStep(NamedTuple):
    """A step from one recipe to the next, as Optuna draws it; by default, half of the weights become zero.

    Attributes:
        length: The logarithm of the cost (weights times multiply-adds) before, divided by the cost after.
        channels: The fraction of the length that removes channels; the rest makes zeros.
        pattern: The pattern of the zeros.
        quantize_aware: Whether the model then trains quantization-aware.
        rate: The learning rate, in units of the model's own.
    """

    length: float = math.log(2)
    channels: float = 0.0
    pattern: str = "unstructured"
    quantize_aware: bool = False
    rate: float = 1.0


Known = tuple[Recipe, Outcome]


def is_long(number: int, settings: SearchSettings) -> bool:
    """Tell whether a trial of this number trains longer: with the usual settings 3, 5, 7, 9 and so on."""
    return number % settings.trials_of_a_turn == settings.trials_of_a_turn - 1 or fills_gaps(number, settings)


def fills_gaps(number: int, settings: SearchSettings) -> bool:
    """Tell whether a trial of this number fills gaps in the front: with the usual settings 5, 9, 13 and so on."""
    return number > settings.first_halvings and number % settings.trials_of_a_turn == 1


def trial_number(outcomes: Sequence[Outcome], first: Recipe) -> int:
    """Return the number of the next trial; the seed of each recipe is that of the search plus its number."""
    return (
        1 + max((outcome.recipe.seed for outcome in outcomes if outcome.recipe), default=first.seed - 1) - first.seed
    )


def next_recipe(
    outcomes: Sequence[Outcome],
    *,
    number: int,
    first: Recipe,
    can_shrink: bool,
    settings: SearchSettings,
    may_be_long: bool = True,
) -> Recipe:
    """Choose the recipe of the next trial.

    1. A long trial trains the most promising short recipe again, starting from its own model if that is stored.
    2. The first trials each halve the cost of the smallest model so far.
    3. All others take a step that Optuna draws, from the recipe of the lowest cost. A long trial without a recipe to
       train again takes it from the file above the widest gap.

    Args:
        outcomes: The original model, and the recipes so far.
        number: How many recipes were chosen before.
        first: A recipe with the steps, rounds and learning rate of the shortest trials, and the seed of the search.
        can_shrink: Whether channels of the model can be removed.
        settings: The goal and the constants of the search.
        may_be_long: Whether there is time for a long trial.

    Returns:
        The recipe, with its number added to the seed.
    """
    first = replace(first, seed=first.seed + number)
    known = [(outcome.recipe, outcome) for outcome in outcomes if outcome.recipe]
    short = [(recipe, outcome) for recipe, outcome in known if recipe.rounds == first.rounds]
    trained_longer = {recipe.choice for recipe, _ in known if recipe.rounds > first.rounds}
    waiting = [(recipe, outcome) for recipe, outcome in short if recipe.choice not in trained_longer]
    is_longer = may_be_long and is_long(number, settings)
    if is_longer and (chosen := _most_promising(waiting, fills_gaps=fills_gaps(number, settings))):
        recipe, outcome = chosen
        rounds = recipe.rounds * settings.long_trial_factor
        return replace(recipe, rounds=rounds, seed=first.seed, after=outcome.model)
    superseded = {recipe for recipe, _ in short if recipe.choice in trained_longer}
    hopeful = [outcome for outcome in outcomes if outcome.is_hopeful and outcome.recipe not in superseded]
    if len(short) < settings.first_halvings:
        smallest = min(hopeful, key=lambda outcome: math.prod(outcome.remaining))
        channels = float(can_shrink and settings.goal.needs_channels)
        halved = _next_step(first, smallest, RecipeStep(settings.longest_step, channels), settings)
        if halved.choice not in (recipe.choice for recipe, _ in short):
            return halved
    base, rounds = min(hopeful, key=_promise), first.rounds
    above_gap = max(hopeful, key=lambda outcome: outcome.gap_below)
    if is_longer and above_gap.gap_below:
        base, rounds = above_gap, first.rounds * settings.long_trial_factor
    patterns = [pattern for pattern in PATTERNS if _is_possible_after(base.recipe, pattern)]
    history = _optuna_history(known, outcomes, first, settings)
    step = _suggest(history, first, can_shrink=can_shrink, patterns=patterns, settings=settings)
    step = step._replace(length=min(step.length, _longest_step(base, settings)))
    return replace(_next_step(first, base, step, settings), rounds=rounds)


def _promise(outcome: Outcome) -> tuple[float, float]:
    return outcome.promise, math.prod(outcome.remaining)


def _most_promising(waiting: Sequence[Known], *, fills_gaps: bool) -> Known | None:
    """Return the recipe that may become the best file, or the one that may add most to the front."""
    best = min((pair for pair in waiting if pair[1].is_open), key=lambda pair: pair[1].promise, default=None)
    widest = max((pair for pair in waiting if pair[1].front_gain), key=lambda pair: pair[1].front_gain, default=None)
    return widest or best if fills_gaps else best or widest


def _longest_step(base: Outcome, settings: SearchSettings) -> float:
    """Return the longest step from a model, which is shorter the more of the drop it has used up."""
    at_limit = settings.longest_step_at_limit
    return settings.longest_step * (at_limit + (1 - at_limit) * base.drop_left)


def _next_step(first: Recipe, base: Outcome, step: RecipeStep, settings: SearchSettings) -> Recipe:
    """Return the recipe that goes a step further than another; a part of the step removes channels."""
    flops, weights = base.remaining
    flops = max(settings.min_flops, round(flops * math.exp(-step.length * step.channels), 2))
    weights = max(settings.min_weights, weights * math.exp(-step.length * (1 - step.channels)))
    return replace(
        first,
        flops=flops,
        sparsity=round(1 - weights, 3) if step.pattern == "unstructured" else 0.5,
        pattern=step.pattern,
        quantize_aware=step.quantize_aware,
        learning_rate=float(f"{first.learning_rate * step.rate:.2g}"),
        after=base.model,
    )


def _is_possible_after(recipe: Recipe | None, pattern: str) -> bool:
    """Tell whether zeros in a pattern can be added to those of a recipe."""
    return recipe is None or pattern == "unstructured" or recipe.pattern == pattern or not recipe.sparsity


def _optuna_history(
    known: Sequence[Known], outcomes: Sequence[Outcome], first: Recipe, settings: SearchSettings
) -> list[tuple[Recipe, float]]:
    """Return the last short recipes, and by how much each changes the cost, in its longest trial.

    A gain is divided by the training steps, as quantization-aware training takes more of them.
    """
    promises = {outcome.recipe: outcome.promise for outcome in outcomes}
    longest = {recipe.choice: outcome.promise for recipe, outcome in sorted(known, key=lambda pair: pair[0].rounds)}
    short = [recipe for recipe, _ in known if recipe.rounds == first.rounds][-settings.history_length :]
    changes = [(recipe, longest[recipe.choice] - promises[recipe.after]) for recipe in short]
    return [(recipe, change / recipe.all_steps if change < 0 else change) for recipe, change in changes]


def _suggest(
    history: Iterable[tuple[Recipe, float]],
    first: Recipe,
    *,
    can_shrink: bool,
    patterns: Sequence[str],
    settings: SearchSettings,
) -> RecipeStep:
    """Let Optuna draw a step, after recipes that changed the cost by these amounts."""
    import optuna

    space = {
        "step": optuna.distributions.FloatDistribution(settings.shortest_step, settings.longest_step),
        "channels": optuna.distributions.FloatDistribution(0.0, 1.0 if can_shrink else 0.0),
        "pattern": optuna.distributions.CategoricalDistribution(PATTERNS),
        "quantize_aware": optuna.distributions.CategoricalDistribution((False, True)),
        "rate": optuna.distributions.FloatDistribution(*settings.learning_rates, log=True),
    }
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        sampler = optuna.samplers.TPESampler(seed=first.seed, n_startup_trials=settings.first_halvings)
        study = optuna.create_study(sampler=sampler)
        for recipe, change in history:
            parameters = _parameters(recipe, first, settings)
            study.add_trial(optuna.create_trial(params=parameters, distributions=space, value=change))
        free = {name: space[name] for name in space if name != "pattern" or len(patterns) > 1}
        drawn = study.ask(free).params
    finally:
        optuna.logging.set_verbosity(verbosity)
    pattern = drawn.get("pattern", "unstructured")
    return RecipeStep(drawn["step"], drawn["channels"], pattern, drawn["quantize_aware"], drawn["rate"])


def _parameters(recipe: Recipe, first: Recipe, settings: SearchSettings) -> dict[str, Any]:
    """Turn a recipe back into the parameters that Optuna drew for it, apart from rounding."""
    (flops_before, weights_before), (flops, weights) = remaining(recipe.after), remaining(recipe)
    removed = math.log(flops_before / flops)
    length = removed + math.log(weights_before / weights)
    least, most = settings.learning_rates
    return {
        "step": min(max(length, settings.shortest_step), settings.longest_step),
        "channels": min(max(removed / length, 0.0), 1.0) if length else 0.0,
        "pattern": recipe.pattern,
        "quantize_aware": recipe.quantize_aware,
        "rate": min(max(recipe.learning_rate / first.learning_rate, least), most),
    }
