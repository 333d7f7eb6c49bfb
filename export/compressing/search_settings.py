"""The goal of a search, and the constants by which it chooses its trials."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from tfprune.export.compressing.trial import MeasuredFile
from tfprune.export.micro.micro import Micro

DROP_NOISE = 0.002  # with which a drop of 0 is measured
EXCESS_OF_A_BUDGET = 0.1  # the part of a budget that counts as much as one `max_drop`


@dataclass(frozen=True)
class Goal:
    """Files as small or as fast as possible, within limits.

    Attributes:
        by: The attribute of a `MeasuredFile` to make small: `"bytes"` or `"latency_ms"`.
        max_drop: The most that a file may lose of the metric.
        budgets: The flash and RAM of a microcontroller.
    """

    by: str
    max_drop: float
    budgets: Micro = field(default_factory=Micro)

    def size(self, file: MeasuredFile) -> float:
        """Return the bytes or milliseconds of a file."""
        return getattr(file, self.by)

    def excess(self, file: MeasuredFile) -> float:
        """Return how far a file is outside of the limits: in drops, plus tenths of the budgets; 0 inside."""
        drop = self.strictest_drop(file)
        used = ((file.arena_bytes or 0, self.budgets.arena), (file.bytes, self.budgets.flash))
        return max(0.0, -self.drop_left(drop)) + sum(
            max(0.0, size / limit - 1) / EXCESS_OF_A_BUDGET for size, limit in used if limit
        )

    def strictest_drop(self, file: MeasuredFile) -> float:
        """Return what a file lost on average, or in its worst class or group, if that leaves less of its limit.

        The loss of a class or group is converted: its limit counts as `max_drop`.
        """
        group = file.worst_group
        if group is None:
            return file.drop
        return max(file.drop, self.max_drop + group.excess * self._unit(self.max_drop) / self._unit(group.limit))

    def strictest(self, file: MeasuredFile) -> MeasuredFile:
        """Return a file with the drop by which it is searched for: the strictest."""
        return file if file.worst_group is None else replace(file, drop=self.strictest_drop(file))

    def drop_left(self, drop: float) -> float:
        """Return the fraction of `max_drop` that a drop leaves unused; negative beyond it."""
        return (self.max_drop - drop) / self._unit(self.max_drop)

    @staticmethod
    def _unit(limit: float) -> float:
        """Return the drop that counts as one: the limit, but no less than the noise."""
        return max(limit, DROP_NOISE)

    @property
    def needs_channels(self) -> bool:
        """Whether zeros help little: they save neither time nor RAM."""
        return self.by != "bytes" or self.budgets.arena is not None


@dataclass(frozen=True)
class SearchSettings:
    """Constants of a search. A step is the logarithm of the cost (weights times multiply-adds) that it removes."""

    goal: Goal

    # When trials are long, and how long the short ones are.
    long_trial_factor: int = 4  # sixteen times took long and gained little
    trials_of_a_turn: int = 4  # one of them trains longer for the best answer, one for the gaps in the front
    shortest_trial_fraction: float = 1 / 60  # of the time of the search; at most an epoch,
    min_export_times: float = 1.0  # but as long as the first trial, which only exports and measures
    min_steps: int = 30
    reserved_time_fraction: float = 0.05  # for writing and timing the best files after the last trial
    quantize_aware_slowdown: float = 2.0  # of a training step, until one was timed

    # How far a step goes.
    first_halvings: int = 4  # trials that halve the cost, each after the one before, until Optuna draws
    shortest_step: float = 0.1
    longest_step: float = math.log(2)
    longest_step_at_limit: float = 0.5  # of `longest_step`, from a model that has lost all of `max_drop`
    min_flops: float = 0.08
    min_weights: float = 0.02
    learning_rates: tuple[float, float] = (0.5, 4.0)  # in units of the model's own

    # How trials are compared.
    history_length: int = 20  # trials that Optuna learns from: the smaller a model, the less a step can remove
    excess_cost: float = math.log(4)  # per drop beyond the limit; with log(2), searches went on beyond it
    cost_without_file: float = 20.0
    loss_kept_by_longer_training: float = 0.3  # median of 81 recipes of 8 searches: tests/bench/longer_training.py
    loss_kept_prior_pairs: int = 2  # as many pairs of trials of the search itself weigh as much
