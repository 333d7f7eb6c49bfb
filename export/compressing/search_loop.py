"""The loop of a search: run trials until the time is over, and store each in a folder as soon as it ends."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np

from tfprune.base.run_folder import NamedArrays, RunFolder
from tfprune.base.spec import check_count, check_number
from tfprune.base.warn_user import warn_user
from tfprune.export.compressing.goal import Goal
from tfprune.export.compressing.search_policy import SearchSettings, next_recipe
from tfprune.export.compressing.trials.recipe import Recipe, training_recipe
from tfprune.export.compressing.trials.trial import MeasuredFile, Trial, read_trial
from tfprune.export.compressing.trials.trial_runner import LateError, TrialRunner
from tfprune.export.compressing.trials.workers import workers_of

_log = logging.getLogger(__name__)
FEW_TRIALS = 3
LEAST_STEPS = 30  # of a short trial
QUANTIZE_AWARE_SLOWDOWN = 2.0  # of a training step, until one was timed


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
        """Tell whether a training step could be timed, and warn if few recipes fit into the time."""
        try:
            each = self._expected_seconds(self._shortest_recipe)
        except LateError:
            warn_user(
                f"Expected time for {FEW_TRIALS} recipes or more. Received: time={self.seconds:g}, which was over "
                f"before a few training steps were timed: the original model took {self.trials[0].seconds:.0f} s. "
                f"Pass several times as much, or search in another folder with fewer validation samples, smaller "
                f"batches or a smaller model."
            )
            return False
        count = max(0, int(self.seconds_left() / max(each, 1e-9) * self.jobs))
        _log.info("about %d recipes of the shortest kind fit into %g s", count, self.seconds)
        if count < min(FEW_TRIALS, self.max_trials):
            needed = (self.elapsed() + FEW_TRIALS * each / self.jobs) / (1 - self.settings.reserved_time_fraction)
            warn_user(
                f"Expected time for {FEW_TRIALS} recipes or more. Received: time={self.seconds:g}, into which about "
                f"{count} fit: the original model took {self.trials[0].seconds:.0f} s, and the shortest recipe takes "
                f"about {each:.0f} s. Pass time={math.ceil(needed)}, or search in another folder with fewer "
                f"validation samples or a smaller model."
            )
        return True

    def _next_recipe(self, running: Sequence[Recipe]) -> Recipe | None:
        """Return the next recipe that there is time for: a short one where a long one takes too long, or None."""
        first, settings = self._shortest_recipe, self.settings
        if not self.runner.can_quantize_aware:
            settings = replace(settings, quantize_aware_from=math.inf)
        for may_be_long in (True, False):
            recipe = next_recipe(
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
        slowdown = QUANTIZE_AWARE_SLOWDOWN if recipe.quantize_aware else 1
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
        """A recipe of the shortest kind, whose steps are a fraction of the time; it only trains."""
        samples, batch_size = self.runner.samples, self.runner.batch_size

        def choose_steps() -> NamedArrays:  # once: a later call may have more time, and trials have to be comparable
            times = (self.settings.shortest_trial_fraction * self.seconds, self.trials[0].seconds)
            in_share, in_export_time = (int(seconds / self._seconds_per_step()) for seconds in times)
            batches = -(-samples // batch_size)
            return {"steps": np.array(max(LEAST_STEPS, min(in_share, batches), in_export_time))}

        def read(arrays: NamedArrays) -> int:
            return check_count(int(arrays["steps"]), "steps", least=1)

        steps = self.folder.remember("steps", choose_steps, read)
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
