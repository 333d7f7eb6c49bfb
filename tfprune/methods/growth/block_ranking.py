"""Report of `rank_blocks`: how much a model needs each of its blocks."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.report import Report, table


@dataclass(frozen=True)
class RankedBlock(Report):
    """A block of a model and its importance.

    Attributes:
        block: The block, counted from 0.
        layer: The name of its first layer.
        parameters: The number of entries of its weights.
        similarity: The cosine between its input and its output, the mean over positions, in [-1, 1].
        loss: The loss of the model without the block; None if it was not measured.
    """

    block: int
    layer: str
    parameters: int
    similarity: float
    loss: float | None


@dataclass(frozen=True)
class BlockRanking(Report):
    """The blocks of a model, ranked by their importance.

    Attributes:
        rows: A row for each block, in the order in which the model calls them.
        criterion: `"loss"` or `"similarity"`.
        loss: The loss of the whole model; None if it was not measured.

    Example:
        >>> rows = (RankedBlock(0, "first", 20, 0.9, None), RankedBlock(1, "second", 20, 0.99, None))
        >>> BlockRanking(rows, criterion="similarity", loss=None).order
        (1, 0)
    """

    JSON_NAMES = ("rows", "criterion", "loss", "order")

    rows: tuple[RankedBlock, ...]
    criterion: str
    loss: float | None

    @property
    def order(self) -> tuple[int, ...]:
        """The blocks, the least important first: `drop_blocks(model, ranking.order[:2])`."""
        ranked = sorted(self.rows, key=lambda row: -row.similarity if row.loss is None else row.loss)
        return tuple(row.block for row in ranked)

    def __str__(self) -> str:
        ranks = {block: rank for rank, block in enumerate(self.order, 1)}
        lines = [
            [
                *(row.block, row.layer, f"{row.parameters:,}", f"{row.similarity:.4f}"),
                *([] if row.loss is None else [f"{row.loss:.4f}"]),
                ranks[row.block],
            ]
            for row in self.rows
        ]
        header = [
            "block",
            "first layer",
            "parameters",
            "similarity",
            *(["loss without"] if self.loss is not None else []),
        ]
        title = "" if self.loss is None else f"The loss of the whole model is {self.loss:.4f}.\n\n"
        return title + table([*header, "drop order"], lines, left=2)
