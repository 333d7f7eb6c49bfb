"""The goal of a search, the choice of its next recipe, and the loop that runs and stores trials."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np

from tfprune.base.folders import NamedArrays, RunFolder
from tfprune.base.spec import ArgumentWarning, check_count, check_number, warn_user
from tfprune.export.compressing.evaluate import LateError, TrialRunner, workers_of
from tfprune.export.compressing.trials import (
    LEAST_FLOPS,
    LEAST_WEIGHTS,
    PATTERNS,
    BlockOrder,
    MeasuredFile,
    Recipe,
    Trial,
    read_trial,
    training_recipe,
)
from tfprune.patterns import NM

# The goal of a search: files as small or as fast as possible within limits, and the front of the best ones.

DROP_NOISE = 0.002  # of an accuracy; of another metric a part of its value
_EXCESS_OF_A_BUDGET = 0.1  # the part of a budget that counts as much as one `max_drop`


@dataclass(frozen=True)
class Goal:
    """Files as small or as fast as possible, within limits.

    Attributes:
        by: The attribute of a `MeasuredFile` to make small: `"bytes"`, `"latency_ms"` or `"cycles"`.
        max_drop: The most that a file may lose of the metric.
        budgets: The most that a file may take, by attributes of a `MeasuredFile`: `bytes`, `latency_ms`,
            `arena_bytes` and `cycles`.
        noise: With which a drop of 0 is measured.
        sample: What one validation sample adds to a drop; 0 where the metric does not count samples.
    """

    by: str
    max_drop: float
    budgets: Mapping[str, float] = field(default_factory=dict)
    noise: float = DROP_NOISE
    sample: float = 0.0

    def size(self, file: MeasuredFile) -> float:
        """Return the bytes, milliseconds or cycles of a file."""
        return getattr(file, self.by)

    def excess(self, file: MeasuredFile) -> float:
        """Return how far a file is outside of the limits: in drops, plus tenths of the budgets; 0 inside."""
        return self.excess_drop(file) + self.excess_size(file)

    def excess_drop(self, file: MeasuredFile) -> float:
        """Return how far a file's drop is beyond the limit, in drops; 0 inside."""
        return max(0.0, -self.drop_left(self.strictest_drop(file)))

    def excess_size(self, file: MeasuredFile) -> float:
        """Return how far a file is beyond the budgets, in tenths of them; 0 inside."""
        sizes = (((getattr(file, name) or 0), limit) for name, limit in self.budgets.items())
        return sum(max(0.0, size / limit - 1) / _EXCESS_OF_A_BUDGET for size, limit in sizes)

    def strictest_drop(self, file: MeasuredFile) -> float:
        """Return what a file lost on average, or in its worst class or group, if that leaves less of its limit.

        The loss of a class or group is converted: its limit counts as `max_drop`.
        """
        group = file.worst_group
        if group is None:
            return file.drop
        return max(file.drop, self.max_drop + group.excess * self._unit(self.max_drop) / max(group.limit, DROP_NOISE))

    def strictest(self, trial: Trial) -> Trial:
        """Return a trial whose files have the drop by which they are searched for: the strictest."""
        return replace(trial, tried=tuple(replace(file, drop=self.strictest_drop(file)) for file in trial.tried))

    def drop_left(self, drop: float) -> float:
        """Return the fraction of `max_drop` that a drop leaves unused; negative beyond it."""
        return (self.max_drop - drop) / self._unit(self.max_drop)

    def drop_of(self, share: float) -> float:
        """Return a share of `max_drop`, but more than one sample adds: such a drop may be chance."""
        return max(share * self._unit(self.max_drop), 1.5 * self.sample)

    def _unit(self, limit: float) -> float:
        """Return the drop that counts as one: the limit, but no less than the noise."""
        return max(limit, self.noise)

    @property
    def needs_channels(self) -> bool:
        """Whether zeros help little: they save neither RAM nor, in most networks, time."""
        return self.by != "bytes" or bool({"arena_bytes", "latency_ms", "cycles"} & self.budgets.keys())


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


def _added_area(file: MeasuredFile, front: Sequence[MeasuredFile], *, dense: MeasuredFile, goal: Goal) -> float:
    """Return the hypervolume that a file adds to a front, over drops from 0 to `max_drop` and logarithms of sizes.

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


# Choose the next recipe of a search from what the trials before have measured: a population over the front.
#
# Nothing here trains a model, reads a file or looks at a clock, and nothing is drawn at random: the same trials and
# settings give the same recipe. Each trial starts from the model of an earlier one (Elsken et al., "Efficient
# Multi-objective Neural Architecture Search via Lamarckian Evolution", arXiv 1804.09081). By turns, a short trial
# removes something from the model whose next file is expected to be the smallest, and a long one trains the model
# that is expected to increase the hypervolume of the front of the best files most.


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


def _next_recipe(
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
            (self._longer if recipe.rounds > first.rounds else self._smaller)[_remaining(recipe.after)] += 1

    def longer(self, trial: Trial) -> int:
        """Return how many have trained a model of this size for longer."""
        return self._longer[_remaining(trial.recipe)]

    def smaller(self, trial: Trial) -> int:
        """Return how many have removed more from a model of this size."""
        return self._smaller[_remaining(trial.recipe)]


def _to_train(trials: Sequence[Trial], children: _Children, goal: Goal, settings: SearchSettings) -> Trial | None:
    """Return the trial whose files would add most to the front if they lost less, and half as much for each child."""
    front = pareto_front((file for trial in trials for file in trial.tried), goal)
    dense = trials[0].tried[0]

    def added(trial: Trial) -> float:
        trained = (replace(file, drop=settings.loss_kept * file.drop) for file in trial.tried)
        areas = [_added_area(file, front, dense=dense, goal=goal) for file in trained]
        return max(areas, default=0.0) / 2 ** children.longer(trial)

    best = max(trials[1:], key=added, default=None)
    return best if best is not None and added(best) else None


def _to_shrink(
    trials: Sequence[Trial], children: _Children, goal: Goal, settings: SearchSettings
) -> tuple[Trial, float]:
    """Return the trial within `max_drop` whose next step has the smallest expected file, and that step's length.

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


def _remaining(recipe: Recipe | None) -> tuple[float, float]:
    """Return the fractions of the multiply-adds and of the weights that a recipe leaves; None is the original."""
    return (1.0, 1.0) if recipe is None else recipe.remaining


# The loop of a search: run trials until the time is over, and store each in a folder as soon as it ends.

_log = logging.getLogger(__name__)
_FEW_TRIALS = 3
_LEAST_STEPS = 30  # of a short trial
_QUANTIZE_AWARE_SLOWDOWN = 2.0  # of a training step, until one was timed


@dataclass
class SearchLoop:
    """The loop of a search, which continues where an earlier one with the same folder stopped.

    Attributes:
        runner: Runs trials.
        folder: Where trials are stored.
        goal: What a file may lose, and whether its bytes or its time counts.
        seed: Seeds training and the choice of recipes.
        seconds: The time for all calls together.
        jobs: How many trials may run at once.
        executor: Where they run; None is this machine.
        max_trials: The most recipes to try.
        trials: The trials so far; the first one is that of the original model.
        seconds_before: How long earlier calls lasted, and this one before its first trial.
        pattern: The shape of the zeros.
        settings: How trials are chosen.
        steps: Training steps of a short trial; None chooses them by the time.
    """

    runner: TrialRunner
    folder: RunFolder
    goal: Goal
    seed: int
    seconds: float
    jobs: int = 1
    executor: Executor | None = None
    max_trials: float = math.inf
    trials: list[Trial] = field(default_factory=list)
    seconds_before: float = 0.0
    pattern: str = "unstructured"
    settings: SearchSettings = SearchSettings()
    steps: int | None = None
    _began: float = field(default_factory=lambda: time.monotonic())

    def run(self) -> Iterator[Trial]:
        """Yield trials as long as there is time for one: first that of the original model.

        Raises:
            ValueError: If the original model makes no file, or a worker cannot run trials.
        """
        while len(self.trials) <= self.max_trials and self.folder.has(_step_name(len(self.trials))):
            yield self._store(dict)
        if len(self.trials) > self.max_trials or (self.trials and self.seconds_left() <= 0):
            return
        reserved = self.settings.reserved_time_fraction * self.seconds
        with workers_of(
            self.runner, self.folder, jobs=self.jobs, executor=self.executor, seconds=self.seconds_left()
        ) as workers:
            if not self.trials:
                yield self._store(lambda: self.runner.run(None, self.seconds))
            if self.max_trials and len(self.trials) == 1 and not self._has_time():
                return
            running: list[Recipe] = []
            while True:
                while self._may_start(running) and (recipe := self._next_recipe(running)):
                    seconds = self.seconds_left() + reserved - self._seconds_without_training()
                    workers.start(recipe, max(0.0, seconds), self._stored_model(recipe.after))
                    running.append(recipe)
                if not running:
                    return
                recipe, arrays = workers.wait(self.seconds_left() + reserved)
                running.remove(recipe)
                if arrays is not None:
                    yield self._store(partial(dict, arrays))

    def seconds_left(self) -> float:
        """Return the seconds that are left for trials."""
        return (1 - self.settings.reserved_time_fraction) * self.seconds - self.elapsed()

    def expected_trials(self) -> int:
        """Return about how many recipes there will be at the end, by those so far; 0 before the first."""
        seconds = [trial.seconds for trial in self.trials[1:]]
        if not seconds:
            return 0
        more = self.jobs * max(0.0, self.seconds_left()) / max(statistics.mean(seconds), 1e-9)
        return int(min(len(seconds) + more, self.max_trials))

    def elapsed(self) -> float:
        """Return how long the search has lasted, in all calls."""
        return self.seconds_before + time.monotonic() - self._began

    def content(self, trial: Trial, file: MeasuredFile) -> bytes:
        """Return the bytes of a file of a trial."""
        return self._array(trial, f"file_{trial.tried.index(file)}").tobytes()

    def _array(self, trial: Trial, name: str) -> np.ndarray:
        return self.folder.read(_step_name(self.trials.index(trial)), lambda arrays: arrays[name])

    def _stored_model(self, recipe: Recipe | None) -> np.ndarray | None:
        """Return the model of a recipe; None for the original model."""
        if recipe is None:
            return None
        return self._array(next(trial for trial in self.trials if trial.recipe == recipe), "model")

    def _store(self, run: Callable[[], NamedArrays]) -> Trial:
        def timed() -> NamedArrays:
            return {**run(), "ended": np.array(self.elapsed())}

        trial = self.folder.remember(_step_name(len(self.trials)), timed, self._read)
        self.seconds_before += max(0.0, trial.ended - self.elapsed())  # a trial of an earlier call took none now
        self.trials.append(trial)
        return trial

    def _read(self, arrays: NamedArrays) -> Trial:
        """Read a trial of this search: the first is of the original model, the others go on from an earlier one."""
        trial, needed = read_trial(arrays), {self.goal.by, *self.goal.budgets}
        needed |= {"arena_bytes"} if self.runner.evaluator.micro is not None else set()
        if bool(self.trials) == (trial.recipe is None) or not (self.trials or trial.tried):
            raise ValueError("Expected the original model first, and then recipes. Received: another order.")
        if trial.recipe and trial.recipe.after not in [other.recipe for other in self.trials if other.tried]:
            raise ValueError("Expected a recipe that goes on from an earlier one. Received: one from nowhere.")
        if any(getattr(file, name) is None for file in trial.tried for name in needed):
            raise ValueError(f"Expected files with their {', '.join(sorted(needed))}. Received: one without.")
        return trial

    def _may_start(self, running: Sequence[Recipe]) -> bool:
        return len(running) < self.jobs and len(self.trials) + len(running) <= self.max_trials

    def _has_time(self) -> bool:
        """Return True if a training step could be timed, and warn if few recipes fit into the time."""
        expected = f"time for {_FEW_TRIALS} recipes or more"
        try:
            each = self._expected_seconds(self._shortest_recipe)
        except LateError:
            received = (
                f"{self.seconds:g}, which was over before a few training steps were timed: the original model took "
                f"{self.trials[0].seconds:.0f} s"
            )
            advice = (
                "Pass several times as much, or search in another folder with fewer validation samples, smaller "
                "batches or a smaller model."
            )
            warn_user(ArgumentWarning("time", expected, received, advice=advice))
            return False
        count = max(0, int(self.seconds_left() / max(each, 1e-9) * self.jobs))
        _log.info("about %d recipes of the shortest kind fit into %g s", count, self.seconds)
        if count < min(_FEW_TRIALS, self.max_trials):
            needed = (self.elapsed() + _FEW_TRIALS * each / self.jobs) / (1 - self.settings.reserved_time_fraction)
            received = (
                f"{self.seconds:g}, into which about {count} fit: the original model took "
                f"{self.trials[0].seconds:.0f} s, and the shortest recipe takes about {each:.0f} s"
            )
            advice = (
                f"Pass time={math.ceil(needed)}, or search in another folder with fewer validation samples or a "
                f"smaller model."
            )
            warn_user(ArgumentWarning("time", expected, received, advice=advice))
        return True

    def _next_recipe(self, running: Sequence[Recipe]) -> Recipe | None:
        """Return the next recipe that there is time for: a short one where a long one takes too long, or None."""
        first, settings = self._shortest_recipe, self.settings
        if not self.runner.can_quantize_aware:
            settings = replace(settings, quantize_aware_from=math.inf)
        for may_be_long in (True, False):
            recipe = _next_recipe(
                self.trials,
                running,
                first=first,
                can_shrink=self.runner.can_shrink,
                blocks=self.runner.block_order,
                goal=self.goal,
                settings=settings,
                may_be_long=may_be_long,
            )
            if self._expected_seconds(recipe) < self.seconds_left():
                return recipe
        return None

    def _expected_seconds(self, recipe: Recipe) -> float:
        """Return how long a recipe will take, by the trials before it."""
        trained = [(trial.recipe, trial.training) for trial in self.trials if trial.recipe and trial.training]
        similar = [pair for pair in trained if pair[0].quantize_aware == recipe.quantize_aware]
        rates = [seconds / earlier.all_steps for earlier, seconds in similar[-5:]]
        slowdown = _QUANTIZE_AWARE_SLOWDOWN if recipe.quantize_aware else 1
        sharing = self.jobs if self.executor is None else 1  # trials on this machine share its processors
        slowest = max if self.executor is None else statistics.median  # one slow worker says nothing about others
        rate = slowest(rates) if rates else sharing * self._seconds_per_step() * slowdown
        return recipe.all_steps * rate + self._seconds_without_training()

    def _seconds_without_training(self) -> float:
        """Return how long a trial takes besides its training: it exports files and measures them."""
        return statistics.median(
            [trial.seconds - trial.training for trial in self.trials[1:]] or [self.trials[0].seconds]
        )

    @cached_property
    def _shortest_recipe(self) -> Recipe:
        """A recipe of the shortest kind, whose steps are a fraction of the time unless given; it only trains."""
        samples, batch_size = self.runner.samples, self.runner.batch_size

        def choose_steps() -> NamedArrays:  # once: a later call may have more time, and trials have to be comparable
            times = (self.settings.shortest_trial_fraction * self.seconds, self.trials[0].seconds)
            in_share, in_export_time = (int(seconds / self._seconds_per_step()) for seconds in times)
            batches = -(-samples // batch_size)
            return {"steps": np.array(max(_LEAST_STEPS, min(in_share, batches), in_export_time))}

        def read(arrays: NamedArrays) -> int:
            return check_count(int(arrays["steps"]), "steps", least=1)

        steps = self.steps or self.folder.remember("steps", choose_steps, read)
        return training_recipe(
            steps,
            samples=samples,
            batch_size=batch_size,
            learning_rate=self.runner.learning_rate,
            seed=self.seed,
            pattern=self.pattern,
            distillation=self.runner.distillation,
        )

    def _seconds_per_step(self) -> float:
        def timed() -> NamedArrays:
            return {"pace": np.array(self.runner.seconds_per_step(self.seconds_left()))}

        return self.folder.remember(
            "pace", timed, lambda arrays: check_number(float(arrays["pace"]), "pace", above=0)
        )


def _step_name(index: int) -> str:
    """Return the name of a trial in the folder."""
    return f"trial-{index - 1:05}" if index else "dense"
