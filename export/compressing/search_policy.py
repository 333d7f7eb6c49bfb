"""Choose the next recipe of a search from what the trials before have measured: a population over the front.

Nothing here trains a model, reads a file or looks at a clock, and nothing is drawn at random: the same trials and
settings give the same recipe. Each trial is a child of an earlier one and inherits its model (Elsken et al.,
"Efficient Multi-objective Neural Architecture Search via Lamarckian Evolution", arXiv 1804.09081). By turns, a short
trial removes something from the model that promises the smallest file, and a long one trains the model that promises
most for the front of the best files (its hypervolume).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tfprune.export.compressing.goal import Goal, added_area, pareto_front
from tfprune.export.compressing.trials.block_order import BlockOrder
from tfprune.export.compressing.trials.recipe import LEAST_FLOPS, LEAST_WEIGHTS, PATTERNS, Recipe
from tfprune.export.compressing.trials.trial import Trial
from tfprune.patterns import NM


@dataclass(frozen=True)
class SearchSettings:
    """How a search chooses its trials, and how long they are.

    Attributes:
        longest_step: The most that a trial removes of the cost (weights times multiply-adds), as a logarithm.
        channel_shares: The parts of a step that remove channels, and not zeros: of the first step from models of a
            size, and of later ones, each half as long; the largest first where zeros help little.
        long_trial_factor: How many times as long as a short trial a long one trains.
        long_trial_every: One of so many trials is long.
        loss_kept: The part of a drop that a long trial is expected to leave.
        quantize_aware_from: The part of `max_drop` that int8 alone may lose before training is quantization-aware;
            one sample never counts.
        shortest_trial_fraction: The part of the search's time that a short trial trains, up to an epoch.
        reserved_time_fraction: The part of the time after the last trial, to write and time the best files.
    """

    longest_step: float = math.log(2)
    channel_shares: tuple[float, ...] = (0.5, 0.0, 1.0)
    long_trial_factor: int = 4
    long_trial_every: int = 2
    loss_kept: float = 0.5
    quantize_aware_from: float = 0.25
    shortest_trial_fraction: float = 1 / 60
    reserved_time_fraction: float = 0.05


def next_recipe(
    trials: Sequence[Trial],
    running: Sequence[Recipe],
    *,
    first: Recipe,
    can_shrink: bool = True,
    blocks: BlockOrder | None = None,
    goal: Goal,
    settings: SearchSettings,
    may_be_long: bool = True,
) -> Recipe:
    """Choose the recipe of the next trial.

    Args:
        trials: The trials that have ended, that of the original model first.
        running: The recipes of those that have not.
        first: A recipe with the steps, rounds and learning rate of short trials, and the seed of the search.
        can_shrink: Whether channels of the model can be removed.
        blocks: The blocks that can be dropped; None if there are none.
        goal: What a file may lose, and whether its bytes or its time counts.
        settings: The constants of the search.
        may_be_long: Whether there is time for a long trial.

    Returns:
        The recipe. Its seed is that of the search plus the number of the trial.
    """
    trials = [goal.strictest(trial) for trial in trials]
    recipes = [*(trial.recipe for trial in trials if trial.recipe), *running]
    number = 1 + max((recipe.seed for recipe in recipes), default=first.seed - 1) - first.seed
    seeded = replace(first, seed=first.seed + number)
    children = _Children(recipes, first)
    is_long = may_be_long and number % settings.long_trial_every == settings.long_trial_every - 1
    parent = _to_train(trials, children, goal, settings) if is_long else None
    if parent is not None:
        longer = first.rounds * settings.long_trial_factor
        return replace(_child(seeded, parent, goal, settings), rounds=longer)
    parent, step = _to_shrink(trials, children, goal, settings)
    shares = settings.channel_shares
    if goal.needs_channels:
        shares = tuple(sorted(shares, reverse=True))
    share = shares[children.smaller(parent) % len(shares)]  # after a step that was not enough, another way
    child = _child(seeded, parent, goal, settings)
    shallower = blocks.shallower(child, step) if blocks and share == 1 else None
    return shallower or _smaller(child, step, share, can_shrink=can_shrink)


class _Children:
    """How many recipes have gone on from the models of a size, however long these were trained."""

    def __init__(self, recipes: Sequence[Recipe], first: Recipe) -> None:
        self._longer: Counter[tuple[float, float]] = Counter()
        self._smaller: Counter[tuple[float, float]] = Counter()
        for recipe in recipes:
            (self._longer if recipe.rounds > first.rounds else self._smaller)[remaining(recipe.after)] += 1

    def longer(self, trial: Trial) -> int:
        """Return how many have trained a model of this size for longer."""
        return self._longer[remaining(trial.recipe)]

    def smaller(self, trial: Trial) -> int:
        """Return how many have removed more from a model of this size."""
        return self._smaller[remaining(trial.recipe)]


def _to_train(trials: Sequence[Trial], children: _Children, goal: Goal, settings: SearchSettings) -> Trial | None:
    """Return the trial whose files would add most to the front if they lost less, and half as much for each child."""
    front = pareto_front((file for trial in trials for file in trial.tried), goal)
    dense = trials[0].tried[0]

    def added(trial: Trial) -> float:
        trained = (replace(file, drop=settings.loss_kept * file.drop) for file in trial.tried)
        areas = [added_area(file, front, dense=dense, goal=goal) for file in trained]
        return max(areas, default=0.0) / 2 ** children.longer(trial)

    best = max(trials[1:], key=added, default=None)
    return best if best is not None and added(best) else None


def _to_shrink(
    trials: Sequence[Trial], children: _Children, goal: Goal, settings: SearchSettings
) -> tuple[Trial, float]:
    """Return the trial within `max_drop` whose next step promises the smallest file, and the length of that step.

    A step is shorter the more of the drop is used up, down to a half, and half as long for each child. A size whose
    next step would be too short is left alone as long as there are others.
    """
    options: list[tuple[float, int, Trial, float]] = []
    for trial in trials:
        files = [file for file in trial.tried if trial is trials[0] or not goal.excess_drop(file)]
        if not files:
            continue
        share = 1 - max(goal.drop_left(file.drop) for file in files)
        step = settings.longest_step * (1 - min(max(share, 0.0), 1.0) / 2) / 2 ** children.smaller(trial)
        size = min(math.log(goal.size(file)) + goal.excess_size(file) for file in files)
        options.append((size - step, len(options), trial, step))
    least = settings.longest_step / 2 ** len(settings.channel_shares)  # each share has had its turn
    *_, trial, step = min([option for option in options if option[-1] >= least] or options)
    return trial, step


def _child(seeded: Recipe, parent: Trial, goal: Goal, settings: SearchSettings) -> Recipe:
    """Return a recipe that goes on from a trial and removes nothing more.

    Training becomes quantization-aware if int8 alone has lost too much, and stays so.
    """
    earlier = parent.recipe or seeded
    drops = {file.quantize: file.drop for file in parent.tried}
    exact = drops.get(None, drops.get("float16", 0.0))
    loss = drops.get("int8", exact) - exact
    return replace(
        seeded,
        flops=earlier.flops,
        sparsity=earlier.sparsity,
        dropped=earlier.dropped,
        depth=earlier.depth,
        quantize_aware=earlier.quantize_aware or loss > goal.drop_of(settings.quantize_aware_from),
        after=parent.stored_as,
    )


def _smaller(recipe: Recipe, step: float, channels: float, *, can_shrink: bool) -> Recipe:
    """Return a recipe that removes more: a part of a step as channels, and the rest as zeros."""
    flops, weights = recipe.flops, 1 - recipe.sparsity
    pattern = PATTERNS[recipe.pattern]
    channels = channels if can_shrink else 0.0
    if isinstance(pattern, NM):  # all of its zeros come at once, and channels after that
        channels, weights = float(can_shrink and weights < 1), pattern.n / pattern.m
    else:
        weights = min(weights, max(LEAST_WEIGHTS, weights * math.exp(-step * (1 - channels))))
    flops = min(flops, max(LEAST_FLOPS, round(flops * math.exp(-step * channels), 2)))
    return replace(recipe, flops=flops, sparsity=round(1 - weights, 3))


def remaining(recipe: Recipe | None) -> tuple[float, float]:
    """Return the fractions of the multiply-adds and of the weights that a recipe leaves; None is the original."""
    return (1.0, 1.0) if recipe is None else recipe.remaining
