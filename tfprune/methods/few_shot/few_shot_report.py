"""The report of `prune_few_shot`: what each stage removed, cost and brought back, and the paper's metrics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tfprune.base.spec import check_number
from tfprune.compact.shrinking.shrink_plan import ShrinkPlan
from tfprune.methods.few_shot.channel_taxonomy import LEVELS
from tfprune.report import Report, table


@dataclass(frozen=True)
class LevelRow(Report):
    """The channels of one level of the taxonomy.

    Attributes:
        level: "protected", "partly" or "prunable".
        channels: Their number before the stage.
        kept: How many remain.
    """

    level: str
    channels: int
    kept: int


@dataclass(frozen=True, eq=False)
class FewShotRow(Report):
    """One stage of `prune_few_shot`.

    Attributes:
        plan: What was removed.
        complexity: The complexity of the tasks before the removal, from 0 to 2: 1 minus the mean cosine of the class
            means.
        removed: The mean accuracy right after the removal.
        trained: The mean accuracy after meta-training.
        levels: The channels by their level in the taxonomy; empty without one.
    """

    plan: ShrinkPlan
    complexity: float
    removed: float
    trained: float
    levels: tuple[LevelRow, ...] = ()


@dataclass(frozen=True, eq=False)
class FewShotReport(Report):
    """What each stage of `prune_few_shot` removed, cost and brought back; prints as a table.

    Attributes:
        before: The mean accuracy of the model given.
        stages: One entry for each stage.
        accuracies: The accuracy of the model returned on each episode of the validation.
        later: Its mean accuracy on the later episodes; None without them.

    Example:
        >>> report = FewShotReport(0.9, (), accuracies=(0.8, 0.6), later=0.56)
        >>> round(report.accuracy, 3), round(report.stability, 3), round(report.stage_generalization, 3)
        (0.7, 0.857, 0.8)
    """

    JSON_NAMES = ("before", "stages", "accuracy", "stability", "stage_generalization")

    before: float
    stages: tuple[FewShotRow, ...]
    accuracies: tuple[float, ...]
    later: float | None = None

    @property
    def accuracy(self) -> float:
        """The mean accuracy of the model returned."""
        return float(np.mean(self.accuracies))

    @property
    def stability(self) -> float:
        """The few-shot stability index (FSI): 1 minus the standard deviation over episodes divided by their mean."""
        return float(1 - np.std(self.accuracies) / max(self.accuracy, np.finfo(float).tiny))

    @property
    def stage_generalization(self) -> float | None:
        """The cross-stage generalization (CSG): accuracy on the later episodes divided by that on the others."""
        return None if self.later is None else self.later / max(self.accuracy, np.finfo(float).tiny)

    def deployment_efficiency(self, *, fps: float, energy: float) -> float:
        """Return the deployment efficiency score (DES): accuracy * fps / (parameters * energy).

        Compare it only between models that were measured on one device: the paper does not give its units.

        Args:
            fps: Inferences per second, measured on the device, above 0.
            energy: Energy of an inference, in a unit of your choice, above 0.

        Raises:
            TypeError: If a number is not one.
            ValueError: If it is not above 0, or there was no stage.

        Returns:
            The score, with the parameters in millions.
        """
        if not self.stages:
            raise ValueError("Expected a report of at least one stage, which counts parameters. Received: none.")
        speed, cost = check_number(fps, "fps", above=0), check_number(energy, "energy", above=0)
        return self.accuracy * speed / (self.stages[-1].plan.parameters_kept / 1e6 * cost)

    def __str__(self) -> str:
        rows = [["before", "", "", "", "", f"{self.before:.1%}"]]
        for number, row in enumerate(self.stages, start=1):
            sizes = [f"{row.plan.parameters_kept:,}", f"{row.plan.flops_kept:,}"]
            rows.append([str(number), *sizes, f"{row.complexity:.3f}", f"{row.removed:.1%}", f"{row.trained:.1%}"])
        parts = [table(["stage", "parameters", "FLOPs", "complexity", "removed", "trained"], rows)]
        lines = [
            [number, *(f"{level.kept} of {level.channels}" for level in row.levels)]
            for number, row in enumerate(self.stages, start=1)
            if row.levels
        ]
        if lines:
            parts.append(table(["stage, channels kept", *LEVELS[::-1]], lines))
        generalization = "" if self.later is None else f", cross-stage generalization {self.stage_generalization:.3f}"
        parts.append(f"stability over {len(self.accuracies)} episodes {self.stability:.3f}{generalization}")
        return "\n\n".join(parts)
