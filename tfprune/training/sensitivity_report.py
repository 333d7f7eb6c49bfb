"""What a sensitivity scan found: a table, a picture, and an allocation to start from."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tfprune.report import Report, Skipped, skipped_table, table
from tfprune.spec import check_number


@dataclass(frozen=True)
class SensitivityRow(Report):
    """What one weight costs at one sparsity.

    Attributes:
        path: The weight's place in the model, `block_1/conv/kernel`.
        sparsity: Its fraction of zeros, as asked for; all other weights are as they were.
        value: The metric, without any training.
        drop: How much worse that is than the baseline, in the metric's unit; negative if it is better.
    """

    path: str
    sparsity: float
    value: float
    drop: float


@dataclass(frozen=True)
class SensitivityReport(Report):
    """What each weight costs at each sparsity.

    Attributes:
        metric: The name of what was measured.
        baseline: The metric of the model as it was.
        rows: One entry per weight and sparsity, weights in the model's order, sparsities rising.
        skipped: Weights that are frozen, or whose pattern cannot reach a sparsity, each with the reason.
    """

    metric: str
    baseline: float
    rows: tuple[SensitivityRow, ...]
    skipped: tuple[Skipped, ...] = ()

    def suggest(self, max_drop: float = 0.01) -> dict[str, float | None]:
        """Return the largest scanned sparsity of each weight that costs no more than `max_drop`.

        Drops add up when several weights are pruned, and training wins much of them back: it is where to start.

        Args:
            max_drop: What one weight may cost, in the metric's unit, at least 0.

        Returns:
            An allocation for `PruningCallback` and `update_masks`: a regular expression per weight, and its sparsity,
            or None, which leaves a weight as it is, where every scanned sparsity costs more.

        Raises:
            TypeError: If `max_drop` is no number.
            ValueError: If it is negative or not finite.

        Example:
            >>> rows = (SensitivityRow("out/kernel", 0.5, 0.97, 0.0), SensitivityRow("out/kernel", 0.9, 0.7, 0.27))
            >>> SensitivityReport("accuracy", 0.97, rows).suggest()
            {'^out/kernel$': 0.5}
        """
        max_drop = check_number(max_drop, "max_drop", least=0)
        return {
            f"^{re.escape(path)}$": max((row.sparsity for row in rows if row.drop <= max_drop), default=None)
            for path, rows in self._by_path()
        }

    def plot(self, path: str | Path) -> None:
        """Draw the metric over the sparsity, a line for each weight, into an image file.

        Args:
            path: The file; its suffix says which format, such as `.png` or `.svg`.

        Raises:
            ValueError: If matplotlib is not installed, or the file cannot be written.
        """
        try:
            from matplotlib import colormaps
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ValueError(
                'Expected the package matplotlib. Received: not installed. Run pip install "tfprune[plot]".'
            ) from error
        lines = list(self._by_path())
        columns = math.ceil(len(lines) / 20)  # a legend of more lines would be higher than the axes
        figure = Figure(figsize=(6 + 2.5 * columns, 4.5), layout="constrained")
        axes = figure.subplots()
        axes.axhline(self.baseline, color="grey", linestyle="--", linewidth=1, label="as it was")
        colors = colormaps["viridis"].resampled(len(lines) + 1)  # the last one is too pale to see
        for place, (name, rows) in enumerate(lines):
            x, y = [row.sparsity for row in rows], [row.value for row in rows]
            axes.plot(x, y, "o-", color=colors(place), markersize=4, label=name)
        axes.set(xlabel="sparsity of one weight, others as they were", ylabel=self.metric, title="Sensitivity")
        figure.legend(loc="outside right upper", ncols=columns, fontsize="small")
        try:
            figure.savefig(path, dpi=120)
        except OSError as error:
            raise ValueError(
                f"Expected a file that can be written. Received: {str(path)!r} ({error.strerror})."
            ) from error

    def __str__(self) -> str:
        levels = sorted({row.sparsity for row in self.rows})
        lines = []
        for path, rows in self._by_path():
            values = {row.sparsity: f"{row.value:.4f}" for row in rows}
            lines.append([path, *(values.get(level, "-") for level in levels)])
        text = f"{self.metric} is {self.baseline:.4f}; with one weight pruned alone to a sparsity of\n\n"
        text += table(["weight", *(f"{level:g}" for level in levels)], lines)
        return text + skipped_table(self.skipped)

    def _by_path(self) -> Iterator[tuple[str, list[SensitivityRow]]]:
        for path in dict.fromkeys(row.path for row in self.rows):
            yield path, [row for row in self.rows if row.path == path]
