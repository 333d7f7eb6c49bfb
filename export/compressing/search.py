"""The trials of a search, each kept in a folder as soon as it is done."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import keras
import numpy as np

import tfprune
from tfprune.base.run_folder import Arrays, RunFolder
from tfprune.export.compressing.measured_file import MeasuredFile
from tfprune.export.compressing.next_recipe import Outcome, after_longer_training, cost, loss_kept, next_recipe
from tfprune.export.compressing.pareto_front import Limits, added_area, front, gap_before
from tfprune.export.compressing.recipe import Recipe
from tfprune.export.compressing.timing_callbacks import TIMED, WARM_UP, StepWatch
from tfprune.export.compressing.trial import Trial, TrialRunner, read_trial
from tfprune.export.compressing.workers import workers_of

_log = logging.getLogger(__name__)
SHARE = 60  # the shortest trial trains for this part of the time, at most an epoch,
EXPORTS = 1.0  # but at least for so many times what the first one took, which only exports and measures
LEAST = 30  # steps of a trial
END = 0.05  # of the time is for what comes after the trials
FAILED = 20.0  # the cost of a recipe that makes no file
ROUNDING = 2.0  # steps that round take so many times as long, until one was timed


@dataclass
class Search:
    """A search, which goes on where an earlier one with the same folder stopped.

    Attributes:
        runner: Makes trials.
        kept: Where trials are kept.
        by: The attribute of a file that counts, such as `"bytes"`.
        limits: What a file may lose and take.
        seed: Of all that is drawn.
        seconds: What all calls may take together.
        jobs: How many trials may run at once.
        most: The most recipes that are tried.
        done: The trials so far; the first is the model as it was.
    """

    runner: TrialRunner
    kept: RunFolder
    by: str
    limits: Limits
    seed: int
    seconds: float
    jobs: int = 1
    most: float = math.inf
    done: list[Trial] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)
    _before: float = 0.0  # seconds of earlier calls

    def trials(self) -> Iterator[Trial]:
        """Yield trials as long as there is time for one: first that of the model as it was.

        Raises:
            ValueError: If the model makes no file as it is, or a process that makes trials ends.
        """
        yield self._keep(lambda: self.runner.run(None, self.seconds))
        while len(self.done) <= self.most and self.kept.has(_step(len(self.done))):
            yield self._keep(dict)
        if len(self.done) > self.most:
            return
        first, can_shrink = self._first_recipe(), self._can_shrink()
        with workers_of(self.runner, jobs=self.jobs) as workers:
            running: list[Recipe] = []
            while True:
                while self._is_free(running) and (recipe := self._next(first, can_shrink, running)):
                    workers.start(recipe, self.left() + END * self.seconds, self._model_before(recipe))
                    running.append(recipe)
                if not running:
                    return
                recipe, made = workers.wait()
                running.remove(recipe)
                if made is not None:
                    yield self._keep(partial(dict, made))

    def left(self) -> float:
        """Return the seconds that are left for trials."""
        return (1 - END) * self.seconds - self._clock()

    def _clock(self) -> float:
        """Return how long the search has lasted, in all calls."""
        return self._before + time.monotonic() - self._began

    def content(self, trial: Trial, tried: MeasuredFile) -> bytes:
        """Return the file of a trial."""
        arrays = self.kept.remember(_step(self.done.index(trial)), dict)
        return arrays[f"file_{trial.tried.index(tried)}"].tobytes()

    def _model_before(self, recipe: Recipe) -> np.ndarray | None:
        """Return the model with which a recipe goes on; None for the model as it was."""
        if recipe.after is None:
            return None
        return self.kept.remember(_step(self.done.index(self._trial_of(recipe.after))), dict)["model"]

    def _trial_of(self, recipe: Recipe | None) -> Trial:
        return next(trial for trial in self.done if trial.recipe == recipe)

    def _keep(self, make: Callable[[], Arrays]) -> Trial:
        def made() -> Arrays:
            return {**make(), "ended": np.array(self._clock())}

        trial = read_trial(self.kept.remember(_step(len(self.done)), made))
        self._before += max(0.0, trial.ended - self._clock())  # what was made before took none now
        self.done.append(trial)
        return trial

    def _is_free(self, running: Sequence[Recipe]) -> bool:
        return len(running) < self.jobs and len(self.done) + len(running) <= self.most

    def _next(self, first: Recipe, can_shrink: bool, running: Sequence[Recipe]) -> Recipe | None:
        """Return the next recipe: one that trains longer only if it fits into what is left; None if nothing fits."""
        best = front((one for trial in self.done for one in trial.tried), limits=self.limits, by=self.by)
        promised = self._promised(first)
        done = [self._outcome(trial, best, promised[trial.recipe]) for trial in self.done]
        worst = max(one.promise for one in done)  # as if it failed, so that it is not drawn again
        done += [Outcome(recipe, worst, is_hopeful=True) for recipe in running]
        number = 1 + max((one.recipe.seed for one in done if one.recipe), default=self.seed - 1) - self.seed
        for may_be_long in (True, False):
            recipe = next_recipe(
                done,
                number=number,
                first=first,
                can_shrink=can_shrink,
                halve="flops" if can_shrink and self._needs_channels else "weights",
                seed=self.seed,
                may_be_long=may_be_long,
            )
            if self._expected(recipe) < self.left():
                return recipe
        return None

    @property
    def _needs_channels(self) -> bool:
        """Whether zeros help little: they save neither time nor RAM."""
        return self.by != "bytes" or self.limits.budgets.arena is not None

    def _expected(self, recipe: Recipe) -> float:
        """Return how long a recipe will take, by those before it."""
        others = [trial.seconds - trial.training for trial in self.done[1:]] or [self.done[0].seconds]
        trained = [(trial.recipe, trial.training) for trial in self.done if trial.recipe and trial.training]
        alike = [(one, took) for one, took in trained if one.quantize_aware == recipe.quantize_aware]
        rates = [took / one.all_steps for one, took in alike[-5:]]
        rate = max(rates) if rates else self.jobs * self._pace() * (ROUNDING if recipe.quantize_aware else 1)
        return recipe.all_steps * rate + statistics.median(others)

    def _outcome(self, trial: Trial, best: list[MeasuredFile], promised: Sequence[MeasuredFile]) -> Outcome:
        """Return what is known of a recipe that promises these files, when others are the front."""
        counted: dict[str, Any] = {"dense": self.done[0].tried[0], "limits": self.limits, "by": self.by}
        promise = min((cost(one, **counted) for one in promised), default=FAILED)
        drop_left = self.limits.drop_left(_lost(promised))
        return Outcome(
            trial.recipe,
            promise,
            max(0.0, drop_left),
            front_gain=max((added_area(one, best, **counted) for one in promised), default=0.0),
            gap_below=self._gap_below(trial, best),
            is_open=promise < min((cost(one, **counted) for one in best), default=math.inf),
            is_hopeful=trial.recipe is None or drop_left >= 0,
            is_kept=trial.is_kept,
        )

    def _gap_below(self, trial: Trial, best: list[MeasuredFile]) -> float:
        """Return the gap below a trial's file, the less of it the more often something went on from there."""
        gaps = (gap_before(one, best, limits=self.limits, by=self.by) for one in trial.tried)
        tries = sum(one.recipe is not None and one.recipe.after == trial.recipe for one in self.done)
        return max(gaps, default=0.0) / (1 + tries)

    def _promised(self, first: Recipe) -> dict[Recipe | None, tuple[MeasuredFile, ...]]:
        """Return each recipe's files as they may be after longer training; those that had it, as they are."""
        part, found = loss_kept(self._drops(first)), {}
        for trial in self.done:
            found[trial.recipe] = trial.tried
            if trial.recipe and trial.recipe.rounds == first.rounds:
                lost = _lost(found[trial.recipe.after])
                found[trial.recipe] = tuple(after_longer_training(one, lost=lost, part=part) for one in trial.tried)
        return found

    def _drops(self, first: Recipe) -> Iterator[tuple[float, float, float]]:
        """Yield drops before a step, after it, and with longer training, where what was before had that or none."""
        done = {trial.recipe: _lost(trial.tried) for trial in self.done if trial.tried}
        longer = {recipe.choice: lost for recipe, lost in done.items() if recipe and recipe.rounds > first.rounds}
        short = [recipe for recipe in done if recipe and recipe.rounds == first.rounds and recipe.choice in longer]
        for recipe in short:
            if recipe.after is None or recipe.after.rounds > first.rounds:
                yield done[recipe.after], done[recipe], longer[recipe.choice]

    def _first_recipe(self) -> Recipe:
        """Return a recipe of the shortest kind, whose steps are a part of the time; it does nothing but train."""

        def chosen() -> Arrays:  # once: a later call may have more time, and its trials are compared with those here
            share, exports = (
                int(seconds / self._pace()) for seconds in (self.seconds / SHARE, EXPORTS * self.done[0].seconds)
            )
            return {"steps": np.array(max(LEAST, min(share, self._batches), exports))}

        steps = int(self.kept.remember("steps", chosen)["steps"])
        config = keras.saving.deserialize_keras_object(self.runner.model.get_compile_config())
        rate = float(keras.ops.convert_to_numpy(keras.optimizers.get(config["optimizer"]).learning_rate))
        return self._only_trains(steps, learning_rate=rate)

    def _only_trains(self, steps: int, *, learning_rate: float) -> Recipe:
        """Return a recipe of at most so many steps, a whole number of epochs or of rounds that make one epoch."""
        batches, batch_size = self._batches, self.runner.batch_size
        parts = -(-batches // steps)
        samples = min(self._samples, batches // parts * parts * batch_size)
        rounds = max(1, steps // batches)
        return Recipe(1.0, 0.0, "unstructured", False, samples, batches // parts, rounds, learning_rate, self.seed)

    @property
    def _samples(self) -> int:
        return len(keras.tree.flatten(self.runner.train_data)[0])

    @property
    def _batches(self) -> int:
        """The steps of an epoch."""
        return -(-self._samples // self.runner.batch_size)

    def _pace(self) -> float:
        """Return the seconds that a step takes."""

        def timed() -> Arrays:
            recipe, watch = self._only_trains(WARM_UP, learning_rate=0.0), StepWatch()
            rounds = -(-(WARM_UP + TIMED) // recipe.steps)
            self.runner.apply(replace(recipe, sparsity=0.5, rounds=rounds), watch)
            return {"pace": np.array(watch.pace)}

        return float(self.kept.remember("pace", timed)["pace"])

    def _can_shrink(self) -> bool:
        try:
            tfprune.plan_shrink(self.runner.model, allocation=tfprune.budget(flops=0.9), verbose=0)
        except ValueError as error:
            _log.info("no channels are removed: %s", error)
            return False
        return True


def _lost(tried: Iterable[MeasuredFile]) -> float:
    """Return what the best of some files lost."""
    return max(0.0, min((one.drop for one in tried), default=math.inf))


def _step(index: int) -> str:
    """Return what a trial is called in the folder."""
    return f"trial-{index - 1:05}" if index else "dense"
