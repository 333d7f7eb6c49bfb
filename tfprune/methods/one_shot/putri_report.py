"""Report of `prune_units`: the channels and heads removed from each layer, and the error."""

from __future__ import annotations

from dataclasses import dataclass, field

from tfprune.compact.reconstruction.reconstruction_report import ReconstructionRow
from tfprune.compact.shrinking.shrink_plan import ShrinkPlan
from tfprune.report import Report, Skipped, skipped_table, table

_TOLERANCE = 0.01  # of the requested number


@dataclass(frozen=True)
class PutriRow(Report):
    """A group of channels or heads and its error.

    Attributes:
        group: The name of the group.
        kind: "channels", which are hidden units, or "heads".
        channels: The number of channels or heads before.
        kept: The number that is kept.
        error: The output error of the layer that reads them, before its weights were updated and after.
        is_updated: Whether its new weights were kept.
    """

    group: str
    kind: str
    channels: int
    kept: int
    error: ReconstructionRow
    is_updated: bool


@dataclass(frozen=True)
class PutriTotal(Report):
    """The requested and the removed number of parameters.

    Attributes:
        parameters: Parameters of all hidden units and heads that can be removed, their norms included.
        asked: The number of them that you asked to remove.
        removed: The number that was removed.
        limits: The reasons why it is not the same number.
    """

    parameters: int
    asked: int
    removed: int
    limits: tuple[str, ...] = ()

    @property
    def is_met(self) -> bool:
        """Whether the removed number is within 1 % of the requested one."""
        return abs(self.removed - self.asked) <= _TOLERANCE * self.asked

    def __str__(self) -> str:
        parts = [f"{number / max(self.parameters, 1):.2%}" for number in (self.asked, self.removed)]
        line = f"Of {self.parameters:,} parameters of the blocks, {parts[0]} were to be removed; {parts[1]} were."
        return line if self.is_met else "\n".join([line, "The reasons:", *(f"- {text}" for text in self.limits)])


@dataclass(frozen=True)
class PutriReport(Report):
    """The channels and heads that `prune_units` removed.

    Attributes:
        rows: One row per group, in the order in which they were removed.
        skipped: The groups that keep all channels or heads, each with the reason.
        total: The requested and the removed number of parameters.
        plan: The plan of the smaller model, for `shrink(masked, report.plan)`.

    Example:
        >>> import keras, tfprune
        >>> layers = [keras.Input((8,)), keras.layers.Dense(16, "relu", name="hidden"), keras.layers.Dense(4)]
        >>> x = keras.random.normal((64, 8), seed=0)
        >>> model = keras.Sequential(layers)
        >>> masked, report = tfprune.prune_units(model, x, {"units": 0.5}, verbose=0)
        >>> [(row.group, row.kept) for row in report.rows]
        [('hidden', 8)]
    """

    JSON_NAMES = ("rows", "skipped", "total")

    rows: tuple[PutriRow, ...]
    skipped: tuple[Skipped, ...]
    total: PutriTotal
    plan: ShrinkPlan = field(compare=False, repr=False)

    def __str__(self) -> str:
        lines = [
            [
                *(row.group, f"{row.kept:,} of {row.channels:,}"),
                *(f"{row.error.before:.3%}", f"{row.error.after:.3%}"),
                *("" if value is None else f"{value:.3%}" for value in (row.error.held_before, row.error.held_after)),
                "yes" if row.is_updated else "no",
            ]
            for row in self.rows
        ]
        columns = ["group", "channels kept", "error without reconstruction", "with it"]
        rows = table([*columns, "held-out error without", "with it", "reconstructed"], lines)
        return f"{rows}\n\n{self.total}{skipped_table(self.skipped)}"
