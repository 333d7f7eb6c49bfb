"""Report of reordered channels: how much of each kernel N:M masks keep, before and after."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.keras_models.tracing.same_outputs import difference_in_words
from tfprune.report import Report, Skipped, skipped_table, table


@dataclass(frozen=True)
class PermutedKernel(Report):
    """One kernel, and the part of its scores that the masks keep.

    Attributes:
        path: Its path.
        inputs: The number of its inputs.
        moved: How many of them have another place.
        before: The scores that N:M masks keep of the kernel as it was, as a fraction of all its scores.
        after: The same with the channels in the new order.
    """

    path: str
    inputs: int
    moved: int
    before: float
    after: float


@dataclass(frozen=True)
class PermutationReport(Report):
    """Reordered channels.

    Attributes:
        rows: One entry for each kernel some of whose inputs may change places.
        skipped: The kernels whose inputs have to stay, with the reason.
        difference: The largest difference of the outputs from those before, as a fraction of the largest output, on
            random numbers: sums in another order are rounded differently. None if the model does not run on them.

    Example:
        >>> import keras, tfprune
        >>> layers = [keras.layers.Dense(16, "relu"), keras.layers.Dense(4, name="out")]
        >>> model = keras.Sequential([keras.Input((8,)), *layers])
        >>> _, report = tfprune.permute_channels(model, tfprune.patterns.NM(2, 4))
        >>> [row.path for row in report.rows]
        ['out/kernel']
    """

    rows: tuple[PermutedKernel, ...]
    skipped: tuple[Skipped, ...] = ()
    difference: float | None = None

    def __str__(self) -> str:
        lines = [[row.path, row.inputs, row.moved, f"{row.before:.1%}", f"{row.after:.1%}"] for row in self.rows]
        text = table(["kernel", "inputs", "moved", "kept before", "kept after"], lines) + skipped_table(self.skipped)
        return f"{text}\n\n{difference_in_words(self.difference, is_same=True, samples=0)}"
