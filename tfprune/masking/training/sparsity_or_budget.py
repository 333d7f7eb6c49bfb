"""A budget in place of a sparsity: what training asks of it, and the check that only one of the two splits it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tfprune.allocation import Weight
from tfprune.base.spec import check_sparsity


@runtime_checkable
class MeetsBudget(Protocol):
    """An object that replaces a sparsity and finds the sparsities itself: the result of `tfprune.budget`."""

    @property
    def measure(self) -> Callable[..., float] | None:
        """Return the function that measures the latency of a model, or None."""

    def at(self, progress: float) -> MeetsBudget:
        """Return the budget part of the way, `progress` in [0, 1]."""

    def meet(
        self, weights: Sequence[Weight], keeping: Callable[..., np.ndarray], network: Any, model: Any
    ) -> np.ndarray:
        """Return which channels stay, as few removed as the limits allow."""


def check_sparsity_or_budget(sparsity: Any, allocation: Any, *, others: tuple[type, ...] = ()) -> None:
    """Check that there is a sparsity, or a value that finds the sparsities and comes without another allocation.

    Args:
        sparsity: A number, a budget, or a value of another type that finds the sparsities.
        allocation: How a number is split.
        others: These other types.

    Raises:
        TypeError: If the sparsity is not a number, or a budget is passed as the allocation.
        ValueError: If the sparsity is outside [0, 1), or a budget comes with an allocation.
    """
    if isinstance(allocation, MeetsBudget):
        raise TypeError(
            f"Expected `allocation` to split a sparsity. Received: allocation={allocation!r}. Pass the budget in "
            f"place of the sparsity: plan_shrink(model, budget), update_masks(model, budget) or "
            f"PruningCallback(schedule, budget=budget)."
        )
    if not isinstance(sparsity, (MeetsBudget, *others)):
        check_sparsity(sparsity, "sparsity")
    elif allocation != "uniform":
        raise ValueError(
            f"Expected no `allocation` beside a budget or thresholds, which split the sparsity themselves. Received: "
            f"allocation={allocation!r}. Pass budget(..., allocation=...)."
        )


def check_training_budget(budget: Any, allocation: Any) -> None:
    """Check the budget of a `PruningCallback`, None or one that takes no measurement.

    Raises:
        TypeError: If it is not a budget, or is passed as the allocation.
        ValueError: If it comes with an allocation, or a latency would be measured.
    """
    if budget is not None and not isinstance(budget, MeetsBudget):
        raise TypeError(f"Expected `budget` to be a tfprune.budget(...). Received: budget={budget!r}.")
    check_sparsity_or_budget(0.0 if budget is None else budget, allocation)
    if budget is not None and budget.measure is not None:
        raise ValueError(
            f"Expected a budget that is computed, of flops, parameters or bytes. Received: budget={budget!r}; to "
            f"measure at each update would take longer than training. Measure once, before training: "
            f"allocation=tfprune.plan_shrink(model, budget(latency=...)).allocation()."
        )
