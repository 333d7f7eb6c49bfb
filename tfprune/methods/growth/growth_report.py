"""Report of `grow_depth` and `drop_blocks`: which blocks a model has now, and whether it computes the same."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.report import Report, table


@dataclass(frozen=True)
class PlacedBlock(Report):
    """A block of the new model.

    Attributes:
        place: Its place in the new model, from 0.
        block: Which block of the model it is, from 0.
        layer: The name of its first layer.
        is_copy: Whether the same block stands at an earlier place.
        parameters: How many entries its weights have.
        nnz: How many entries of its kernels are not zero, with the masks applied.
        zeroed: The weights that were set to zero, so that it hands on what it reads.
    """

    place: int
    block: int
    layer: str
    is_copy: bool
    parameters: int
    nnz: int
    zeroed: tuple[str, ...] = ()


@dataclass(frozen=True)
class GrowthReport(Report):
    """Which blocks a model has after `grow_depth` or `drop_blocks`, and whether it computes the same.

    Attributes:
        rows: A row for each block of the new model.
        blocks: How many blocks the model had.
        into: `"class"` if the new model is of the same class, `"graph"` if it is a Functional model.
        reason: Why a model of a class became a graph; empty if it did not.
        parameters: How many parameters the model had, and has now.
        difference: The largest difference of an output, as a fraction of the largest output, on the data that were
            given, or else on random numbers; None if the model does not run on these.
        samples: On how many samples of the data it was measured, 0 for random numbers.

    Example:
        >>> import keras, tfprune
        >>> block = lambda index: keras.layers.Dense(4, "relu", name=f"block_{index}")
        >>> model = keras.Sequential([keras.Input((4,)), *map(block, range(3)), keras.layers.Dense(2)])
        >>> smaller, report = tfprune.drop_blocks(model, [1])
        >>> report.order, report.is_function_preserving
        ((0, 2), False)
    """

    JSON_NAMES = (
        *("rows", "blocks", "into", "reason", "parameters", "order", "copies", "difference", "samples"),
        "is_function_preserving",
    )

    rows: tuple[PlacedBlock, ...]
    blocks: int
    into: str
    reason: str
    parameters: tuple[int, int]
    difference: float | None
    samples: int

    @property
    def order(self) -> tuple[int, ...]:
        """The blocks of the model, in the order in which the new model calls them."""
        return tuple(row.block for row in self.rows)

    @property
    def copies(self) -> tuple[int, ...]:
        """The places of the copies: `drop_blocks` removes them again."""
        return tuple(row.place for row in self.rows if row.is_copy)

    @property
    def is_function_preserving(self) -> bool | None:
        """Whether the outputs differ by no more than one millionth; None if it was not measured."""
        return None if self.difference is None else self.difference <= 1e-6

    def __str__(self) -> str:
        lines = [
            [
                *(row.place, row.block, row.layer, "yes" if row.is_copy else "", ", ".join(row.zeroed)),
                *(f"{row.parameters:,}", f"{row.nnz:,}"),
            ]
            for row in self.rows
        ]
        header = ["place", "block", "first layer", "copy", "zeroed", "parameters", "non-zeros"]
        return table(header, lines, left=5) + f"\n\n{self._summary()}"

    def _summary(self) -> str:
        kind = "a model of the same class" if self.into == "class" else "a Functional model"
        why = f" ({self.reason})" if self.reason else ""
        sizes = " to ".join(f"{count:,}" for count in self.parameters)
        measured = f"on {self.samples} samples" if self.samples else "on random numbers"
        says = {True: "the same function", False: "another function", None: "not measured: pass data"}
        found = "" if self.difference is None else f", outputs differ by {self.difference:.1e} {measured}"
        return (
            f"{self.blocks} to {len(self.rows)} blocks, {sizes} parameters, {kind}{why}; "
            f"{says[self.is_function_preserving]}{found}"
        )
