"""Report of `rank_channels` and `rank_heads`: the scores of each group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tfprune.report import Report, Skipped, skipped_table, table

_SHOWN = 3  # indices of a group in a table


@dataclass(frozen=True)
class RankedGroup(Report):
    """A group of channels or heads with their scores.

    Attributes:
        group: The name of the group, as in a `ShrinkPlan`.
        kind: "channels", or "heads" of attention.
        scores: The score of each channel or head, larger = keep.
    """

    group: str
    kind: str
    scores: tuple[float, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """The indices of the channels or heads, the least important first."""
        return tuple(np.argsort(self.scores, kind="stable").tolist())


@dataclass(frozen=True)
class RankingReport(Report):
    """Scores of channels or heads; pass it as `criterion` to `plan_shrink`.

    Attributes:
        rows: One row per group, in the order of the model.
        skipped: The groups without scores, each with the reason.

    Example:
        >>> report = RankingReport((RankedGroup("hidden", "channels", (0.3, 0.1, 0.2)),))
        >>> report.scores["hidden"].tolist(), report.rows[0].order
        ([0.3, 0.1, 0.2], (1, 2, 0))
    """

    rows: tuple[RankedGroup, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def scores(self) -> dict[str, np.ndarray]:
        """The scores of each group, by the name of the group."""
        return {row.group: np.array(row.scores) for row in self.rows}

    def __str__(self) -> str:
        lines = [
            [
                *(row.group, row.kind, len(row.scores)),
                *(f"{value:.4g}" for value in (min(row.scores), float(np.median(row.scores)), max(row.scores))),
                ", ".join(map(str, row.order[:_SHOWN])),
            ]
            for row in self.rows
        ]
        header = ["group", "kind", "number", "lowest score", "median", "highest", "least important"]
        return table(header, lines, left=2) + skipped_table(self.skipped)
