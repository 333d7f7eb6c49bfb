"""Report of a pruned file: its layers, how far its outputs moved, and what was written."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.export.file.report import fraction_of_zeros, number_text
from tfprune.export.rewriting.export_report import AccuracyDrop, ExportReport
from tfprune.report import Report, Skipped, skipped_table, table


@dataclass(frozen=True)
class PrunedLayer(Report):
    """A weight that has zeros now.

    Attributes:
        name: The name of its tensor.
        operator: The operator that uses it, such as `CONV_2D`.
        size: The number of its entries.
        nnz: How many of them are not zero.
        error: The squared error of the layer's outputs on the samples, as a fraction of their squares. In it is what
            the layers before it could not make up for.
    """

    name: str
    operator: str
    size: int
    nnz: int
    error: float

    @property
    def sparsity(self) -> float:
        """The fraction of zeros."""
        return fraction_of_zeros(self.nnz, self.size)


@dataclass(frozen=True)
class OutputError(Report):
    """How far an output of the pruned file is from the dense file's, on samples that were held out.

    Attributes:
        name: The name of the output.
        error: The root of the mean squared difference, as a fraction of the output's standard deviation over the
            samples; None if the output is the same for all of them.
        agreement: The fraction of samples whose largest entry is the same one; None if the output is not a row of
            classes.
        signature: The signature that returns the output, where samples are by signature; otherwise empty.
    """

    name: str
    error: float | None
    agreement: float | None
    signature: str = ""

    @property
    def row(self) -> list[str]:
        """Its row in a table."""
        name = f"{self.signature}: {self.name}" if self.signature else self.name
        return [name, number_text(self.error), "-" if self.agreement is None else f"{self.agreement:.1%}"]


@dataclass(frozen=True)
class PruneTfliteReport(Report):
    """What `prune_tflite` did, and how far the file's outputs moved.

    Attributes:
        sparsity: The fraction of zeros in the weights that were pruned.
        layers: One row for each of these weights.
        errors: One row for each output of the file.
        skipped: The weights that were left alone, with the reason.
        samples: The number of samples that were used to prune.
        held_out: The number of samples that the outputs were compared on.
        warnings: What makes these numbers less reliable.
        file: The file that was written, and how it was checked.
        lost: What the metric of `max_drop` lost on its labeled data, for each output; empty without `max_drop`.

    Example:
        >>> report = tfprune.export.prune_tflite("digits.tflite", "sparse.tflite", images, sparsity=0.92)
        >>> round(report.sparsity, 2), report.errors[0].agreement > 0.5
        (0.92, True)
    """

    sparsity: float
    layers: tuple[PrunedLayer, ...]
    errors: tuple[OutputError, ...]
    skipped: tuple[Skipped, ...]
    samples: int
    held_out: int
    warnings: tuple[str, ...]
    file: ExportReport
    lost: tuple[AccuracyDrop, ...] = ()

    def __str__(self) -> str:
        layers = [
            [layer.name, layer.operator, f"{layer.size:,}", f"{layer.sparsity:.1%}", number_text(layer.error)]
            for layer in self.layers
        ]
        outputs = [row.row for row in self.errors]
        text = table(["layer", "operator", "weights", "zeros", "error"], layers, left=2) + skipped_table(self.skipped)
        lost = [[row.metric, number_text(row.before), number_text(row.file)] for row in self.lost]
        parts = [
            text,
            table([f"output, on {self.held_out} held-out samples", "error", "agreement"], outputs),
            *([table(["metric", "dense file", "pruned file"], lost)] if lost else []),
            *(f"Warning: {warning}" for warning in self.warnings),
            str(self.file),
        ]
        return "\n\n".join(parts)
