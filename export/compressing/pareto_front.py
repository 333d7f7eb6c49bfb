"""Which files are an answer, and which of them no other beats."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from tfprune.export.compressing.measured_file import MeasuredFile
from tfprune.export.micro.micro import Micro

SMALLEST_DROP = 0.002  # a drop of nothing is measured with that much noise
TENTH = 0.1  # of a budget


@dataclass(frozen=True)
class Limits:
    """What a file may lose, and what it may take.

    Attributes:
        max_drop: What it may lose of the metric.
        budgets: The flash and RAM of a microcontroller.
    """

    max_drop: float
    budgets: Micro = field(default_factory=Micro)

    def excess(self, tried: MeasuredFile) -> float:
        """Return how far a file is from an answer, 0 for one: by drops, and tenths of the budgets, too many."""
        taken = ((tried.arena_bytes or 0, self.budgets.arena), (tried.bytes, self.budgets.flash))
        return max(0.0, -self.drop_left(tried.drop)) + sum(
            max(0.0, size / limit - 1) / TENTH for size, limit in taken if limit
        )

    def drop_left(self, drop: float) -> float:
        """Return which part of the drop is left after such a one; less than 0 beyond it."""
        return (self.max_drop - drop) / max(self.max_drop, SMALLEST_DROP)


def front(tried: Iterable[MeasuredFile], *, limits: Limits, by: str) -> list[MeasuredFile]:
    """Return the files that keep to the limits, and that no other one beats in both size and accuracy.

    Args:
        tried: All files.
        limits: What a file may lose and take.
        by: The attribute that counts beside the drop, such as `"bytes"`.

    Returns:
        The smallest, or fastest, first.
    """
    found: list[MeasuredFile] = []
    for one in sorted(tried, key=lambda one: (getattr(one, by), one.drop)):
        if not limits.excess(one) and (not found or one.drop < found[-1].drop):
            found.append(one)
    return found


def gap_before(tried: MeasuredFile, best: list[MeasuredFile], *, limits: Limits, by: str) -> float:
    """Return the area of the gap between a file and the next smaller one of a front, over drops from 0 to the limit.

    It is 0 for a file that is not there. Half of the smallest one, at the limit, stands where the front ends.
    """
    if tried not in best:
        return 0.0
    index, lost = best.index(tried), max(0.0, tried.drop)
    if not index:
        return (limits.max_drop - lost) * math.log(2)
    before = best[index - 1]
    return (max(0.0, before.drop) - lost) * math.log(getattr(tried, by) / getattr(before, by))


def added_area(
    tried: MeasuredFile, best: Sequence[MeasuredFile], *, dense: MeasuredFile, limits: Limits, by: str
) -> float:
    """Return what a file adds to the area under a front, over drops from 0 to the limit and logarithms of sizes.

    Args:
        tried: The file.
        best: What `front` returned.
        dense: The file of the model as it was, which stands where the front has none.
        limits: What a file may lose and take.
        by: The attribute that counts beside the drop.

    Returns:
        The sum, over all drops, of what it saves against the smallest file of the front that loses no more.
    """
    if limits.excess(replace(tried, drop=0.0)):
        return 0.0
    area, most = 0.0, limits.max_drop
    for other in [*best, replace(dense, drop=0.0)]:
        drops = most - max(0.0, tried.drop, other.drop)
        area += max(0.0, drops) * max(0.0, math.log(getattr(other, by) / getattr(tried, by)))
        most = min(most, other.drop)
    return area
