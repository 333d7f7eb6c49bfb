"""Refuse before training starts what a mask update would refuse in the middle of it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfprune.allocation import Weight, allocate
from tfprune.base.spec import check_sparsity
from tfprune.masking.training.coupled_groups import coupled_groups
from tfprune.masking.wrapping.pruned import Pruned
from tfprune.masking.wrapping.pruned_layers import pruned_layers
from tfprune.patterns import Pattern
from tfprune.schedules import Schedule

_WITHOUT_SCORES = ("uniform", "erk")  # other allocations split by scores, which training changes


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
    rules = allocation
    if isinstance(allocation, Mapping):
        rules = {path: rule.target if isinstance(rule, Schedule) else rule for path, rule in allocation.items()}
    elif not isinstance(allocation, str) or allocation not in _WITHOUT_SCORES:
        return
    weights, patterns = _weights(model)
    for weight, share in zip(weights, allocate(rules, weights, target), strict=True):
        try:
            if share is not None and weight.path in patterns:
                patterns[weight.path].check(share)
        except ValueError as error:
            raise ValueError(f"{weight.path} cannot be pruned as far as {schedule!r} asks. {error}") from error


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
