"""The start of a fit: its steps, and what it warns of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from tfprune.masking.training.check_before_training import NOTICEABLE
from tfprune.schedules import Schedule

_FEWEST_RISES = 3  # with fewer, a schedule is a jump
_ADVISED_RISES = 5


def steps_of_fit(timed: Any, params: Mapping[str, Any], *, first: int, epoch: int, accumulated: int) -> Any:
    """Return a schedule, or another value with `resolve`, with its fractions of a fit turned into steps.

    Args:
        timed: The value, with `begin` or `end`.
        params: What Keras tells a callback of the fit.
        first: The step at which training starts.
        epoch: The epoch at which training starts.
        accumulated: The number of batches per optimizer update.

    Raises:
        ValueError: If there are fractions, and the number of steps per epoch is unknown.
    """
    if not any(isinstance(getattr(timed, name, None), float) for name in ("begin", "end")):
        return timed
    batches = params.get("steps")
    if batches is None:
        raise ValueError(
            f"Expected the number of steps per epoch to be known, because {timed!r} has fractions of the fit. "
            f"Pass steps_per_epoch to fit, or give begin and end as ints."
        )
    return timed.resolve(params["epochs"] * batches // accumulated, first=first - epoch * batches // accumulated)


def schedule_slips(schedule: Schedule, resolved: Schedule, *, every: int, first: int) -> Iterator[str]:
    """Yield a warning for each thing that makes a schedule prune at once where it should prune gradually.

    Args:
        schedule: The schedule of the user.
        resolved: The same in steps.
        every: Steps between mask updates.
        first: The step at which training starts.
    """
    begin, end = resolved.begin, resolved.end
    if end is None or first >= end:
        return
    if schedule.end == 1 and not isinstance(schedule.end, float):
        yield "The pruning schedule ends after the first step: end=1 is one step. For the whole fit pass end=1.0."
    steps, initial, final = int(end - begin), resolved(int(begin)), resolved.target
    rises = math.ceil(steps / every)
    if rises < _FEWEST_RISES and steps >= _ADVISED_RISES and final - initial > NOTICEABLE:
        yield (
            f"every={every} raises the sparsity only {'once' if rises == 1 else 'twice'} in this schedule of {steps} "
            f"steps, from {initial:.4g} to {final:.4g}. To raise it gradually, pass every={steps // _ADVISED_RISES}."
        )


def ended_before(first: int, *, end: float, sparsity: float, target: float) -> str:
    """Return the warning that the schedule had ended before training started."""
    return (
        f"The pruning schedule ended at step {end}, and training starts at step {first} (counted by "
        f"model.optimizer.iterations): the sparsity stays at {sparsity:.4f} instead of {target:.4f}. Begin the "
        f"schedule at step {first} or later."
    )


def came_back(step: int, *, before: float, sparsity: float) -> str:
    """Return the warning that the first mask update brought pruned weights back."""
    return (
        f"The model was sparser than the schedule says, and pruned weights came back: {before:.4f} before this fit, "
        f"{sparsity:.4f} at step {step}. Steps are counted by model.optimizer.iterations, which starts at 0 again "
        f"when the model is compiled. To keep the sparsity pass Constant({before:.4g}), to go on from it "
        f"Polynomial(..., initial={before:.4g})."
    )
