"""The trials of a search, one after the other, each kept in a folder as soon as it is done."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

import tfprune
from tfprune.export.compressing.clocks import TIMED, WARM_UP, Deadline, LateError, StepWatch
from tfprune.export.compressing.follow import follow
from tfprune.export.compressing.front import Limits
from tfprune.export.compressing.measured import Judge, Tried
from tfprune.export.compressing.next_recipe import cost, next_recipe
from tfprune.export.compressing.recipe import Recipe
from tfprune.export.compressing.trial import Trial, read_trial
from tfprune.run_folder import Arrays, RunFolder

_log = logging.getLogger(__name__)
SHARE = 60  # the shortest trial trains for this part of the time
LEAST = 30  # steps of a trial
END = 0.05  # of the time is for what comes after the trials
FAILED = 20.0  # the cost of a recipe that makes no file
ROUNDING = 2.0  # steps that round take so many times as long, until one was timed


@dataclass
class Search:
    """A search, which goes on where an earlier one with the same folder stopped.

    Attributes:
        model: The model to compress.
        train_data: Samples and labels.
        judge: Makes and measures files.
        kept: Where trials are kept.
        by: The attribute of a file that counts, such as `"bytes"`.
        limits: What a file may lose and take.
        batch_size: Samples in a batch.
        seed: Of all that is drawn.
        seconds: What all calls may take together.
        done: The trials so far; the first is the model as it was.
    """

    model: keras.Model
    train_data: tuple[Any, Any]
    judge: Judge
    kept: RunFolder
    by: str
    limits: Limits
    batch_size: int
    seed: int
    seconds: float
    done: list[Trial] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)
    _before: float = 0.0  # seconds of earlier calls

    def trials(self) -> Iterator[Trial]:
        """Yield trials as long as there is time for one.

        Raises:
            ValueError: If the model makes no file as it is.
        """
        yield self._kept("dense", lambda: self._tried(None, self.seconds))
        first, can_shrink = self._first_recipe(), self._can_shrink()
        try:
            while True:
                yield self._kept(f"trial-{len(self.done) - 1:05}", lambda: self._next(first, can_shrink))
        except LateError:
            return

    def left(self) -> float:
        """Return the seconds that are left for trials."""
        return (1 - END) * self.seconds - self._before - (time.monotonic() - self._began)

    def content(self, trial: Trial, tried: Tried) -> bytes:
        """Return the file of a trial."""
        index = self.done.index(trial)
        arrays = self.kept.remember("dense" if index == 0 else f"trial-{index - 1:05}", dict)
        return arrays[f"file_{trial.tried.index(tried)}"].tobytes()

    def _kept(self, step: str, make: Any) -> Trial:
        began = time.monotonic()
        trial = read_trial(self.kept.remember(step, make))
        self._before += max(0.0, trial.seconds - (time.monotonic() - began))  # what was made before took none now
        self.done.append(trial)
        return trial

    def _next(self, first: Recipe, can_shrink: bool) -> Arrays:
        """Make the next trial: one that trains longer only if it fits into what is left."""
        prices = [(trial.recipe, self._cost(trial)) for trial in self.done if trial.recipe is not None]
        for most in (None, 0):
            recipe = next_recipe(prices, first=first, can_shrink=can_shrink, seed=self.seed, most=most)
            if self._expected(recipe) < self.left():
                return self._tried(recipe, self.left() + END * self.seconds)
        raise LateError

    def _expected(self, recipe: Recipe) -> float:
        """Return how long a recipe will take, by those before it."""
        others = [trial.seconds - trial.training for trial in self.done[1:]] or [self.done[0].seconds]
        trained = [(trial.recipe, trial.training) for trial in self.done if trial.recipe and trial.training]
        alike = [(one, took) for one, took in trained if one.quantize_aware == recipe.quantize_aware]
        rates = [took / one.all_steps for one, took in alike[-5:]]
        rate = max(rates) if rates else self._pace() * (ROUNDING if recipe.quantize_aware else 1)
        return recipe.all_steps * rate + statistics.median(others)

    def _cost(self, trial: Trial) -> float:
        dense = self.done[0].tried[0]
        return min((cost(one, dense, limits=self.limits, by=self.by) for one in trial.tried), default=FAILED)

    def _tried(self, recipe: Recipe | None, seconds: float) -> Arrays:
        began, model, training, reason = time.monotonic(), self.model, 0.0, ""
        tried, contents = [], []
        try:
            if recipe is not None:
                model = self._follow(recipe, Deadline(began + seconds))
                training = time.monotonic() - began
            for quantize in self.judge.formats(recipe):
                one, content = self.judge.measured(model, recipe, quantize=quantize, batch_size=self.batch_size)
                tried.append(one)
                contents.append(content)
        except ValueError as error:
            if recipe is None:
                raise
            reason = str(error)
        found = Trial(recipe, tuple(tried), time.monotonic() - began, training, reason)
        _log.info("%s: %s", found.name, reason or ", ".join(f"{one.bytes:,} bytes, {one.score:.4f}" for one in tried))
        return found.stored(contents)

    def _follow(self, recipe: Recipe, callback: keras.callbacks.Callback) -> keras.Model:
        data, size = self.train_data, self.batch_size
        return follow(recipe, self.model, train_data=data, batch_size=size, callbacks=[callback])

    def _first_recipe(self) -> Recipe:
        """Return a recipe of the shortest kind, whose steps are a part of the time; it does nothing but train."""

        def chosen() -> Arrays:  # once: a later call may have more time, and its trials are compared with those here
            return {"steps": np.array(max(LEAST, int(self.seconds / SHARE / self._pace())))}

        steps = int(self.kept.remember("steps", chosen)["steps"])
        config = keras.saving.deserialize_keras_object(self.model.get_compile_config())
        rate = float(keras.ops.convert_to_numpy(keras.optimizers.get(config["optimizer"]).learning_rate))
        return self._only_trains(steps, learning_rate=rate)

    def _only_trains(self, steps: int, *, learning_rate: float) -> Recipe:
        """Return a recipe of at most so many steps, after a whole number of which the training data are through."""
        samples = len(keras.tree.flatten(self.train_data)[0])
        batches = -(-samples // self.batch_size)
        parts = -(-batches // steps)
        samples = min(samples, batches // parts * parts * self.batch_size)
        return Recipe(1.0, 0.0, "unstructured", False, samples, batches // parts, 1, learning_rate, self.seed)

    def _pace(self) -> float:
        """Return the seconds that a step takes."""

        def timed() -> Arrays:
            recipe, watch = self._only_trains(WARM_UP, learning_rate=0.0), StepWatch()
            rounds = -(-(WARM_UP + TIMED) // recipe.steps)
            self._follow(replace(recipe, sparsity=0.5, rounds=rounds), watch)
            return {"pace": np.array(watch.pace)}

        return float(self.kept.remember("pace", timed)["pace"])

    def _can_shrink(self) -> bool:
        try:
            tfprune.plan_shrink(self.model, allocation=tfprune.budget(flops=0.9), verbose=0)
        except ValueError as error:
            _log.info("no channels are removed: %s", error)
            return False
        return True
