"""Prune, meta-train, prune again, fine-tune: one model for each way to choose channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

import tfprune
from sample_apps.few_shot.networks import embedding_of
from tfprune.allocation import LayerThreshold
from tfprune.criteria import DACIS, ClassMoments, Random

METHODS = ("DACIS", "DACIS, equal widths", "magnitude", "random")
GAMMA = 0.1  # how much the gradients of meta-training count at the second pruning


@dataclass(frozen=True)
class Stage:
    """How far a stage goes: parameters to keep of the dense model, and episodes to train on afterwards."""

    keep: float
    episodes: int


def pruned(
    model: keras.Model, parameters: int, *, method: str, tasks: Any, loss: Callable, seed: int, is_trained: bool
) -> keras.Model:
    """Return a model without the channels that score lowest, of so many parameters at most.

    Args:
        model: The model.
        parameters: The number to keep.
        method: One of `METHODS`.
        tasks: Episodes, whose support sets and queries are the evidence of DACIS.
        loss: The loss of an episode.
        seed: The seed of the random criterion.
        is_trained: Whether outer steps have been recorded on this model.
    """
    criterion: Any = {"magnitude": "magnitude", "random": Random(seed)}.get(method)
    evidence, base = {}, "uniform"
    if criterion is None:
        criterion = DACIS(meta=GAMMA if is_trained else 0.0)
        evidence = {"data": tasks, "loss": loss}
    if method == "DACIS":
        base = LayerThreshold(complexity=complexity(model, tasks))
    budget = tfprune.budget(parameters=parameters, base=base)
    return tfprune.shrink(model, tfprune.plan_shrink(model, criterion=criterion, allocation=budget, **evidence))


def complexity(model: keras.Model, tasks: Any) -> float:
    """Return how much the class means of an episode differ, on average."""
    embedding, found = embedding_of(model), []
    for task in tasks:
        values = embedding.predict_on_batch(task.x)
        moments = ClassMoments(values.shape[1])
        moments.add(values, task.classes)
        found.append(moments.complexity())
    return float(np.mean(found))
