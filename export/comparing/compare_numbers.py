"""Compare two models whose outputs are numbers: absolute errors, of all samples and of each group."""

from __future__ import annotations

import numpy as np

from tfprune.base.groups import SampleGroup
from tfprune.export.comparing.damage_report import LISTED_ERRORS, DamageReport
from tfprune.export.comparing.damage_rows import FlippedSample, Quality, damage_row, sorted_rows
from tfprune.export.comparing.labels import Comparable
from tfprune.export.comparing.paired_tests import excess_error_test, mean_interval


def compare_numbers(compared: Comparable, groups: list[SampleGroup], *, level: float) -> DamageReport:
    """Return how much absolute errors grew; without labels, how far the outputs lie apart.

    Args:
        compared: Numbers of both sides, and the labels.
        groups: Groups of samples.
        level: The coverage of the intervals.
    """
    truth = compared.before if compared.labels is None else compared.labels
    before, after = (
        np.abs(side.astype(np.float64) - truth).reshape(len(side), -1).mean(axis=1)
        for side in (compared.before, compared.after)
    )
    grown = after - before
    low, high = mean_interval(grown, level=level) or (None, None)
    rows = [
        damage_row(
            group,
            scores=tuple(values[group.inside].mean() for values in (before, after, grown)),
            interval=mean_interval(grown[group.inside], level=level) or (None, None),
            changes=(int((grown[group.inside] > 0).sum()), int((grown[group.inside] < 0).sum())),
            p_value=excess_error_test(grown, group.inside),
        )
        for group in groups
    ]
    worst = [index for index in np.argsort(-grown, kind="stable")[:LISTED_ERRORS] if grown[index] > 0]
    notes = [] if compared.labels is not None else ["Without labels the errors are differences from `before`."]
    if notes and compared.before.ndim == 2:
        notes.append(
            'If the outputs are scores of classes, such as logits, compare the classes: `task="classification"` '
            "(`tfprune compare --task classification`)."
        )
    return DamageReport(
        task="regression",
        samples=len(grown),
        before=Quality(float(before.mean())),
        after=Quality(float(after.mean())),
        drop=float(grown.mean()),
        low=low,
        high=high,
        lost=int((grown > 0).sum()),
        gained=int((grown < 0).sum()),
        p_value=None,
        rows=sorted_rows(rows, level),
        flips=tuple(
            FlippedSample(int(index), True, "", f"{before[index]:.4g}", f"{after[index]:.4g}", None, None)
            for index in worst
        ),
        level=float(level),
        notes=tuple(notes),
    )
