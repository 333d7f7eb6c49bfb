"""Report of the error of an 8-bit file, layer by layer: a table and a picture."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfprune.base.spec import check_count
from tfprune.report import Report, new_figure, save_figure, table

ROUNDING_ERROR_STEPS = 0.29  # steps: the error of rounding alone, 1 / sqrt(12)
BORDER_BYTES = 100  # of an operator that turns floats into integers or back, with its tensor
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
        added_bytes: The bytes that its weights add to the file if the operator stays in float.
        takers: The names of the rows whose operators take the tensor.
    """

    name: str
    operator: str
    error: float
    before: float
    steps: float
    clipped: float
    added_bytes: int = 0
    takers: tuple[str, ...] = ()

    @property
    def layer(self) -> str:
        """The name without what the converter joined to it."""
        return self.name.partition(";")[0]

    @property
    def added_error(self) -> float:
        """The part of `error` that is not in its inputs: squares of errors add up along the file."""
        return math.sqrt(max(0.0, self.error**2 - self.before**2))


@dataclass(frozen=True)
class _Step:
    """Operators that may stay in float, too: the squared errors that this wins back, and the bytes that it adds."""

    names: tuple[str, ...]
    won: float
    bytes: int


class _FloatParts:
    """The operators of a file that stay in float.

    Args:
        rows: All rows.

    Attributes:
        rows: The rows by name.
        chosen: The names of the operators, in the order in which they were chosen; the values are None.
    """

    def __init__(self, rows: Sequence[QuantizationErrorRow]) -> None:
        self.rows = {row.name: row for row in rows}
        self.chosen: dict[str, None] = {}
        self._makers: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            for taker in row.takers:
                self._makers[taker].append(row.name)

    def step_for(self, row: QuantizationErrorRow) -> _Step:
        """Return the step after which a tensor is rounded no more."""
        names = tuple(name for name in (row.name, *row.takers) if name not in self.chosen)
        near = [self.rows[name] for name in {*names, *(maker for name in names for maker in self._makers[name])}]
        before, after = self.chosen.keys(), {*self.chosen, *names}
        won = math.fsum(each.added_error**2 * (_is_whole(each, after) - _is_whole(each, before)) for each in near)
        borders = sum(_is_border(each, after) - _is_border(each, before) for each in near)
        return _Step(names, won, BORDER_BYTES * borders + sum(self.rows[name].added_bytes for name in names))


def _is_whole(row: QuantizationErrorRow, names: Collection[str]) -> bool:
    """Tell whether a tensor is not rounded: its operator and all that take it stay in float."""
    return row.name in names and all(taker in names for taker in row.takers)


def _is_border(row: QuantizationErrorRow, names: Collection[str]) -> bool:
    """Tell whether a tensor has to be turned into integers, or back."""
    return any((taker in names) != (row.name in names) for taker in row.takers)


@dataclass(frozen=True)
class QuantizationErrorReport(Report):
    """The error of each layer of an 8-bit file.

    Attributes:
        rows: One row for each tensor that both files have, in the order of the 8-bit file.
        samples: The number of samples.
        runtime: The interpreter that ran both, and its version.
        bytes: The size of the 8-bit file.

    Example:
        >>> report = tfprune.export.quantization_error("digits.tflite", "digits_int8.tflite", images)
        >>> report.worst.error >= report.rows[0].error
        True
        >>> report.plot("error.png")
    """

    rows: tuple[QuantizationErrorRow, ...]
    samples: int
    runtime: str
    bytes: int = 0

    @property
    def worst(self) -> QuantizationErrorRow:
        """The row at which the error grows most."""
        return max(self.rows, key=lambda row: row.error - row.before)

    def to_skip(self, *, max_bytes: int) -> tuple[QuantizationErrorRow, ...]:
        """Choose the operators that should stay in float, for `Quantization(skip=...)`.

        A tensor is rounded no more if the operator that makes it and those that take it stay in float. What wins
        most error back for the bytes that it adds is chosen first, then the next, until the file would be too large.

        Args:
            max_bytes: The largest size of the file, in bytes. It is estimated from the weights, and from the
                operators that convert values between floats and integers.

        Returns:
            The rows of the operators, in the order in which they were chosen; none if nothing fits. The names for
            `skip` are `[row.name for row in rows]`.

        Raises:
            ValueError: If `max_bytes` is less than the size of the 8-bit file.

        Example:
            >>> report = tfprune.export.quantization_error("digits.tflite", "digits_int8.tflite", images)
            >>> rows = report.to_skip(max_bytes=int(1.2 * report.bytes))
            >>> sum(row.added_bytes for row in rows) < 0.2 * report.bytes
            True
        """
        check_count(max_bytes, "max_bytes", least=self.bytes)
        parts, size = _FloatParts(self.rows), self.bytes
        while True:
            steps = [parts.step_for(row) for row in self.rows if row.steps]
            fitting = [step for step in steps if step.names and size + step.bytes <= max_bytes]
            if not fitting:
                return tuple(parts.rows[name] for name in parts.chosen)
            best = max(fitting, key=lambda step: step.won / max(1, step.bytes))
            parts.chosen |= dict.fromkeys(best.names)
            size += best.bytes

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
