"""Plan of `plan_transformer`: the steps, what each saves, and the loss after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras

from tfprune.report import Report, table


@dataclass(frozen=True)
class TransformerStep(Report):
    """A step of a plan.

    Attributes:
        part: What it removes from: "blocks", "experts", "heads", "units", "vocabulary" or "width".
        removed: What is removed after it, in words.
        costs: What the model costs after it, by the name of the limit.
        saved: What it saves, by the name of the limit.
        loss: The loss after it.
    """

    part: str
    removed: str
    costs: dict[str, float]
    saved: dict[str, float]
    loss: float


@dataclass(frozen=True)
class PartAlone(Report):
    """The loss of the model that meets the budget by one kind of parts.

    Attributes:
        part: The kind.
        loss: The loss on the calibration data; None if it cannot meet the budget.
        costs: What that model costs, by the name of the limit; empty if it cannot meet the budget.
        levels: How many steps of each kind it has; empty if it cannot meet the budget.
    """

    part: str
    loss: float | None
    costs: dict[str, float]
    levels: dict[str, int]


@dataclass(frozen=True)
class TransformerPlan(Report):
    """Which parts of a transformer to remove, to meet a budget.

    Attributes:
        steps: The steps, in the order in which they were chosen.
        costs: What the model costs before, by the name of the limit.
        targets: What it may cost, by the name of the limit.
        loss: The loss of the model before.
        alone: For each kind of parts, the loss of the model that meets the budget by it alone.
        levels: How many steps of each kind the plan has.

    Example:
        >>> step = TransformerStep("blocks", "block 2", {"bytes": 60.0}, {"bytes": 40.0}, 0.25)
        >>> print(TransformerPlan((step,), {"bytes": 100.0}, {"bytes": 70.0}, 0.0, (), {"blocks": 1}))
        step  part    removed  bytes  saved    loss
        ----  ------  -------  -----  -----  ------
                                 100         0.0000
        1     blocks  block 2     60     40  0.2500
        <BLANKLINE>
        The budget: bytes of 70.
    """

    JSON_NAMES = ("steps", "costs", "targets", "loss", "alone", "levels")

    steps: tuple[TransformerStep, ...]
    costs: dict[str, float]
    targets: dict[str, float]
    loss: float
    alone: tuple[PartAlone, ...]
    levels: dict[str, int]
    builder: Callable[[], tuple[keras.Model, Any]] | None = field(default=None, compare=False, repr=False)

    def build(self) -> tuple[keras.Model, Any]:
        """Build the smaller model.

        Returns:
            The model, uncompiled and without masks; of the same class where its arguments or its layers can have the
            new sizes, else Functional. And its tokenizer, None if the plan removes no tokens.

        Raises:
            ValueError: If the plan was made by hand or read from JSON.
        """
        if self.builder is None:
            raise ValueError(
                "Expected a plan of tfprune.plan_transformer. Received: a plan without its model. Plan again."
            )
        return self.builder()

    def __str__(self) -> str:
        names = list(self.targets)

        def cells(values: dict[str, float]) -> list[str]:
            return [f"{values[name]:,.0f}" for name in names]

        lines = [["", "", "", *cells(self.costs), *[""] * len(names), f"{self.loss:.4f}"]]
        for number, step in enumerate(self.steps, 1):
            lines.append(
                [str(number), step.part, step.removed, *cells(step.costs), *cells(step.saved), f"{step.loss:.4f}"]
            )
        saved = ["saved"] if len(names) == 1 else [f"{name} saved" for name in names]
        text = table(["step", "part", "removed", *names, *saved, "loss"], lines, left=3)
        limits = " and ".join(f"{name} of {self.targets[name]:,.0f}" for name in names)
        return f"{text}\n\nThe budget: {limits}.{self._alone()}"

    def _alone(self) -> str:
        if not self.alone:
            return ""
        lines = [
            [row.part, *(f"{row.costs[name]:,.0f}" if row.costs else "" for name in self.targets), _loss(row.loss)]
            for row in self.alone
        ]
        return "\n\n" + table(["one kind alone", *self.targets, "loss"], lines)


def _loss(loss: float | None) -> str:
    return "cannot meet it" if loss is None else f"{loss:.4f}"
