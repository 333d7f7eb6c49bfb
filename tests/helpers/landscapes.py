"""Simulated searches: a landscape says what each recipe would make of a made-up model, in microseconds.

A model has a capacity that may be removed without loss, and what is removed beyond it is lost for good. Each step
also does damage, which training heals; so does more training than the model had. All of it varies from seed to seed:
where the loss begins, how much channels cost against zeros, how fast training heals, which learning rate is best,
what int8 loses, and how noisy a measurement is. A landscape can also have the constants that `fit_landscapes.py`
has found for the searches of a trained network; otherwise nothing here comes from one.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from operator import attrgetter

import numpy as np

from tfprune.export.compressing.trials import MeasuredFile, Recipe, Trial, training_recipe

MAX_DROP = 0.01
SAMPLES, BATCH = 12_800, 32  # 400 steps in an epoch
Policy = Callable[[Sequence[Trial], Sequence[Recipe], Recipe, bool], Recipe]


@dataclass(frozen=True)
class State:
    """What training and pruning have made of the model.

    Attributes:
        noise: The luck of its training.
        wounds: The damage of each step, and the epochs of training since then, which heal it.
        epochs: All epochs of training.
        capacity: What was removed, in nats.
    """

    noise: float = 0.0
    wounds: tuple[tuple[float, float], ...] = ()
    epochs: float = 0.0
    capacity: float = 0.0


@dataclass
class Landscape:
    """A made-up model; every seed gives another one.

    Attributes:
        seed: Draws all of its numbers.
        draw: Seeds the search, the luck of training and the noise of measurements.
        length: The time of the search.
        constants: Numbers that are known instead of drawn.
    """

    seed: int
    draw: int = 0
    length: float = 1.0
    constants: Mapping[str, float] = field(default_factory=dict)
    states: dict[int | None, State] = field(default_factory=lambda: {None: State()})  # by the seeds of recipes

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        logarithmic = lambda low, high: float(np.exp(rng.uniform(np.log(low), np.log(high))))  # noqa: E731
        self.weights = logarithmic(2e4, 4e6)
        self.graph_bytes = rng.uniform(2e3, 2e4)
        self.deviation = logarithmic(0.0007, 0.003)  # of a measured drop
        self.redundancy, self.steepness = rng.uniform(1.5, 4.5), logarithmic(0.01, 0.1)
        self.of_zeros, self.of_channels = rng.uniform(0.6, 0.9), rng.uniform(0.4, 1.2)
        self.weights_of_channels = rng.uniform(0.7, 1.0)
        self.of_pattern = rng.uniform(0.0, 0.2)
        self.hurt, self.heals = logarithmic(0.003, 0.05), logarithmic(0.1, 3.0)
        self.gain, self.gain_epochs = logarithmic(0.0005, 0.01), logarithmic(1.0, 20.0)
        self.best_rate, self.rate_width = logarithmic(0.5, 4.0), rng.uniform(0.5, 1.5)
        self.int8_loss, self.left_by_training = logarithmic(0.0003, 0.03), rng.uniform(0.0, 0.3)
        self.wobble = logarithmic(0.0003, 0.002)
        self.overhead, self.epoch = logarithmic(1 / 400, 1 / 40), logarithmic(1 / 200, 1 / 4)  # in the same units
        in_share, in_overhead = (int(time / self.seconds_per_step) for time in (1 / 60, self.overhead))
        self.shortest = max(30, min(in_share, SAMPLES // BATCH), in_overhead)  # steps of a short trial
        vars(self).update(self.constants)

    @property
    def seconds_per_step(self) -> float:
        """The time of a training step, in units of a search of the usual length."""
        return self.epoch * BATCH / SAMPLES

    def first(self) -> Recipe:
        """Return a recipe of the shortest kind, as the search chooses it."""
        steps = round(self.shortest)
        return training_recipe(steps, samples=SAMPLES, batch_size=BATCH, learning_rate=1e-3, seed=self.draw * 1000)

    def seconds(self, recipe: Recipe | None) -> float:
        """Return how long a trial takes; a quantization-aware step takes twice as long."""
        if recipe is None:
            return self.overhead
        return self.overhead + self.seconds_per_step * recipe.steps * (recipe.rounds + 2 * recipe.extra_rounds)

    def add(self, recipe: Recipe | None) -> None:
        """Work out the state of the model that a recipe makes."""
        if recipe is not None and recipe.seed not in self.states:
            self.states[recipe.seed] = self._step(recipe)

    def run(self, recipe: Recipe | None) -> Trial:
        """Return what a recipe would make."""
        self.add(recipe)
        formats: tuple[str | None, ...] = ("int8",) if recipe and recipe.quantize_aware else (None, "int8")
        files = tuple(self._measured(recipe, quantize) for quantize in formats)
        seconds = self.seconds(recipe)
        return Trial(recipe, files, seconds, seconds - self.overhead if recipe else 0.0, is_kept=recipe is not None)

    def true_drop(self, recipe: Recipe | None, quantize: str | None) -> float:
        """Return what a file loses, without the noise of a measurement."""
        state = self.states[recipe and recipe.seed]
        beyond = max(0.0, state.capacity - self.redundancy)
        healed = self.gain * (1 - math.exp(-state.epochs / self.gain_epochs))
        int8 = self.int8_loss * (1 + beyond) * (self.left_by_training if recipe and recipe.quantize_aware else 1.0)
        damage = sum(amount / (1 + age / self.heals) for amount, age in state.wounds)
        return state.noise + damage + self.steepness * beyond**2 - healed + (int8 if quantize else 0.0)

    def bytes(self, recipe: Recipe | None, quantize: str | None) -> int:
        """Return the bytes of a file: sparse weights take a byte more each, where that is less."""
        flops, left = (1.0, 1.0) if recipe is None else (recipe.flops, 1 - recipe.sparsity)
        width = 1 if quantize else 4
        return int(self.graph_bytes + self.weights * flops**self.weights_of_channels * min(width, (width + 1) * left))

    def _step(self, recipe: Recipe) -> State:
        before = self.states[recipe.after and recipe.after.seed]
        rng = np.random.default_rng((self.seed, self.draw, recipe.seed, recipe.rounds))
        capacity = self.of_channels * -math.log(recipe.flops) + self.of_zeros * -math.log(1 - recipe.sparsity)
        capacity += self.of_pattern if recipe.pattern != "unstructured" else 0.0
        length = max(0.0, capacity - before.capacity)
        wounds = (*before.wounds, (self.hurt * math.expm1(length) * (1 + capacity / self.redundancy), 0.0))
        off = math.log(recipe.learning_rate / 1e-3 / self.best_rate) / self.rate_width
        epochs = recipe.steps * (recipe.rounds + recipe.extra_rounds) * BATCH / SAMPLES * math.exp(-(off**2) / 2)
        noise = 0.7 * before.noise + float(rng.normal(0, self.wobble))
        wounds = tuple((amount, age + epochs) for amount, age in wounds)
        return State(noise, wounds, before.epochs + epochs, capacity)

    def _measured(self, recipe: Recipe | None, quantize: str | None) -> MeasuredFile:
        number = (0, 0) if recipe is None else (recipe.seed, recipe.rounds)
        drop, size = self.true_drop(recipe, quantize), self.bytes(recipe, quantize)
        if recipe is not None or quantize is not None:
            drop += np.random.default_rng((self.seed, self.draw, *number, bool(quantize))).normal(0, self.deviation)
        time = self.milliseconds(recipe, quantize)
        return MeasuredFile(recipe, quantize, size, size, score=0.9 - drop, drop=drop, latency_ms=time)

    def milliseconds(self, recipe: Recipe | None, quantize: str | None) -> float:
        """Return the time of an inference: int8 takes less, and so do zeros where they are many."""
        flops, left = (1.0, 1.0) if recipe is None else (recipe.flops, 1 - recipe.sparsity)
        return 0.05 + flops * (0.45 if quantize else min(1.0, 0.1 + 1.5 * left))


def search(landscape: Landscape, policy: Policy, *, workers: int = 1) -> list[Trial]:
    """Search a landscape until its time is over; `workers` trials run at once and end out of order."""
    now = landscape.overhead + 30 * landscape.seconds_per_step
    trials, first = [landscape.run(None)], landscape.first()
    running: list[tuple[float, int, Recipe]] = []
    for number in range(10_000):
        recipe = None
        if len(running) < workers:
            recipe = _fitting(landscape, policy, trials, [each for *_, each in running], first, now)
        if recipe is not None:
            heapq.heappush(running, (now + landscape.seconds(recipe), number, recipe))
            continue
        if not running:
            break
        now, _, ended = heapq.heappop(running)
        trials.append(landscape.run(ended))
    return trials


def _fitting(
    landscape: Landscape,
    policy: Policy,
    trials: Sequence[Trial],
    running: Sequence[Recipe],
    first: Recipe,
    now: float,
) -> Recipe | None:
    for may_be_long in (True, False):
        recipe = policy(trials, running, first, may_be_long)
        if now + landscape.seconds(recipe) < 0.95 * landscape.length:
            return recipe
    return None


def worth(landscape: Landscape, trials: Sequence[Trial], *, by: str = "bytes") -> tuple[float, float]:
    """Return the hypervolume of the best files, and log(dense size / size) of the smallest within the limit.

    The hypervolume is the mean, over drops from 0 to the limit, of the nats saved in bytes or milliseconds. Files are
    chosen by what was measured and count by what is true; one that is beyond the limit in truth counts as none.
    """
    size = attrgetter(by)
    dense = size(trials[0].tried[0])
    files = sorted((file for trial in trials for file in trial.tried), key=size)
    pairs, least = [(dense, 0.0)], math.inf
    for file in files:
        if file.drop <= MAX_DROP and file.drop < least:
            least = file.drop
            pairs.append((size(file), max(0.0, landscape.true_drop(file.recipe, file.quantize))))
    smallest = cache(lambda drop: min(saved for saved, lost in pairs if lost <= drop))
    drops = np.linspace(0, MAX_DROP, 101)
    saved = [math.log(dense / smallest(float(drop))) for drop in drops]
    return float(np.mean(saved)), saved[-1]
