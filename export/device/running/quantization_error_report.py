"""Report of the error of an 8-bit file, layer by layer: a table and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tfprune.report import Report, new_figure, save_figure, table

ROUNDING_ERROR_STEPS = 0.29  # steps: the error of rounding alone, 1 / sqrt(12)
NAME_WIDTH = 48  # characters of a name in the table


@dataclass(frozen=True)
class QuantizationErrorRow(Report):
    """The output of a layer in the 8-bit file, against that in the float file.

    Attributes:
        name: The name of the tensor.
        operator: The operator that makes it in the 8-bit file.
        error: The root of the mean squared difference, as a fraction of the root of the mean square.
        before: The largest `error` among what the operator takes; 0 for the first ones.
        steps: The root of the mean squared difference, in steps of the tensor's scale: 0.29 is what rounding alone
            makes. 0 for a tensor that is not of integers.
        clipped: The fraction of float values that lie outside of the range of the integers.
    """

    name: str
    operator: str
    error: float
    before: float
    steps: float
    clipped: float

    @property
    def layer(self) -> str:
        """The name without what the converter joined to it."""
        return self.name.partition(";")[0]


@dataclass(frozen=True)
class QuantizationErrorReport(Report):
    """The error of each layer of an 8-bit file.

    Attributes:
        rows: One row for each tensor that both files have, in the order of the 8-bit file.
        samples: The number of samples.
        runtime: The interpreter that ran both, and its version.

    Example:
        >>> report = tfprune.export.quantization_error("digits.tflite", "digits_int8.tflite", images)
        >>> report.worst.error >= report.rows[0].error
        True
        >>> report.plot("error.png")
    """

    rows: tuple[QuantizationErrorRow, ...]
    samples: int
    runtime: str

    @property
    def worst(self) -> QuantizationErrorRow:
        """The row at which the error grows most."""
        return max(self.rows, key=lambda row: row.error - row.before)

    def plot(self, path: str | Path) -> None:
        """Draw the error of each layer into an image file, and how much of it the layer adds.

        Args:
            path: The file to write; its suffix gives the format, such as `.png` or `.svg`.

        Raises:
            ValueError: If matplotlib is not installed, or the file cannot be written.
        """
        figure = new_figure(9, 1.5 + 0.22 * len(self.rows))
        axes = figure.subplots()
        rows = self.rows[::-1]  # bars are drawn from the bottom up
        places = range(len(rows))
        inherited = [min(row.before, row.error) for row in rows]
        added = [row.error - old for row, old in zip(rows, inherited, strict=True)]
        axes.barh(places, inherited, color="lightgrey", label="error of the input")
        axes.barh(places, added, left=inherited, color="tab:orange", label="added by the layer")
        axes.set_yticks(places, [_shortened(row.layer) for row in rows], fontsize="small")
        axes.set(xlabel="error of the layer's output, as a fraction of its size", ylim=(-0.7, len(rows) - 0.3))
        figure.legend(loc="outside upper right", ncols=2, fontsize="small")
        save_figure(figure, path)

    def __str__(self) -> str:
        lines = [
            [_shortened(row.layer), row.operator, f"{row.error:.4f}", f"{row.before:.4f}"]
            + ([f"{row.steps:.2f}", f"{row.clipped:.2%}"] if row.steps else ["-", "-"])
            for row in self.rows
        ]
        header = ["layer", "operator", "output error", "input error", "steps", "clipped"]
        note = f"{self.samples:,} samples, {self.runtime}; the error grows most at {self.worst.layer}"
        return f"{table(header, lines, left=2)}\n\n{note}"


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else f"...{name[3 - NAME_WIDTH :]}"
