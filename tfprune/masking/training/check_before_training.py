"""Refuse before training starts what a mask update would refuse in the middle of it, and find frozen weights."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.allocation import Weight, allocate, check_allocation
from tfprune.base.spec import check_sparsity
from tfprune.masking.training.coupled_groups import coupled_groups
from tfprune.masking.wrapping.masked_weights import count_kept
from tfprune.masking.wrapping.pruned import Pruned
from tfprune.masking.wrapping.pruned_layers import pruned_layers, wrappers
from tfprune.patterns import Pattern
from tfprune.schedules import Schedule

_WITHOUT_SCORES = ("uniform", "erk")  # other allocations split by scores, which training changes
NOTICEABLE = 1e-4  # fraction of zeros; among millions of random weights some are zero by chance


def check_before_training(model: keras.layers.Layer, *, schedule: Schedule, allocation: Any) -> None:
    """Refuse a schedule whose end the patterns of a model cannot reach, and rules that match none of its weights.

    Args:
        model: A model with `Pruned` layers; frozen layers count, because they may be trained later.
        schedule: The schedule, in steps.
        allocation: As in `PruningCallback`, with the steps of its schedules as ints.

    Raises:
        ValueError: If a pattern cannot reach the sparsity of its weight, or a rule matches no weight.
    """
    target = check_sparsity(schedule.target, "schedule.target")
    if not isinstance(allocation, Mapping) and allocation not in _WITHOUT_SCORES:
        return
    weights, patterns = _weights(model)
    for weight, share in zip(weights, allocate(weights, target, _at_the_end(allocation)), strict=True):
        try:
            if share is not None and weight.path in patterns:
                patterns[weight.path].check(share)
        except ValueError as error:
            raise ValueError(f"{weight.path} cannot be pruned as far as {schedule!r} asks. {error}") from error


def check_schedule(value: Any, argument: str) -> Schedule:
    """Return `value`, a schedule that has a window.

    Raises:
        TypeError: If it is not a schedule, or lacks `begin` or `end`.
    """
    if not isinstance(value, Schedule):
        advice = ""
        if isinstance(value, type) and issubclass(value, Schedule):
            advice = f" Did you mean {value.__name__}(...)?"
        elif hasattr(value, "_should_prune_in_step"):  # which each schedule of tfmot inherits
            advice = " Pass UpdatePruningStep() instead, if prune_low_magnitude wrapped the layers with a schedule."
        raise TypeError(
            f"Expected a schedule, such as tfprune.schedules.Polynomial(0.9, end=1000). Received: "
            f"{argument}={value!r} of type {type(value).__name__}.{advice}"
        )
    missing = [name for name in ("begin", "end") if not hasattr(value, name)]
    if missing:
        raise TypeError(
            f"Expected a schedule with the fields `begin` and `end`. Received: {argument}, a {type(value).__name__} "
            f"without {' and '.join(missing)}. Make the class a frozen dataclass that has them."
        )
    return value


def check_rules(allocation: Any) -> None:
    """Refuse everything but an allocation whose rules are sparsities, schedules or None.

    Raises:
        TypeError, ValueError: If it is not an allocation, or a rule is something else.
    """
    check_allocation(allocation)
    for pattern, value in allocation.items() if isinstance(allocation, Mapping) else ():
        if isinstance(value, Schedule):
            check_schedule(value, f"allocation[{pattern!r}]")
        elif value is not None:
            check_sparsity(value, f"allocation[{pattern!r}]")


def _at_the_end(allocation: Any) -> Any:
    """Return an allocation with the targets of its schedules in their place."""
    if not isinstance(allocation, Mapping):
        return allocation
    return {path: rule.target if isinstance(rule, Schedule) else rule for path, rule in allocation.items()}


@dataclass(frozen=True)
class FrozenWeights:
    """Weights under masks that a fit cannot prune, because they are frozen.

    Attributes:
        paths: Those that have fewer zeros than the schedule ends with.
        count: How many weights are under masks, these included.
        reach: The sparsity that the model can reach, in [0, 1); None where channels go together.
        target: The sparsity that it would end with if nothing were frozen; None likewise.
    """

    paths: tuple[str, ...]
    count: int
    reach: float | None
    target: float | None

    def at_start(self) -> str:
        """Return the warning before training."""
        reach = "Their channels stay" if self.reach is None else f"This fit can reach a sparsity of {self.reach:.4f}"
        instead = "" if self.target is None else f" instead of {self.target:.4f}"
        return (
            f"Frozen layers get no zeros: {self._listed()}. {reach}{instead}. To prune them, set trainable=True on "
            f"their layers and compile again; or leave them out by `filters` of tfprune.wrap."
        )

    def at_end(self, sparsity: float) -> str:
        """Return the warning after training, with the sparsity that the model has then."""
        instead = "" if self.target is None else f" instead of {self.target:.4f}"
        return (
            f"Training ended at a sparsity of {sparsity:.4f}{instead}, because frozen layers got no zeros: "
            f"{self._listed()}."
        )

    def _listed(self) -> str:
        listed = ", ".join(self.paths[:5]) + (", ..." if len(self.paths) > 5 else "")
        return f"{listed} ({len(self.paths)} of {self.count} weights under masks)"


def frozen_weights(model: keras.layers.Layer, *, schedule: Schedule, allocation: Any) -> FrozenWeights | None:
    """Return the frozen weights that a schedule would give more zeros; None if there are none.

    Args:
        model: As in `check_before_training`, as are the others.
        schedule: The schedule.
        allocation: The allocation.
    """
    layers = wrappers(model)
    kernels = {f"{path}/{name}": (layer, name) for path, layer in layers for name in layer.kernels}
    frozen = {path for path, (layer, name) in kernels.items() if name not in layer.trained()}
    if not frozen:
        return None
    weights = [
        Weight(path, tuple(layer.kernels[name].variable.shape), functools.partial(no_scores, layer, name))
        for path, (layer, name) in kernels.items()
    ]
    rules = _at_the_end(allocation) if isinstance(allocation, Mapping) else "uniform"
    shares = allocate(weights, schedule.target, rules)
    before = [
        1 - count_kept(layer.kernels[name].variable, layer.masks[name]) / weight.size
        for weight, (layer, name) in zip(weights, kernels.values(), strict=True)
    ]
    rows = [
        (weight, zeros, zeros if share is None else share)
        for weight, zeros, share in zip(weights, before, shares, strict=True)
    ]
    short = tuple(w.path for w, zeros, share in rows if w.path in frozen and zeros < share - NOTICEABLE)
    if not short:
        return None
    if any(layer.pattern.kind for _, layer in layers):
        return FrozenWeights(short, len(weights), None, None)
    size = sum(weight.size for weight in weights)
    reach = sum(w.size * (zeros if w.path in frozen else share) for w, zeros, share in rows) / size
    return FrozenWeights(short, len(weights), reach, sum(w.size * share for w, _, share in rows) / size)


def _weights(model: keras.layers.Layer) -> tuple[list[Weight], dict[str, Pattern]]:
    """Return the weights that a sparsity is split over, and the pattern of each that has its own."""
    layers = pruned_layers(model)
    together = coupled_groups(model, layers=[layer for _, layer in layers], scores=no_scores)
    coupled = together.layers if together else set()
    alone = {
        f"{path}/{name}": (layer.pattern, tuple(kernel.variable.shape))
        for path, layer in layers
        if layer not in coupled
        for name, kernel in layer.kernels.items()
    }
    weights = [Weight(path, shape, functools.partial(np.zeros, shape)) for path, (_, shape) in alone.items()]
    return weights + (together.weights() if together else []), {path: pattern for path, (pattern, _) in alone.items()}


def no_scores(layer: Pruned, name: str) -> np.ndarray:
    return np.zeros(layer.kernels[name].matrix_shape)
