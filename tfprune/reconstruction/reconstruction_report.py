"""What compensation has brought: the error of each layer's outputs before and after."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tfprune.report import Skipped, table


@dataclass(frozen=True)
class ReconstructionRow:
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
class ReconstructionReport:
    """What `reconstruct` has done.

    Attributes:
        rows: One entry per kernel, in the model's order.
        skipped: Layers whose kernels were left as they are, with the reason.
    """

    rows: tuple[ReconstructionRow, ...]
    skipped: tuple[Skipped, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists, ready for `json.dumps`."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "skipped": [asdict(skipped) for skipped in self.skipped],
        }

    def __str__(self) -> str:
        lines = [[f"{row.layer}/{row.weight}", f"{row.before:.3%}", f"{row.after:.3%}"] for row in self.rows]
        text = table(["weight", "error before", "after"], lines)
        if self.skipped:
            rows = [[skipped.layer, skipped.reason] for skipped in self.skipped]
            text += "\n\n" + table(["skipped", "reason"], rows, left=2)
        return text
