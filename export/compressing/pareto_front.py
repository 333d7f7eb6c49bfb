"""The files within the limits that no other file beats in both size and accuracy, and the gaps between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from tfprune.export.compressing.search_settings import Goal
from tfprune.export.compressing.trial import MeasuredFile


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
