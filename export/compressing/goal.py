"""The goal of a search: files as small or as fast as possible within limits, and the front of the best ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tfprune.export.compressing.trials.trial import MeasuredFile, Trial

DROP_NOISE = 0.002  # of an accuracy; of another metric a part of its value
EXCESS_OF_A_BUDGET = 0.1  # the part of a budget that counts as much as one `max_drop`


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
        return sum(max(0.0, size / limit - 1) / EXCESS_OF_A_BUDGET for size, limit in sizes)

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


def added_area(file: MeasuredFile, front: Sequence[MeasuredFile], *, dense: MeasuredFile, goal: Goal) -> float:
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
