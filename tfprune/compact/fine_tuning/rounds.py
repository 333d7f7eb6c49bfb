"""The rounds of a run, each kept in a folder once it is done, so that a run that was killed goes on."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from tfprune.base.progress import Progress
from tfprune.base.run_folder import NamedArrays, RunFolder
from tfprune.compact.fine_tuning.metric_guard import MetricGuard
from tfprune.compact.fine_tuning.prune_report import STAGES, PruneReport, Round
from tfprune.compact.fine_tuning.trainer import Trainer
from tfprune.compact.reconstruction.reconstruct import reconstruct_in_place
from tfprune.compact.shrinking.budget import Budget
from tfprune.compact.shrinking.shrink import build_smaller, shrink
from tfprune.compact.shrinking.shrink_plan import ShrinkPlan, flat_copy_for
from tfprune.keras_models.models.batches import Batch
from tfprune.keras_models.models.layers import as_numpy

_log = logging.getLogger(__name__)
Target = Budget | ShrinkPlan
Planned = Callable[[keras.Model, Target | None], ShrinkPlan]


class Rounds:
    """Carries rounds out, or takes them from a folder where they are done.

    Args:
        planned: Makes the plan for a model and a target; without one, nothing goes.
        seen: The samples that weights are reconstructed on.
        reconstruction: As in `reconstruct`.
        guard: Measures the models.
        trainer: Trains them.
        folder: Where finished rounds are kept.
        progress: A bar, with the stages of a round and the steps of its training.
    """

    def __init__(
        self,
        planned: Planned,
        seen: Sequence[Batch],
        *,
        reconstruction: str,
        guard: MetricGuard,
        trainer: Trainer,
        folder: RunFolder,
        progress: Progress,
    ) -> None:
        self._planned, self._inputs = planned, [batch.x for batch in seen]
        self._reconstruction = reconstruction
        self._guard, self._trainer, self._folder, self._progress = guard, trainer, folder, progress
        # Rounds that can be repeated after a kill need random numbers that can be.
        self._seed = self._new_seed() if folder.is_kept else None

    def _new_seed(self) -> int:
        def draw() -> NamedArrays:
            return {"seed": np.array(random.randrange(2**31))}

        return self._folder.remember("seed", draw, lambda arrays: int(arrays["seed"]))

    def go(self, model: keras.Model, targets: Sequence[Target]) -> tuple[keras.Model, PruneReport]:
        """Carry out one round after the other, as long as the drop allows.

        Raises:
            ValueError: If the first of them costs more.
        """
        current, rows, refused = model, [], None
        for number, target in enumerate(targets, 1):
            smaller, row = self._carry_out(number, current, target)
            row = replace(row, worst_group=self._guard.worst_group(smaller))
            if not self._guard.allows(row.value, row.worst_group):
                refused = row
                break
            current = smaller
            rows.append(row)
        if not rows:
            raise ValueError(self._nothing_within(refused, len(targets)))
        return current, PruneReport(self._guard.metric, self._guard.before, tuple(rows), refused)

    def _nothing_within(self, first: Any, count: int) -> str:
        guard = self._guard
        if guard.allows(first.value):
            limit, loss = "keeps the limit of each class and group", f"{first.worst_group} after it"
        else:
            limit = f"costs at most max_drop={guard.max_drop:g}"
            lost = guard.drop(first.value)
            loss = f"a {guard.metric} of {first.value:.4f} after it, worse by {lost:.4f} than before"
        return (
            f"Expected a first round that {limit}. Received: {loss}, with "
            f"{first.plan.flops_kept / first.plan.flops:.0%} of the FLOPs. Take more rounds than {count}, so "
            f"that less goes at once, train longer, or allow more."
        )

    def _carry_out(self, number: int, current: keras.Model, target: Target) -> tuple[keras.Model, Round]:
        """Return the smaller model after the round of this number, from 1, and what happened in it."""
        results: list[tuple[keras.Model, Round]] = []

        def carry_out() -> NamedArrays:
            results.append(self._round(number, current, target))
            smaller, row = results[0]
            stages = np.array([getattr(row, stage) for stage in STAGES])
            return {"keep": row.plan.keep, "stages": stages, "stage": np.array(row.stage), **_state(smaller)}

        def read(stored: NamedArrays) -> tuple[keras.Model, Round]:
            return results[0] if results else self._again(current, target, stored)

        smaller, row = self._folder.remember(f"round_{number}", carry_out, read)
        _log.info("round %d: %s FLOPs, %s weights, %.4f", number, row.plan.flops_kept, row.stage, row.value)
        return smaller, row

    def _round(self, number: int, current: keras.Model, target: Target) -> tuple[keras.Model, Round]:
        if self._seed is not None:
            keras.utils.set_random_seed((self._seed + number) % 2**32)
        plan = self._planned(current, target)
        copy = flat_copy_for(plan, current)
        judged = copy.view()
        copy.write_zeros(plan.network, plan.keep)
        removed = self._guard(judged)
        reconstruct_in_place(copy.plain, current, samples=self._inputs, reconstruction=self._reconstruction)
        reconstructed = self._guard(judged)
        smaller = build_smaller(copy, plan)
        training = self._trainer.compiled(smaller)
        before = _state(smaller)
        self._progress.add(2, self._shown(plan, reconstructed))
        self._trainer.fit(training, number, self._progress)
        trained = self._guard(smaller)
        is_worse = self._guard.is_worse(trained, than=reconstructed)
        if is_worse:
            _set_state(smaller, before)
        stage = "reconstructed" if is_worse else "trained"
        row = Round(_without_copy(plan, target), removed, reconstructed, trained, stage)
        self._progress.add(1, self._shown(plan, row.value))
        return smaller, row

    def _again(self, current: keras.Model, target: Target, stored: NamedArrays) -> tuple[keras.Model, Round]:
        """Return the model of a round that was done before."""
        if isinstance(target, ShrinkPlan):
            plan = target
        else:
            plan = replace(self._planned(current, None), keep=stored["keep"])
        smaller = shrink(current, plan)
        self._trainer.compiled(smaller)
        _set_state(smaller, stored)
        stage = str(stored["stage"]) if "stage" in stored else "trained"  # all that earlier versions kept
        removed, reconstructed, trained = map(float, stored["stages"])
        row = Round(_without_copy(plan, target), removed, reconstructed, trained, stage)
        self._progress.add(len(STAGES) + self._trainer.steps(), self._shown(plan, row.value))
        return smaller, row

    def _shown(self, plan: ShrinkPlan, value: float) -> dict[str, Any]:
        return {"FLOPs": plan.flops_kept, self._guard.metric: value}


def _without_copy(plan: ShrinkPlan, target: Target) -> ShrinkPlan:
    """Return a plan for the report, which would keep the copy alive; one that the user passed stays the same."""
    return plan if plan is target else replace(plan, planned_copy=None)


def described(value: Any) -> str:
    """Return a text that tells settings apart, the same in every process."""
    if isinstance(value, ShrinkPlan):
        return f"a plan that keeps {np.flatnonzero(value.keep).tolist()}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def targets_of(budget: Target, rounds: int, *, network: Any, model: keras.Model, folder: RunFolder) -> list[Target]:
    """Return the budget of each round, as amounts; a run that goes on has those that it began with.

    Args:
        budget: The budget; or a plan, which takes one round.
        rounds: Their number.
        network: The channels of the model.
        model: The first model.
        folder: Where the amounts are kept, because a latency is never measured the same twice.
    """
    if isinstance(budget, ShrinkPlan):
        return [budget]
    names = [name for name, _ in budget.limits]

    def split() -> NamedArrays:
        budgets = budget.in_rounds(rounds, network=network, model=model)
        return {name: np.array([dict(each.limits)[name] for each in budgets]) for name in names}

    def read(stored: NamedArrays) -> list[Target]:
        limits = [tuple((name, int(stored[name][row])) for name in names) for row in range(rounds)]
        return [replace(budget, limits=each) for each in limits]

    return folder.remember("targets", split, read)


def _variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Return the state of a model, seeds of dropout included, and of its optimizer, by the names in a file."""
    metrics = {id(variable) for variable in model.metrics_variables}
    own = [variable for variable in model.variables if id(variable) not in metrics]
    named = {f"variable_{index}": variable for index, variable in enumerate(own)}
    return named | {f"optimizer_{index}": each for index, each in enumerate(model.optimizer.variables)}


def _state(model: keras.Model) -> NamedArrays:
    return {name: as_numpy(variable) for name, variable in _variables(model).items()}


def _set_state(model: keras.Model, stored: NamedArrays) -> None:
    for name, variable in _variables(model).items():
        variable.assign(stored[name])
