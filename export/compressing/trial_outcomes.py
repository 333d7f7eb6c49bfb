"""Rate the trials of a search: the front of their best files, what each trial promises, and what it may add."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from tfprune.export.compressing.recipe import Recipe
from tfprune.export.compressing.search_settings import DROP_NOISE, Goal, SearchSettings
from tfprune.export.compressing.trial import MeasuredFile, Trial, lowest_drop


@dataclass(frozen=True)
class Outcome:
    """What is known about a recipe.

    Attributes:
        recipe: The recipe; None for the original model.
        promise: The `cost` of its best file. For a recipe that had short training only, the cost that is expected
            after long training.
        drop_left: The fraction of `max_drop` that this file leaves unused.
        front_gain: How much area it may add to the front (`added_area`).
        gap_below: The gap between its file and the next smaller one of the front (`gap_before`), shared by the trials
            that started from it and the next one.
        is_open: Whether it may become the best file.
        is_hopeful: Whether another recipe may remove more.
        is_kept: Whether another recipe can start from its model.
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
        """The fractions of the multiply-adds and of the weights that remain."""
        return remaining(self.recipe)

    @property
    def model(self) -> Recipe | None:
        """The recipe from whose model a recipe that removes more starts."""
        return self.recipe if self.is_kept or self.recipe is None else self.recipe.after


def trial_outcomes(
    trials: Sequence[Trial], running: Sequence[Recipe], *, first: Recipe, settings: SearchSettings
) -> list[Outcome]:
    """Rate all trials so far.

    Args:
        trials: The trials that have ended, that of the original model first.
        running: The recipes of those that have not. They count as if they failed, so that none is chosen again.
        first: A recipe with the rounds of the shortest trials.
        settings: The goal and the constants of the search.
    """
    goal = settings.goal
    trials = [replace(trial, tried=tuple(map(goal.strictest, trial.tried))) for trial in trials]
    dense = trials[0].tried[0]
    front = pareto_front((file for trial in trials for file in trial.tried), goal)
    lowest = min((cost(file, dense, settings=settings) for file in front), default=math.inf)
    promised = _promised(trials, first, settings)
    continued = Counter(trial.recipe.after for trial in trials if trial.recipe)
    outcomes = []
    for trial in trials:
        files = promised[trial.recipe]
        promise = min((cost(file, dense, settings=settings) for file in files), default=settings.cost_without_file)
        drop_left = goal.drop_left(lowest_drop(files))
        outcome = Outcome(
            trial.recipe,
            promise,
            drop_left=max(0.0, drop_left),
            front_gain=max((added_area(file, front, dense=dense, goal=goal) for file in files), default=0.0),
            gap_below=_gap_below(trial, front, goal) / (1 + continued[trial.recipe]),
            is_open=promise < lowest,
            is_hopeful=trial.recipe is None or drop_left >= 0,
            is_kept=trial.is_kept,
        )
        outcomes.append(outcome)
    worst = max(outcome.promise for outcome in outcomes)
    return [*outcomes, *(Outcome(recipe, worst, is_hopeful=True) for recipe in running)]


def cost(file: MeasuredFile, dense: MeasuredFile, *, settings: SearchSettings) -> float:
    """Return the log of a file's size or time relative to the dense file, plus log(4) per drop beyond the limits."""
    return math.log(settings.goal.size(file) / settings.goal.size(dense)) + (
        settings.excess_cost * settings.goal.excess(file)
    )


def after_longer_training(file: MeasuredFile, *, drop_before: float, loss_kept: float) -> MeasuredFile:
    """Estimate a file after longer training.

    Args:
        file: The file after short training.
        drop_before: The drop of the model that its recipe started from.
        loss_kept: The fraction of the step's loss that longer training does not win back.
    """
    return replace(file, drop=min(file.drop, drop_before + loss_kept * (file.drop - drop_before)))


def loss_kept(drops: Iterable[tuple[float, float, float]], settings: SearchSettings) -> float:
    """Return the fraction of a step's loss that longer training does not win back: a median.

    Args:
        drops: Three drops for each step: before it, after short training, and after long training.
        settings: The fraction to begin with, and its weight.
    """
    fractions = [
        (longer - before) / (short - before) for before, short, longer in drops if short - before > DROP_NOISE
    ]
    prior = [settings.loss_kept_by_longer_training] * settings.loss_kept_prior_pairs
    return statistics.median([*prior, *(min(max(fraction, 0.0), 1.0) for fraction in fractions)])


def remaining(recipe: Recipe | None) -> tuple[float, float]:
    """Return the fractions of the multiply-adds and of the weights that a recipe leaves; None is the original."""
    return (recipe.flops, 1 - recipe.sparsity) if recipe else (1.0, 1.0)


def _gap_below(trial: Trial, front: list[MeasuredFile], goal: Goal) -> float:
    return max((gap_before(file, front, goal=goal) for file in trial.tried), default=0.0)


def _promised(
    trials: Sequence[Trial], first: Recipe, settings: SearchSettings
) -> dict[Recipe | None, tuple[MeasuredFile, ...]]:
    """Return the files of each recipe; for short training, as they are expected to be after long training."""
    fraction = loss_kept(_drops(trials, first), settings)
    files: dict[Recipe | None, tuple[MeasuredFile, ...]] = {}
    for trial in trials:
        files[trial.recipe] = trial.tried
        if trial.recipe and trial.recipe.rounds == first.rounds:
            before = lowest_drop(files[trial.recipe.after])
            files[trial.recipe] = tuple(
                after_longer_training(file, drop_before=before, loss_kept=fraction) for file in trial.tried
            )
    return files


def _drops(trials: Sequence[Trial], first: Recipe) -> Iterator[tuple[float, float, float]]:
    """Yield three drops for each step with both short and long training: before it, and after either."""
    drops = {trial.recipe: trial.drop for trial in trials if trial.tried}
    longer = {recipe.choice: drop for recipe, drop in drops.items() if recipe and recipe.rounds > first.rounds}
    for recipe, short in drops.items():
        if recipe is None or recipe.rounds != first.rounds or recipe.choice not in longer:
            continue
        if recipe.after is None or recipe.after.rounds > first.rounds:
            yield drops[recipe.after], short, longer[recipe.choice]


def pareto_front(files: Iterable[MeasuredFile], goal: Goal) -> list[MeasuredFile]:
    """Select the files within the limits that no other file beats in both size and accuracy.

    Args:
        files: All files.
        goal: What a file may lose, and whether its bytes or its time counts.

    Returns:
        The files of the front, the smallest or fastest first.
    """
    front: list[MeasuredFile] = []
    for file in sorted(files, key=lambda file: (goal.size(file), file.drop)):
        if not goal.excess(file) and (not front or file.drop < front[-1].drop):
            front.append(file)
    return front


def gap_before(file: MeasuredFile, front: list[MeasuredFile], *, goal: Goal) -> float:
    """Measure the gap between a file of the front and the next smaller one: difference of drops x log(size ratio).

    A file outside of the front has no gap: 0. The smallest file is compared with an assumed one of half its size that
    loses all of `max_drop`.
    """
    if file not in front:
        return 0.0
    index, drop = front.index(file), max(0.0, file.drop)
    if not index:
        return (goal.max_drop - drop) * math.log(2)
    smaller = front[index - 1]
    return (max(0.0, smaller.drop) - drop) * math.log(goal.size(file) / goal.size(smaller))


def added_area(file: MeasuredFile, front: Sequence[MeasuredFile], *, dense: MeasuredFile, goal: Goal) -> float:
    """Return the area that a file adds to a front, over drops from 0 to `max_drop` and logarithms of sizes.

    Args:
        file: The file.
        front: What `pareto_front` returned.
        dense: The file of the original model, which stands in where the front has none.
        goal: What a file may lose, and whether its bytes or its time counts.

    Returns:
        The sum, over all drops, of the log(size) it saves against the smallest file of the front that loses no more.
    """
    if goal.excess(replace(file, drop=0.0)):
        return 0.0
    area, most = 0.0, goal.max_drop
    for other in [*front, replace(dense, drop=0.0)]:
        drops = most - max(0.0, file.drop, other.drop)
        area += max(0.0, drops) * max(0.0, math.log(goal.size(other) / goal.size(file)))
        most = min(most, other.drop)
    return area
