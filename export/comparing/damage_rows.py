"""Rows of a report on what each group lost: corrected for their number, and sorted by the loss that is certain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tfprune.base.groups import SampleGroup
from tfprune.export.comparing.damage_report import DamageRow
from tfprune.export.comparing.paired_tests import benjamini_hochberg


def damage_row(
    group: SampleGroup,
    *,
    scores: tuple[Any, ...],
    interval: tuple[float | None, float | None],
    changes: tuple[int, int],
    p_value: float,
) -> DamageRow:
    """Return the row of a group, not yet corrected for the number of groups.

    Args:
        group: The group.
        scores: Before, after, and how much was lost.
        interval: The ends of the interval of that.
        changes: How many samples got worse, and how many better.
        p_value: Of the one-sided test whether it lost more than the other samples; the row has twice that, so that a
            group is harmed where a two-sided test would say so, as the intervals are two-sided.
    """
    before, after, drop = map(float, scores)
    samples, (lost, gained) = int(group.inside.sum()), changes
    return DamageRow(
        group.grouping,
        group.value,
        samples,
        before,
        after,
        drop,
        *interval,
        lost,
        gained,
        min(1.0, 2 * p_value),
        1.0,
        False,
    )


def sorted_rows(rows: list[DamageRow], level: float) -> tuple[DamageRow, ...]:
    """Correct p-values for the number of groups, and sort rows by the loss that is certain."""
    adjusted = benjamini_hochberg([row.p_value for row in rows])
    judged = [
        replace(row, adjusted_p=float(p), harmed=bool(p < 1 - level and row.drop > 0))
        for row, p in zip(rows, adjusted, strict=True)
    ]
    return tuple(sorted(judged, key=lambda row: (row.low is None, -(row.low or 0.0), -row.drop)))
