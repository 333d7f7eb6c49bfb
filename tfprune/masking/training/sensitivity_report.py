"""Report of a sensitivity scan: a table, a picture, and an allocation to start from."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tfprune.base.spec import check_number
from tfprune.report import Report, Skipped, new_figure, save_figure, skipped_table, table


@dataclass(frozen=True)
class SensitivityRow(Report):
    """The metric with one weight pruned to one sparsity.

    Attributes:
        path: The path of the weight in the model, `block_1/conv/kernel`.
        sparsity: The fraction of zeros asked for; all other weights are as they were.
        value: The metric, without training.
        drop: How much worse that is than the baseline, in the unit of the metric; negative if it is better.
    """

    path: str
    sparsity: float
    value: float
    drop: float


@dataclass(frozen=True)
class SensitivityReport(Report):
    """The metric with each weight pruned alone to each sparsity.

    Attributes:
        metric: The name of the metric.
        baseline: The metric of the model as it was.
        rows: One row per weight and sparsity: weights in the order of the model, sparsities rising.
        skipped: The weights that are frozen, or whose pattern cannot reach a sparsity, each with the reason.

    Example:
        >>> import keras, numpy, tfprune
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
        >>> model.compile("sgd", "mse")
        >>> data = numpy.ones((4, 8)), numpy.ones((4, 4))
        >>> report = tfprune.sensitivity(model, data, (0.5, 0.9), metric="loss")
        >>> [row.sparsity for row in report.rows]
        [0.5, 0.9]
    """

    metric: str
    baseline: float
    rows: tuple[SensitivityRow, ...]
    skipped: tuple[Skipped, ...] = ()

    def suggest(self, max_drop: float = 0.01) -> dict[str, float | None]:
        """Return the largest scanned sparsity of each weight that costs no more than `max_drop`.

        Take it as a start: the drops of several pruned weights add up, and training wins much of them back.

        Args:
            max_drop: How much one weight may cost, in the unit of the metric, at least 0; default 0.01.

        Returns:
            An allocation for `PruningCallback` and `update_masks`: the sparsity of each weight by a regular
            expression, or None, which leaves the weight as it is, if every scanned sparsity costs more.

        Raises:
            TypeError: If `max_drop` is not a number.
            ValueError: If `max_drop` is negative or not finite.

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
        """Draw the metric over the sparsity into an image file, with a line for each weight.

        Args:
            path: The file to write; its suffix gives the format, such as `.png` or `.svg`.

        Raises:
            ValueError: If matplotlib is not installed, or the file cannot be written.
        """
        lines = list(self._by_path())
        columns = math.ceil(len(lines) / 20)  # a longer column would be higher than the axes
        figure = new_figure(6 + 2.5 * columns, 4.5)
        from matplotlib import colormaps

        axes = figure.subplots()
        axes.axhline(self.baseline, color="grey", linestyle="--", linewidth=1, label="as it was")
        colors = colormaps["viridis"].resampled(len(lines) + 1)  # the last color is too pale to see
        for index, (name, rows) in enumerate(lines):
            x, y = [row.sparsity for row in rows], [row.value for row in rows]
            axes.plot(x, y, "o-", color=colors(index), markersize=4, label=name)
        axes.set(xlabel="sparsity of one weight, others as they were", ylabel=self.metric, title="Sensitivity")
        figure.legend(loc="outside right upper", ncols=columns, fontsize="small")
        save_figure(figure, path)

    def __str__(self) -> str:
        levels = sorted({row.sparsity for row in self.rows})
        lines = []
        for path, rows in self._by_path():
            values = {row.sparsity: f"{row.value:.4f}" for row in rows}
            lines.append([path, *(values.get(level, "-") for level in levels)])
        text = f"{self.metric}: {self.baseline:.4f} unpruned; with only one weight pruned, by its sparsity:\n\n"
        text += table(["weight", *(f"{level:g}" for level in levels)], lines)
        return text + skipped_table(self.skipped)

    def _by_path(self) -> Iterator[tuple[str, list[SensitivityRow]]]:
        for path in dict.fromkeys(row.path for row in self.rows):
            yield path, [row for row in self.rows if row.path == path]
