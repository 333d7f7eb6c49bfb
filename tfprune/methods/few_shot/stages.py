"""The stages of a run, each kept in a folder once it is done, so that a run that was killed goes on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from tfprune.base.progress import Progress
from tfprune.base.run_folder import NamedArrays, RunFolder
from tfprune.compact.shrinking.budget import Budget
from tfprune.compact.shrinking.shrink import shrink
from tfprune.compact.shrinking.shrink_plan import ShrinkPlan
from tfprune.criteria.facts import META
from tfprune.keras_models.evidence.episodes import Episodes
from tfprune.keras_models.evidence.meta_gradients import MetaGradients
from tfprune.keras_models.models.layers import as_numpy
from tfprune.methods.few_shot.channel_taxonomy import LEVELS
from tfprune.methods.few_shot.few_shot_report import FewShotRow, LevelRow
from tfprune.methods.few_shot.few_shot_stage import FewShotStage
from tfprune.methods.few_shot.learner import Learner
from tfprune.methods.few_shot.meta_training import Episodic, Lessons, optimizer_of
from tfprune.methods.few_shot.plan_stage import Planner, all_kept

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stages:
    """Carries stages out, or reads those that are done from a folder.

    Attributes:
        learner: How models learn from episodes.
        planner: Chooses the channels.
        tasks: The episodes to train on are drawn as these.
        validation_data: The episodes that accuracy is measured on.
        optimizer: The settings of the optimizer.
        callbacks: Further callbacks.
        folder: Where finished stages are kept.
        progress: A bar over the episodes.
    """

    learner: Learner
    planner: Planner
    tasks: Episodes
    validation_data: Episodes
    optimizer: dict[str, Any]
    callbacks: Sequence[keras.callbacks.Callback]
    folder: RunFolder
    progress: Progress

    def go(self, model: keras.Model, stages: Sequence[FewShotStage]) -> tuple[keras.Model, list[FewShotRow]]:
        """Return the model after the last stage, and an entry for each stage."""
        rows, network = [], all_kept(model).network
        # Fractions are of the first model.
        budgets = [
            stage.budget.in_rounds(1, network=network, model=model)[0]
            if isinstance(stage.budget, Budget)
            else stage.budget
            for stage in stages
        ]
        for number, (stage, budget) in enumerate(zip(stages, budgets, strict=True), start=1):
            model, row = self._carry_out(number, model, replace(stage, budget=budget))
            _log.info("stage %d: %s parameters, %.4f", number, row.plan.parameters_kept, row.trained)
            rows.append(row)
        return model, rows

    def _carry_out(self, number: int, current: keras.Model, stage: FewShotStage) -> tuple[keras.Model, FewShotRow]:
        """Return the model after the stage of this number, from 1, and what happened in it."""
        results: list[tuple[keras.Model, FewShotRow]] = []

        def carry_out() -> NamedArrays:
            results.append(self._stage(number, current, stage))
            smaller, row = results[0]
            numbers = np.array([row.complexity, row.removed, row.trained])
            levels = np.array([(level.channels, level.kept) for level in row.levels]).reshape(-1, 2)
            return {"keep": row.plan.keep, "numbers": numbers, "levels": levels, **_state(smaller)}

        def read(stored: NamedArrays) -> tuple[keras.Model, FewShotRow]:
            return results[0] if results else self._again(current, stage, stored)

        return self.folder.remember(f"stage_{number}", carry_out, read)

    def _stage(self, number: int, current: keras.Model, stage: FewShotStage) -> tuple[keras.Model, FewShotRow]:
        complexity = self.planner.complexity(current)
        plan, levels = self.planner.plan(current, stage.budget, complexity)
        smaller = shrink(current, plan)
        judge = Episodic(smaller, self.learner, self.validation_data)
        removed = trained = float(np.mean(judge.accuracies(self.validation_data)))
        if stage.episodes:
            Episodic(smaller, self.learner, self.tasks).train(
                Lessons(self.tasks, stage.episodes, number),
                optimizer_of(self.optimizer, stage.learning_rate),
                number=number,
                callbacks=self.callbacks,
                progress=self.progress,
            )
            trained = float(np.mean(judge.accuracies(self.validation_data)))
        plan = replace(plan, planned_copy=None)  # the report would keep the copy alive
        return smaller, FewShotRow(plan, complexity, removed, trained, _rows(_counts(plan, levels)))

    def _again(
        self, current: keras.Model, stage: FewShotStage, stored: NamedArrays
    ) -> tuple[keras.Model, FewShotRow]:
        """Return the model of a stage that was done before."""
        plan = replace(all_kept(current), keep=stored["keep"])
        smaller = shrink(current, plan)
        _set_state(smaller, stored)
        self.progress.add(stage.episodes)
        complexity, removed, trained = map(float, stored["numbers"])
        plan = replace(plan, planned_copy=None)
        return smaller, FewShotRow(plan, complexity, removed, trained, _rows(stored["levels"]))


def _counts(plan: ShrinkPlan, levels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the channels of each level, the highest first, and how many of them stay, (levels, 2); or nothing."""
    groups = [group for group in plan.network.groups if group.name in levels]
    if not groups:
        return np.zeros((0, 2), dtype=int)
    all_levels = np.concatenate([levels[group.name] for group in groups])
    keep = np.concatenate([plan.keep[group.bundles] for group in groups])
    return np.array(
        [((all_levels == level).sum(), keep[all_levels == level].sum()) for level in range(len(LEVELS))][::-1]
    )


def _rows(counts: np.ndarray) -> tuple[LevelRow, ...]:
    pairs = zip(LEVELS[::-1], counts.tolist(), strict=False)
    return tuple(LevelRow(level, channels, kept) for level, (channels, kept) in pairs)


def _state(model: keras.Model) -> NamedArrays:
    """Return the weights of a model and the norms of its meta-gradients, by the names in a file."""
    norms = {index: getattr(each, META, None) for index, each in enumerate(model.trainable_variables)}
    recorded = {f"norms_{index}": each for index, each in norms.items() if each is not None}
    return {f"variable_{index}": as_numpy(each) for index, each in enumerate(model.variables)} | recorded


def _set_state(model: keras.Model, stored: NamedArrays) -> None:
    for index, variable in enumerate(model.variables):
        variable.assign(stored[f"variable_{index}"])
    norms = [stored[name] if (name := f"norms_{index}") in stored else None for index in range(len(model.variables))]
    if any(each is not None for each in norms):
        MetaGradients(model).take(norms)
