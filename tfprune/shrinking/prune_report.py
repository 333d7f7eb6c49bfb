"""What `prune_to` did in each round."""

from __future__ import annotations

from dataclasses import dataclass

from tfprune.report import Report, table
from tfprune.shrinking.shrink_plan import ShrinkPlan

STAGES = ("removed", "reconstructed", "trained")


@dataclass(frozen=True, eq=False)
class Round(Report):
    """One round of `prune_to`.

    Attributes:
        plan: What was removed.
        removed: The metric right after the removal.
        reconstructed: The metric after reconstruction.
        trained: The metric of the smaller model after training.
    """

    plan: ShrinkPlan
    removed: float
    reconstructed: float
    trained: float


@dataclass(frozen=True, eq=False)
class PruneReport(Report):
    """What `prune_to` has done; prints as a table.

    Attributes:
        metric: What was measured.
        before: Its value for the model given.
        rounds: One entry per round.

    Example:
        >>> import keras, numpy, tfprune
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(4)])
        >>> model.compile("sgd", "mse")
        >>> data = numpy.ones((16, 8)), numpy.ones((16, 4))
        >>> small, report = tfprune.prune_to(model, tfprune.budget(parameters=0.5), data, rounds=1, verbose=0)
        >>> report.metric, len(report.rounds)
        ('loss', 1)
    """

    metric: str
    before: float
    rounds: tuple[Round, ...]

    def __str__(self) -> str:
        first = self.rounds[0].plan
        rows = [["before", f"{first.flops:,}", f"{first.parameters:,}", "", "", f"{self.before:.4f}"]]
        for number, done in enumerate(self.rounds, 1):
            measured = (f"{getattr(done, stage):.4f}" for stage in STAGES)
            rows.append([f"{number}", f"{done.plan.flops_kept:,}", f"{done.plan.parameters_kept:,}", *measured])
        return table(["round", "FLOPs", "parameters", *(f"{self.metric}, {stage}" for stage in STAGES)], rows)
