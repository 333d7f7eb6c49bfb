"""What to try next: Optuna draws recipes, and those that promise most train longer."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfprune.export.compressing.measured_file import MeasuredFile
from tfprune.export.compressing.pareto_front import SMALLEST_DROP, Limits
from tfprune.export.compressing.recipe import PATTERNS, Recipe

LONGER = 4  # times: sixteen times took long and brought little
TURNS = 4  # trials of which one goes for the best answer for longer, and one for the front's gaps
FIRST = 4  # recipes that halve what is left, one after the other, before Optuna draws
LAST = 20  # draws, of which Optuna learns: the less is left, the less can be removed at once
LEAST_STEP, STEP = 0.1, math.log(2)  # of the logarithm of what is left: weights times multiply-adds
AT_THE_LIMIT = 0.5  # of the longest step, how far it goes from a model that has lost all it may
LEAST_FLOPS, LEAST_WEIGHTS = 0.08, 0.02
RATES = (0.5, 4.0)  # learning rates, in those of the model
EXCESS = math.log(4)  # what a drop too many costs: with half of it, searches went on beyond the limit
HEALED = 0.3  # of what a step loses, what longer training leaves: tests/bench/healed.py, 81 recipes of eight searches
AS_MANY = 2  # pairs of trials that this counts for, beside those of the search itself: networks differ


@dataclass(frozen=True)
class Outcome:
    """What is known of a recipe.

    Attributes:
        recipe: The recipe; None for the model as it was.
        promise: What its best file costs (`cost`), or may cost after longer training, if it had none.
        drop_left: The part of the drop that is left to it then.
        front_gain: How much of the front's gaps it may fill after that (`added_area`).
        gap_below: How wide the gap is between its file and the next smaller one of the front (`gap_before`), by the
            steps that were tried from there, and one more.
        is_open: Whether it promises to become the best answer.
        is_hopeful: Whether another recipe may take more away.
        is_kept: Whether another recipe can go on with its model.
    """

    recipe: Recipe | None
    promise: float
    drop_left: float = 1.0
    front_gain: float = 0.0
    gap_below: float = 0.0
    is_open: bool = False
    is_hopeful: bool = False
    is_kept: bool = False

    @property
    def remaining(self) -> tuple[float, float]:
        """The parts of the multiply-adds and of the weights that are left."""
        return _remaining(self.recipe)

    @property
    def longest(self) -> float:
        """The longest step that goes on from it."""
        return STEP * (AT_THE_LIMIT + (1 - AT_THE_LIMIT) * self.drop_left)

    @property
    def model(self) -> Recipe | None:
        """The recipe with whose model one that does more goes on."""
        return self.recipe if self.is_kept or self.recipe is None else self.recipe.after


Known = tuple[Recipe, Outcome]


def is_long(number: int) -> bool:
    """Return whether a trial of this number trains a recipe for longer: 3, 5, 7, 9 and so on."""
    return number % TURNS == TURNS - 1 or fills_gaps(number)


def fills_gaps(number: int) -> bool:
    """Return whether a trial of this number fills the front's gaps: 5, 9, 13 and so on."""
    return number > FIRST and number % TURNS == 1


def next_recipe(
    done: Sequence[Outcome],
    *,
    number: int,
    first: Recipe,
    can_shrink: bool,
    halve: str,
    seed: int,
    may_be_long: bool = True,
) -> Recipe:
    """Return the recipe of the next trial.

    Args:
        done: The model as it was, and the recipes so far.
        number: How many were drawn before.
        first: One whose steps, rounds and learning rate the shortest trials have.
        can_shrink: Whether channels of the model can be removed.
        halve: What the first recipes halve: `"weights"`, or `"flops"` by fewer channels.
        seed: Of what is drawn. The same trials and seed give the same recipe.
        may_be_long: Whether there is time for a long trial.
    """
    first = dataclasses.replace(first, seed=seed + number)
    known = [(one.recipe, one) for one in done if one.recipe]
    short = [(recipe, one) for recipe, one in known if recipe.rounds == first.rounds]
    longer = {recipe.choice for recipe, _ in known if recipe.rounds > first.rounds}
    waiting = [(recipe, one) for recipe, one in short if recipe.choice not in longer]
    is_longer = may_be_long and is_long(number)
    if is_longer and (chosen := _most_promising(waiting, fills_gaps=fills_gaps(number))):
        recipe, best = chosen
        return dataclasses.replace(recipe, rounds=recipe.rounds * LONGER, seed=first.seed, after=best.model)
    promised = {recipe for recipe, _ in short if recipe.choice in longer}  # of which more is known by now
    hopeful = [one for one in done if one.is_hopeful and one.recipe not in promised]
    if len(short) < FIRST:
        smallest = min(hopeful, key=lambda one: math.prod(one.remaining))
        halved = _next_step(first, smallest, step=STEP, channels=float(halve == "flops"))
        if halved.choice not in (recipe.choice for recipe, _ in short):
            return halved
    base, rounds = min(hopeful, key=_promise), first.rounds
    above = max(hopeful, key=lambda one: one.gap_below)
    if is_longer and above.gap_below:
        base, rounds = above, first.rounds * LONGER
    patterns = [one for one in PATTERNS if _has_place(base.recipe, one)]
    told = _optuna_history(known, {one.recipe: one.promise for one in done}, first)
    drawn = _suggest(told, first, can_shrink=can_shrink, patterns=patterns)
    step = min(drawn.pop("step"), base.longest)
    return dataclasses.replace(_next_step(first, base, step=step, **drawn), rounds=rounds)


def cost(tried: MeasuredFile, dense: MeasuredFile, *, limits: Limits, by: str) -> float:
    """Return what a file costs: its size or time against the dense file, four times as much for each `excess`.

    Args:
        tried: The file.
        dense: That of the model as it was.
        limits: What it may lose and take.
        by: The attribute that counts, such as `"bytes"`.
    """
    return math.log(getattr(tried, by) / getattr(dense, by)) + EXCESS * limits.excess(tried)


def after_longer_training(tried: MeasuredFile, *, lost: float, part: float) -> MeasuredFile:
    """Return what a file may be like after longer training, if what was gone on with had lost so much before.

    Args:
        tried: The file.
        lost: That drop.
        part: The part of what the step lost that stays.
    """
    return dataclasses.replace(tried, drop=min(tried.drop, lost + part * (tried.drop - lost)))


def loss_kept(drops: Iterable[tuple[float, float, float]]) -> float:
    """Return the part of what a step loses that longer training leaves.

    Args:
        drops: Those of models that a step went on from, and after the step with short and with longer training.
    """
    parts = [
        (longer - before) / (short - before) for before, short, longer in drops if short - before > SMALLEST_DROP
    ]
    return statistics.median([*[HEALED] * AS_MANY, *(min(max(part, 0.0), 1.0) for part in parts)])


def _promise(outcome: Outcome) -> tuple[float, float]:
    return outcome.promise, math.prod(outcome.remaining)


def _most_promising(waiting: Sequence[Known], *, fills_gaps: bool) -> Known | None:
    """Return, of those that were not trained longer, what may fill most of the front's gaps or be the best answer."""
    best = min((pair for pair in waiting if pair[1].is_open), key=lambda pair: pair[1].promise, default=None)
    widest = max((pair for pair in waiting if pair[1].front_gain), key=lambda pair: pair[1].front_gain, default=None)
    return widest or best if fills_gaps else best or widest


def _optuna_history(
    known: Sequence[Known], promises: Mapping[Recipe | None, float], first: Recipe
) -> list[tuple[Recipe, float]]:
    """Return the last short recipes, and what each promises to change of the cost, in its longest trial.

    What it promises to save is divided by its steps, as quantization-aware training takes more of them.
    """
    in_order = sorted(known, key=lambda pair: pair[0].rounds)
    longest = {recipe.choice: one.promise for recipe, one in in_order}
    short = [recipe for recipe, _ in known if recipe.rounds == first.rounds]
    changes = [(recipe, longest[recipe.choice] - promises[recipe.after]) for recipe in short[-LAST:]]
    return [(recipe, change / recipe.all_steps if change < 0 else change) for recipe, change in changes]


def _next_step(
    first: Recipe,
    base: Outcome,
    *,
    step: float,
    channels: float,
    pattern: str = "unstructured",
    quantize_aware: bool = False,
    rate: float = 1.0,
) -> Recipe:
    """Return a recipe that goes a step further than another, a part of it by fewer channels."""
    flops, weights = base.remaining
    flops = max(LEAST_FLOPS, round(flops * math.exp(-step * channels), 2))
    weights = max(LEAST_WEIGHTS, weights * math.exp(-step * (1 - channels)))
    return dataclasses.replace(
        first,
        flops=flops,
        sparsity=round(1 - weights, 3) if pattern == "unstructured" else 0.5,
        pattern=pattern,
        quantize_aware=quantize_aware,
        learning_rate=float(f"{first.learning_rate * rate:.2g}"),
        after=base.model,
    )


def _has_place(recipe: Recipe | None, pattern: str) -> bool:
    """Return whether zeros in a pattern can come to those that are there."""
    return recipe is None or pattern == "unstructured" or recipe.pattern == pattern or not recipe.sparsity


def _suggest(
    told: Iterable[tuple[Recipe, float]], first: Recipe, *, can_shrink: bool, patterns: Sequence[str]
) -> dict[str, Any]:
    """Return what Optuna draws after recipes that changed the cost by so much."""
    import optuna

    space = {
        "step": optuna.distributions.FloatDistribution(LEAST_STEP, STEP),
        "channels": optuna.distributions.FloatDistribution(0.0, 1.0 if can_shrink else 0.0),
        "pattern": optuna.distributions.CategoricalDistribution(PATTERNS),
        "quantize_aware": optuna.distributions.CategoricalDistribution((False, True)),
        "rate": optuna.distributions.FloatDistribution(*RATES, log=True),
    }
    loud = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=first.seed, n_startup_trials=FIRST))
        for recipe, change in told:
            parameters = _parameters(recipe, first)
            study.add_trial(optuna.create_trial(params=parameters, distributions=space, value=change))
        free = {name: space[name] for name in space if name != "pattern" or len(patterns) > 1}
        return study.ask(free).params
    finally:
        optuna.logging.set_verbosity(loud)


def _parameters(recipe: Recipe, first: Recipe) -> dict[str, Any]:
    """Return what was drawn, but for what was rounded, when a recipe came of it."""
    (flops_before, weights_before), (flops, weights) = _remaining(recipe.after), _remaining(recipe)
    removed = math.log(flops_before / flops)
    step = removed + math.log(weights_before / weights)
    return {
        "step": min(max(step, LEAST_STEP), STEP),
        "channels": min(max(removed / step, 0.0), 1.0) if step else 0.0,
        "pattern": recipe.pattern,
        "quantize_aware": recipe.quantize_aware,
        "rate": min(max(recipe.learning_rate / first.learning_rate, RATES[0]), RATES[1]),
    }


def _remaining(recipe: Recipe | None) -> tuple[float, float]:
    return (recipe.flops, 1 - recipe.sparsity) if recipe else (1.0, 1.0)
