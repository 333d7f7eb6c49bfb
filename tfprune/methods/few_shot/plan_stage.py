"""Plan which channels a stage removes: scores from episodes, the taxonomy, and a budget or thresholds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from tfprune.allocation import LayerThreshold, Weight
from tfprune.compact.shrinking.budget import Budget
from tfprune.compact.shrinking.plan_shrink import plan_shrink
from tfprune.compact.shrinking.shrink_plan import ShrinkPlan
from tfprune.criteria import DACIS, Criterion
from tfprune.criteria.facts import META
from tfprune.keras_models.evidence.episodes import Episodes
from tfprune.methods.few_shot.channel_taxonomy import ChannelTaxonomy, LevelOf, guarded
from tfprune.methods.few_shot.meta_training import query_loss, task_complexity

StageBudget = Budget | LayerThreshold


@dataclass(frozen=True)
class Planner:
    """Makes the plans of a run.

    Attributes:
        tasks: The episodes that scores and complexity are computed of.
        criterion: How important a channel is.
        taxonomy: Which channels go last; None ranks by scores alone.
        embedding: Returns the part of a model whose outputs are compared between classes.
    """

    tasks: Episodes
    criterion: Criterion
    taxonomy: ChannelTaxonomy | None
    embedding: Callable[[keras.Model], keras.Model]

    def complexity(self, model: keras.Model) -> float:
        """Return the complexity of the tasks, as a model sees them."""
        return task_complexity(self.embedding(model), self.tasks)

    def plan(
        self, model: keras.Model, budget: StageBudget | None, complexity: float
    ) -> tuple[ShrinkPlan, dict[str, np.ndarray]]:
        """Return a plan, and the level of the channels of each group, where there is a taxonomy."""
        levels = self._levels(model)
        if budget is None:
            return all_kept(model), levels
        budget = _with_complexity(budget, complexity)
        criterion, evidence = self._criterion_for(model)
        if not levels:
            return plan_shrink(model, budget, criterion=criterion, verbose=0, **evidence), {}
        scores = guarded(_by_group(model, criterion, evidence), levels)
        return plan_shrink(model, budget, criterion=scores, verbose=0), levels

    def _levels(self, model: keras.Model) -> dict[str, np.ndarray]:
        if self.taxonomy is None:
            return {}
        by_group = _by_group(model, LevelOf(self.taxonomy), {"data": self.tasks})
        # Of tied channels, all get the higher level.
        return {name: np.ceil(values).astype(np.int64) for name, values in by_group.items()}

    def _criterion_for(self, model: keras.Model) -> tuple[Criterion, dict[str, Any]]:
        """Return the criterion of a model, without meta-gradients where none were recorded, and its evidence."""
        criterion = self.criterion
        if isinstance(criterion, DACIS) and not any(hasattr(each, META) for each in model.trainable_variables):
            criterion = replace(criterion, meta=0.0)
        facts = criterion.needed_facts()
        evidence: dict[str, Any] = {"data": self.tasks} if any(fact.needs_data for fact in facts) else {}
        if any(fact.needs_loss for fact in facts):
            evidence["loss"] = query_loss(self.tasks)
        return criterion, evidence


def all_kept(model: keras.Model) -> ShrinkPlan:
    """Return a plan that removes nothing."""
    return plan_shrink(model, 0.0, verbose=0)


def _with_complexity(budget: StageBudget, complexity: float) -> StageBudget:
    """Return a budget whose thresholds depend on the complexity of the task."""
    if isinstance(budget, LayerThreshold):
        return replace(budget, complexity=complexity)
    if isinstance(budget.allocation, LayerThreshold):
        return replace(budget, allocation=replace(budget.allocation, complexity=complexity))
    return budget


def _by_group(model: keras.Model, criterion: Criterion, evidence: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the scores of the channels of each group that may lose some."""
    scores: dict[str, np.ndarray] = {}

    def listen(weights: Sequence[Weight], sparsity: float) -> list[float]:
        scores.update({weight.path: weight.scores() for weight in weights})
        return [sparsity] * len(weights)

    plan_shrink(model, 0.0, criterion=criterion, allocation=listen, verbose=0, **evidence)
    return scores
