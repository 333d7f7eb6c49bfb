"""Report of a reconstruction: the output error of each layer before and after."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.report import Report, Skipped, skipped_table, table


@dataclass(frozen=True)
class ReconstructionRow(Report):
    """The output error of a layer on the calibration data, compared with the reference.

    Attributes:
        layer: The name of the layer.
        weight: The name of the kernel that was solved for, with the bias of the layer if it has one.
        before: The squared error with the old weights, as a fraction of the squared outputs.
        after: The squared error with the new weights, as the same fraction; never larger than `before`, unless
            `prune_weights` rounds the weights.
        held_before: `before` on the data that were kept apart by `holdout`, None without any.
        held_after: The same with the new weights. Where it is larger than `held_before`, the old ones were kept.
    """

    layer: str
    weight: str
    before: float
    after: float
    held_before: float | None = None
    held_after: float | None = None


@dataclass(frozen=True)
class ReconstructionReport(Report):
    """The output error of each layer before and after `reconstruct`.

    Attributes:
        rows: One row per kernel, in the order of the model.
        skipped: The layers whose kernels were left as they are, each with the reason.

    Example:
        >>> import keras, numpy, tfprune
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
        >>> pruned = tfprune.wrap(model)
        >>> _ = tfprune.update_masks(pruned, 0.5)
        >>> better, report = tfprune.reconstruct(pruned, model, numpy.eye(8, dtype="float32"))
        >>> [row.weight for row in report.rows]
        ['kernel']
    """

    rows: tuple[ReconstructionRow, ...]
    skipped: tuple[Skipped, ...] = ()

    def __str__(self) -> str:
        columns = ["weight", "error before", "after"]
        lines = [[f"{row.layer}/{row.weight}", f"{row.before:.3%}", f"{row.after:.3%}"] for row in self.rows]
        if any(row.held_before is not None for row in self.rows):
            columns += ["held out before", "after"]
            for line, row in zip(lines, self.rows, strict=True):
                line += ["" if value is None else f"{value:.3%}" for value in (row.held_before, row.held_after)]
        return table(columns, lines) + skipped_table(self.skipped)
