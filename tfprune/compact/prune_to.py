"""prune_to: shrink a model to a budget in rounds, or by a plan in one: rank, remove, reconstruct, fine-tune."""

from __future__ import annotations

import logging
import os
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfprune.base.folders import NamedArrays, RunFolder
from tfprune.base.limit import GroupDrop, Limit, as_limit
from tfprune.base.output import Progress, check_verbose, save_figure
from tfprune.base.spec import ArgumentError, ArgumentTypeError, resolve
from tfprune.compact.plan import CHOICES, Budget, check_budget, plan_shrink
from tfprune.compact.reconstruct import reconstruct_in_place
from tfprune.compact.shrink import ShrinkPlan, build_smaller, flat_copy_for, shrink
from tfprune.compact.trainer import FineTuning, MetricGuard, RunData, Trainer
from tfprune.criteria import CRITERIA, Criterion
from tfprune.models.anatomy import Filters, as_numpy, weight_values
from tfprune.models.training import Batch, check_compiled
from tfprune.report import Report, new_figure, table

# The report of `prune_to`: plan and metric of each round.

_STAGES = ("removed", "reconstructed", "trained")
_MARKERS = {"removed": ("v", "#c9b458"), "reconstructed": ("^", "#7fb069"), "trained": ("o", "#1f6f8b")}


@dataclass(frozen=True, eq=False)
class Round(Report):
    """One round of `prune_to`.

    Attributes:
        plan: The plan of the round.
        removed: The metric right after the removal.
        reconstructed: The metric after reconstruction.
        trained: The metric of the smaller model after training.
        stage: The weights that the round ended with: `"trained"`, or `"reconstructed"` if training made it worse.
        worst_group: The class or group that exceeds its limit most, or is nearest to it; None without such limits.
    """

    plan: ShrinkPlan
    removed: float
    reconstructed: float
    trained: float
    stage: str = "trained"
    worst_group: GroupDrop | None = None

    @property
    def value(self) -> float:
        """The metric of the model that the round ended with."""
        return getattr(self, self.stage)


@dataclass(frozen=True, eq=False)
class PruneReport(Report):
    """Plan and metric of each round of `prune_to`.

    Attributes:
        metric: The name of the metric.
        before: The metric of the original model.
        rounds: One entry per accepted round.
        refused: The round that cost more than the limits allow; None if there was none.

    Example:
        >>> import keras, numpy, tfprune
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(4)])
        >>> model.compile("sgd", "mse")
        >>> data = numpy.ones((16, 8)), numpy.ones((16, 4))
        >>> small, report = tfprune.prune_to(model, tfprune.budget(parameters=0.5), data, verbose=0)
        >>> report.metric, len(report.rounds)
        ('loss', 3)
    """

    metric: str
    before: float
    rounds: tuple[Round, ...]
    refused: Round | None = None

    def plot(self, path: str | Path) -> None:
        """Draw the metric over the FLOPs into an image file: after each removal, reconstruction and training.

        Args:
            path: The file; its suffix determines the format, such as `.png` or `.svg`.

        Raises:
            ValueError: If matplotlib is not installed, or the file cannot be written.
        """
        rounds = [*self.rounds, *([self.refused] if self.refused else [])]
        whole = self.rounds[0].plan.flops
        flops = [each.plan.flops_kept / whole for each in rounds]
        figure = new_figure(6.5, 4)
        axes = figure.subplots()
        axes.plot([1.0, *flops], [self.before, *(each.value for each in rounds)], "-", color="#1f6f8b", linewidth=1)
        for stage, (marker, color) in _MARKERS.items():
            axes.plot(flops, [getattr(each, stage) for each in rounds], marker, color=color, label=stage)
        axes.plot([1.0], [self.before], "o", color="black", label="before")
        if self.refused:
            size = {"markersize": 12, "fillstyle": "none", "color": "#b3382c"}
            axes.plot(flops[-1:], [self.refused.value], "o", label="refused", **size)
        axes.invert_xaxis()
        axes.set(xlabel="FLOPs kept, as a fraction", ylabel=self.metric)
        figure.legend(loc="outside upper right", ncols=5, frameon=False, fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
        save_figure(figure, path)

    def __str__(self) -> str:
        first = self.rounds[0].plan
        rows = [["before", f"{first.flops:,}", f"{first.parameters:,}", "", "", f"{self.before:.4f}"]]
        marks = ["" if row.stage == "trained" else f", {row.stage}" for row in self.rounds]
        named = [
            (f"{number}{mark}", row) for number, (mark, row) in enumerate(zip(marks, self.rounds, strict=True), 1)
        ]
        named += [(f"{len(named) + 1}, refused", self.refused)] if self.refused else []
        for name, row in named:
            measured = (f"{getattr(row, stage):.4f}" for stage in _STAGES)
            rows.append([name, f"{row.plan.flops_kept:,}", f"{row.plan.parameters_kept:,}", *measured])
        stages = [f"{self.metric} after removal", "after reconstruction", "after training"]
        text = table(["round", "FLOPs", "parameters", *stages], rows)
        groups = [f"Round {name}: {row.worst_group}." for name, row in named if row.worst_group]
        return "\n".join([text, *([""] if groups else []), *groups])


# The rounds of a run, each kept in a folder once it is done, so that a run that was killed goes on.

_log = logging.getLogger(__name__)
_Target = Budget | ShrinkPlan
_Planned = Callable[[keras.Model, _Target | None], ShrinkPlan]


class _Rounds:
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
        planned: _Planned,
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

    def go(self, model: keras.Model, targets: Sequence[_Target]) -> tuple[keras.Model, PruneReport]:
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

    def _carry_out(self, number: int, current: keras.Model, target: _Target) -> tuple[keras.Model, Round]:
        """Return the smaller model after the round of this number, from 1, and what happened in it."""
        results: list[tuple[keras.Model, Round]] = []

        def carry_out() -> NamedArrays:
            results.append(self._round(number, current, target))
            smaller, row = results[0]
            stages = np.array([getattr(row, stage) for stage in _STAGES])
            return {"keep": row.plan.keep, "stages": stages, "stage": np.array(row.stage), **_state(smaller)}

        def read(stored: NamedArrays) -> tuple[keras.Model, Round]:
            return results[0] if results else self._again(current, target, stored)

        smaller, row = self._folder.remember(f"round_{number}", carry_out, read)
        _log.info("round %d: %s FLOPs, %s weights, %.4f", number, row.plan.flops_kept, row.stage, row.value)
        return smaller, row

    def _round(self, number: int, current: keras.Model, target: _Target) -> tuple[keras.Model, Round]:
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

    def _again(self, current: keras.Model, target: _Target, stored: NamedArrays) -> tuple[keras.Model, Round]:
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
        self._progress.add(len(_STAGES) + self._trainer.steps(), self._shown(plan, row.value))
        return smaller, row

    def _shown(self, plan: ShrinkPlan, value: float) -> dict[str, Any]:
        return {"FLOPs": plan.flops_kept, self._guard.metric: value}


def _without_copy(plan: ShrinkPlan, target: _Target) -> ShrinkPlan:
    """Return a plan for the report, which would keep the copy alive; one that the user passed stays the same."""
    return plan if plan is target else replace(plan, planned_copy=None)


def described(value: Any) -> str:
    """Return a text that tells settings apart, the same in every process."""
    if isinstance(value, ShrinkPlan):
        return f"a plan that keeps {np.flatnonzero(value.keep).tolist()}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _targets_of(
    budget: _Target, rounds: int, *, network: Any, model: keras.Model, folder: RunFolder
) -> list[_Target]:
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

    def read(stored: NamedArrays) -> list[_Target]:
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


def prune_to(
    model: keras.Model,
    budget: Budget | ShrinkPlan,
    data: Any,
    *,
    criterion: str | Criterion = "magnitude",
    filters: Filters = None,
    round_to: int = 1,
    validation_data: Any = None,
    epochs: int = 1,
    fine_tuning: FineTuning | None = None,
    max_drop: float | Limit | None = None,
    folder: str | os.PathLike[str] | None = None,
    verbose: int | str = "auto",
) -> tuple[keras.Model, PruneReport]:
    """Shrink a model to a budget, in rounds of removing channels, reconstructing weights and fine-tuning.

    Use it to get the smaller model from one call; `plan_shrink`, `reconstruct` and `shrink` are its steps. Each round
    covers an equal part of the way to the budget: it ranks the channels again, removes those with the lowest scores,
    reconstructs the remaining weights, builds the smaller model and trains it. If training makes the metric worse,
    the round ends with the reconstructed weights, and the report shows both. A plan, such as that of `plan_concepts`,
    already names the channels to remove: it is carried out in one round.

    Training uses the loss, metrics and optimizer that the model was compiled with; the optimizer is reset in each
    round. Fine-tuning needs a lower learning rate than training: if the model was compiled with a schedule, a tenth
    of its largest rate replaces it.

    With `max_drop`, `prune_to` stops before a round that costs more on the validation data, and returns the model of
    the round before. With `folder`, you can continue a run that was stopped: call `prune_to` again with the same
    arguments. It reads the finished rounds and repeats the unfinished one. Each round is seeded from Python's global
    random numbers, so the result is the same as without the interruption.

    Args:
        model: A trained, compiled Sequential or Functional model. It is left unchanged.
        budget: What the smaller model may cost, for example `tfprune.budget(flops=0.5)`; or a plan for this model.
        data: The training data: a tuple (x, y), or a dataset that can be read more than once.
        criterion: As in `plan_shrink`, for a budget. A criterion that needs data gets the first samples of `data`.
        filters: As in `plan_shrink`, for a budget.
        round_to: As in `plan_shrink`, for a budget.
        validation_data: The data that the metric is measured on, in the same forms as `data`. None (the default)
            takes the first samples of `data`.
        epochs: Epochs of training in each round, at least 0. Default 1.
        fine_tuning: The number of rounds, and how each reconstructs and trains. None (the default) takes
            `tfprune.FineTuning()`: three rounds with the optimizer of the model.
        max_drop: How much worse the returned model may be than `model`, in units of the metric, at least 0. A number
            limits the loss; for another metric pass `tfprune.Limit(0.01, metric="accuracy")`, and to limit what
            each class may lose add `max_drop_per_class=0.05`. It needs `validation_data`. None (the default) prunes
            until the budget is met.
        folder: Where the state of the run is saved; None (the default) saves none.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds.

    Returns:
        The smaller model, compiled, and a `PruneReport` with the plan and the metric of each round.

    Raises:
        TypeError: If `model` is not a Keras model, `budget` is neither a budget nor a plan, `data` is not labeled
            data, or another argument has the wrong type.
        ValueError: If the model is not compiled or not a graph of layers, the budget cannot be met, the metric is not
            known, or the data are empty, without labels, of another shape or not finite.
        ValueError: If the first round costs more than `max_drop`, or `max_drop` is given without `validation_data`.
        ValueError: If the plan was made for another model, or is combined with arguments that choose channels.
        ValueError: If `folder` has another run, is in use by one, or cannot be written.

    Example:
        >>> import tfprune
        >>> layers = [keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(16), keras.layers.Dense(1)]
        >>> model = keras.Sequential(layers)
        >>> model.compile("sgd", "mse")
        >>> x = keras.random.normal((64, 8), seed=0)
        >>> smaller, report = prune_to(model, tfprune.budget(flops=0.5), (x, x[:, :1]), verbose=0)
        >>> len(report.rounds), report.rounds[-1].plan.flops_kept <= report.rounds[0].plan.flops / 2
        (3, True)

    Reference:
        Coello de Portugal Mecke et al., 2026, "Prune, Update and Trim", arXiv:2605.18331.
    """
    check_compiled(model)
    check_verbose(verbose)
    fine_tuning, limit = _checked(fine_tuning, max_drop)
    criterion = resolve(criterion, CRITERIA, Criterion, "criterion")
    if isinstance(budget, ShrinkPlan):
        _check_plan(model, budget, criterion=criterion, filters=filters, round_to=round_to)
    else:
        check_budget(budget)
    run_data = RunData(
        model,
        data,
        validation_data,
        batch_size=fine_tuning.batch_size,
        max_samples=fine_tuning.max_samples,
        is_bound=limit.is_bound,
    )
    arguments = run_data.to_fit(is_watched=bool(fine_tuning.callbacks))
    trainer = Trainer(model, arguments, epochs=epochs, fine_tuning=fine_tuning)
    evidence = run_data.first if any(fact.needs_data for fact in criterion.needed_facts()) else None

    def plan_for(current: keras.Model, target: _Target | None) -> ShrinkPlan:
        if isinstance(target, ShrinkPlan):
            return target
        return plan_shrink(
            current,
            0.0 if target is None else target,
            criterion=criterion,
            filters=filters,
            round_to=round_to,
            data=evidence,
            verbose=0,
        )

    labeled = run_data.labeled() if limit.bounds_groups else None
    guard = MetricGuard(model, run_data.to_judge(), limit=limit, labeled=labeled)
    metric, rounds = guard.metric, fine_tuning.rounds
    network = plan_for(model, budget).network  # refused here, before anything is done
    settings = {**trainer.settings(), "rounds": rounds, "mode": fine_tuning.reconstruction, "metric": metric}
    settings["choice"] = described({"criterion": criterion, "filters": filters, "round_to": round_to})
    settings["budget"] = described(budget)
    with RunFolder(folder, settings=settings, arrays=[*weight_values(model), *run_data.arrays()]) as state:
        targets = _targets_of(budget, rounds, network=network, model=model, folder=state)
        total = len(targets) * (len(_STAGES) + trainer.steps())
        with Progress(total, verbose=verbose, unit="step", shown=[metric, "FLOPs"]) as progress:
            run = _Rounds(
                plan_for,
                run_data.first,
                reconstruction=fine_tuning.reconstruction,
                guard=guard,
                trainer=trainer,
                folder=state,
                progress=progress,
            )
            return run.go(model, targets)


def _checked(fine_tuning: FineTuning | None, max_drop: float | Limit | None) -> tuple[FineTuning, Limit]:
    """Return the settings of the rounds and the limit of the metric, with their defaults."""
    if fine_tuning is not None and not isinstance(fine_tuning, FineTuning):
        raise ArgumentTypeError(
            "fine_tuning",
            "`fine_tuning` to be a tfprune.FineTuning",
            repr(fine_tuning),
            advice="Pass tfprune.FineTuning(rounds=5).",
        )
    limit = as_limit(max_drop)
    if limit.data is not None:
        raise ArgumentError(
            "max_drop",
            "a Limit without data",
            "Limit(..., data=...)",
            advice="Pass the data as validation_data=(x, y).",
        )
    if not isinstance(limit.metric, str | None) or limit.output is not None:
        raise ArgumentError(
            "max_drop",
            "a Limit with the name of a compiled metric, and without `output`",
            repr(limit),
            advice="Compile the model with the metric, and pass the name that `evaluate` gives it.",
        )
    return fine_tuning or FineTuning(), limit


def _check_plan(
    model: keras.Model, plan: ShrinkPlan, *, criterion: Criterion, filters: Filters, round_to: int
) -> None:
    """Refuse a plan for another model, and arguments that would have no effect."""
    flat_copy_for(plan, model)
    choice = {"criterion": criterion, "filters": filters, "round_to": round_to}
    changed = [f"{name}={value!r}" for name, value in choice.items() if value != CHOICES[name]]
    if changed:
        raise ValueError(
            f"Expected no other choice of channels with a plan, which has made the choice. Received: "
            f"{', '.join(changed)}. Pass them to tfprune.plan_shrink."
        )
