"""What a report on damage consists of: scores, flipped samples, and rows of groups, sorted by the certain loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tfprune.base.groups import SampleGroup
from tfprune.export.comparing.paired_tests import benjamini_hochberg
from tfprune.report import Report


@dataclass(frozen=True)
class Quality(Report):
    """How good one side is on all samples.

    Attributes:
        score: The accuracy; for numbers the mean absolute error; without labels the agreement with `before`.
        calibration_error: The expected calibration error, in 15 bins; None for numbers and without labels.
        brier: The Brier score, summed over the classes, 0 to 2; None for numbers and without labels.
        confidence: The mean probability of the predicted class; None for numbers.
    """

    score: float
    calibration_error: float | None = None
    brier: float | None = None
    confidence: float | None = None


@dataclass(frozen=True)
class DamageRow(Report):
    """One class, or one value of a group.

    Attributes:
        grouping: `"class"`, or the name of the group.
        value: The class, or the value of the group.
        samples: The number of its samples.
        before: Its score with `before`: accuracy, agreement, or mean absolute error.
        after: Its score with `after`.
        drop: How much it lost: accuracy before minus after, or error after minus before.
        low: The lower end of the interval of `drop`; None for a single number.
        high: The upper end; None for a single number.
        lost: Samples that only `before` gets right; of numbers, samples whose error grew.
        gained: Samples that only `after` gets right; of numbers, samples whose error fell.
        p_value: Probability of a difference as large from the other samples if the group had nothing to do with the
            losses, two-sided; 1 for a group that lost less.
        adjusted_p: The same, corrected for the number of groups (Benjamini-Hochberg).
        harmed: Whether it lost more than the other samples: `adjusted_p` below 1 - `level`, and `drop` above 0.
    """

    grouping: str
    value: str
    samples: int
    before: float
    after: float
    drop: float
    low: float | None
    high: float | None
    lost: int
    gained: int
    p_value: float
    adjusted_p: float
    harmed: bool

    @property
    def name(self) -> str:
        """The grouping and the value."""
        return f"{self.grouping} {self.value}"


@dataclass(frozen=True)
class FlippedSample(Report):
    """A sample whose answer became wrong or right.

    Attributes:
        index: Its index in the data.
        lost: Whether it was right before and is wrong after; False for the other way around.
        label: Its class; without labels the class of `before`.
        before: The class that `before` predicts; of numbers, its error before.
        after: The class that `after` predicts; of numbers, its error after.
        confidence_before: The probability of the class that `before` predicts; None for numbers.
        confidence_after: The probability of the class that `after` predicts; None for numbers.
    """

    index: int
    lost: bool
    label: str
    before: str
    after: str
    confidence_before: float | None
    confidence_after: float | None


@dataclass(frozen=True)
class CorruptedScores(Report):
    """How good both sides are on corrupted samples.

    Attributes:
        name: The name of the corruption.
        before: The score of `before` on them.
        after: The score of `after` on them.
        drop: How much was lost: accuracy before minus after, or error after minus before.
        low: The lower end of the interval of `drop`; None for a single number.
        high: The upper end; None for a single number.
    """

    name: str
    before: float
    after: float
    drop: float
    low: float | None
    high: float | None


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
