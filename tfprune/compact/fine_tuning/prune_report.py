"""The report of `prune_to`: plan and metric of each round."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tfprune.base.limit import GroupDrop
from tfprune.compact.shrinking.shrink_plan import ShrinkPlan
from tfprune.report import Report, new_figure, save_figure, table

STAGES = ("removed", "reconstructed", "trained")
_MARKERS = {"removed": ("v", "#c9b458"), "reconstructed": ("^", "#7fb069"), "trained": ("o", "#1f6f8b")}


@dataclass(frozen=True, eq=False)
class Round(Report):
    """One round of `prune_to`.

    Attributes:
        plan: The plan of the round.
        removed: The metric right after the removal.
        reconstructed: The metric after reconstruction.
        trained: The metric of the smaller model after training.
        stage: The weights that the round ended with: `"trained"`, or `"reconstructed"` if training made it worse.
        worst_group: The class or group that exceeds its limit most, or is nearest to it; None without such limits.
    """

    plan: ShrinkPlan
    removed: float
    reconstructed: float
    trained: float
    stage: str = "trained"
    worst_group: GroupDrop | None = None

    @property
    def value(self) -> float:
        """The metric of the model that the round ended with."""
        return getattr(self, self.stage)


@dataclass(frozen=True, eq=False)
class PruneReport(Report):
    """Plan and metric of each round of `prune_to`.

    Attributes:
        metric: The name of the metric.
        before: The metric of the original model.
        rounds: One entry per accepted round.
        refused: The round that cost more than the limits allow; None if there was none.

    Example:
        >>> import keras, numpy, tfprune
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(4)])
        >>> model.compile("sgd", "mse")
        >>> data = numpy.ones((16, 8)), numpy.ones((16, 4))
        >>> small, report = tfprune.prune_to(model, tfprune.budget(parameters=0.5), data, verbose=0)
        >>> report.metric, len(report.rounds)
        ('loss', 3)
    """

    metric: str
    before: float
    rounds: tuple[Round, ...]
    refused: Round | None = None

    def plot(self, path: str | Path) -> None:
        """Draw the metric over the FLOPs into an image file: after each removal, reconstruction and training.

        Args:
            path: The file; its suffix determines the format, such as `.png` or `.svg`.

        Raises:
            ValueError: If matplotlib is not installed, or the file cannot be written.
        """
        rounds = [*self.rounds, *([self.refused] if self.refused else [])]
        whole = self.rounds[0].plan.flops
        flops = [each.plan.flops_kept / whole for each in rounds]
        figure = new_figure(6.5, 4)
        axes = figure.subplots()
        axes.plot([1.0, *flops], [self.before, *(each.value for each in rounds)], "-", color="#1f6f8b", linewidth=1)
        for stage, (marker, color) in _MARKERS.items():
            axes.plot(flops, [getattr(each, stage) for each in rounds], marker, color=color, label=stage)
        axes.plot([1.0], [self.before], "o", color="black", label="before")
        if self.refused:
            size = {"markersize": 12, "fillstyle": "none", "color": "#b3382c"}
            axes.plot(flops[-1:], [self.refused.value], "o", label="refused", **size)
        axes.invert_xaxis()
        axes.set(xlabel="FLOPs kept, as a fraction", ylabel=self.metric)
        figure.legend(loc="outside upper right", ncols=5, frameon=False, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
        save_figure(figure, path)

    def __str__(self) -> str:
        first = self.rounds[0].plan
        rows = [["before", f"{first.flops:,}", f"{first.parameters:,}", "", "", f"{self.before:.4f}"]]
        marks = ["" if row.stage == "trained" else f", {row.stage}" for row in self.rounds]
        named = [
            (f"{number}{mark}", row) for number, (mark, row) in enumerate(zip(marks, self.rounds, strict=True), 1)
        ]
        named += [(f"{len(named) + 1}, refused", self.refused)] if self.refused else []
        for name, row in named:
            measured = (f"{getattr(row, stage):.4f}" for stage in STAGES)
            rows.append([name, f"{row.plan.flops_kept:,}", f"{row.plan.parameters_kept:,}", *measured])
        stages = [f"{self.metric} after removal", "after reconstruction", "after training"]
        text = table(["round", "FLOPs", "parameters", *stages], rows)
        groups = [f"Round {name}: {row.worst_group}." for name, row in named if row.worst_group]
        return "\n".join([text, *([""] if groups else []), *groups])
