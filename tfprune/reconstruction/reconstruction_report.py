"""What compensation has brought: the error of each layer's outputs before and after."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.report import Report, Skipped, skipped_table, table


@dataclass(frozen=True)
class ReconstructionRow(Report):
    """The error of one layer's outputs on the calibration data, against those of the reference.

    Attributes:
        layer: The layer.
        weight: The kernel that was solved for, with the bias of the layer if it has one.
        before: The squared error with the weights there were, as a part of the squares of the outputs.
        after: The same with the new ones, never larger.
    """

    layer: str
    weight: str
    before: float
    after: float


@dataclass(frozen=True)
class ReconstructionReport(Report):
    """What `reconstruct` has done.

    Attributes:
        rows: One entry per kernel, in the model's order.
        skipped: Layers whose kernels were left as they are, with the reason.
    """

    rows: tuple[ReconstructionRow, ...]
    skipped: tuple[Skipped, ...] = ()

    def __str__(self) -> str:
        lines = [[f"{row.layer}/{row.weight}", f"{row.before:.3%}", f"{row.after:.3%}"] for row in self.rows]
        return table(["weight", "error before", "after"], lines) + skipped_table(self.skipped)
