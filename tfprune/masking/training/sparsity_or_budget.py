"""A budget in place of a sparsity: what training asks of it, and the check that there is one of the two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tfprune.allocation import Weight
from tfprune.base.spec import check_sparsity


@runtime_checkable
class MeetsBudget(Protocol):
    """What stands as `allocation` in place of a sparsity, and finds the sparsities itself: a `tfprune.Budget`."""

    @property
    def measure(self) -> Callable[..., float] | None:
        """Return the function that measures the latency of a model, or None."""

    def at(self, progress: float) -> MeetsBudget:
        """Return the budget part of the way, `progress` in [0, 1]."""

    def meet(
        self, weights: Sequence[Weight], keeping: Callable[..., np.ndarray], network: Any, model: Any
    ) -> np.ndarray:
        """Return which channels stay, as few removed as the limits allow."""


def check_sparsity_or_budget(sparsity: Any, allocation: Any) -> None:
    """Check that there is a sparsity or a budget, and not both.

    Raises:
        TypeError: If there is neither, or the sparsity is not a number.
        ValueError: If there are both, or the sparsity is outside [0, 1).
    """
    if isinstance(sparsity, MeetsBudget):
        raise TypeError(
            f"Expected `sparsity` to be a number. Received: sparsity={sparsity!r}. Pass it as allocation=."
        )
    if sparsity is None and not isinstance(allocation, MeetsBudget):
        raise TypeError(
            f"Expected a sparsity or a budget. Received: sparsity=None, allocation={allocation!r}. Pass the fraction "
            f"of zeros, in [0, 1), or allocation=tfprune.budget(...)."
        )
    if not isinstance(allocation, MeetsBudget):
        check_sparsity(sparsity, "sparsity")
    elif sparsity is not None:
        raise ValueError(
            f"Expected a sparsity or a budget, as either says how much to remove. Received: sparsity={sparsity!r} "
            f"and allocation={allocation!r}. Leave the sparsity out."
        )
