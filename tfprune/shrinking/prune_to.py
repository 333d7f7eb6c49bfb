"""Shrink a model to a budget in rounds, or by a plan in one: rank, remove, reconstruct, fine-tune."""

from __future__ import annotations

import logging
from typing import Any

import keras
import numpy as np

from tfprune.criteria import CRITERIA, Criterion
from tfprune.models.batches import Batch, batches, check_batch, size_of
from tfprune.models.compiled import arguments_of, check_compiled, compile_like
from tfprune.models.filters import Filters
from tfprune.progress import Progress, check_verbose
from tfprune.reconstruction.reconstruct import reconstruct
from tfprune.shrinking.budget import Budget, check_budget
from tfprune.shrinking.plan_shrink import CHOICES, plan_shrink
from tfprune.shrinking.prune_report import STAGES, PruneReport, Round
from tfprune.shrinking.shrink import fitting_copy, shrink
from tfprune.shrinking.shrink_plan import ShrinkPlan
from tfprune.shrinking.zero_channels import zero_channels
from tfprune.spec import check_count, resolve

_log = logging.getLogger(__name__)
_ADVICE = "Call plan_shrink, reconstruct and shrink yourself, and compile and train what they return"


def prune_to(
    model: keras.Model,
    budget: Budget | ShrinkPlan,
    data: Any,
    *,
    rounds: int = 3,
    epochs: int = 1,
    validation_data: Any = None,
    metric: str = "loss",
    criterion: str | Criterion = "magnitude",
    filters: Filters = None,
    round_to: int = 1,
    reconstruction: str = "sequential",
    samples: int = 512,
    verbose: int | str = "auto",
) -> tuple[keras.Model, PruneReport]:
    """Shrink a model to a budget, in rounds of removing channels, reconstructing weights and fine-tuning.

    Use it to get the smaller model from one call; `plan_shrink`, `reconstruct` and `shrink` are its steps. Each round
    goes the same part of the way to the budget: it ranks the channels again, removes those with the lowest scores,
    reconstructs the remaining weights, builds the smaller model and trains it. Training uses the loss, metrics and
    optimizer that the model was compiled with; the optimizer starts anew in each round. A plan, such as that of
    `plan_concepts`, says itself what goes: it is carried out in one round.

    Args:
        model: A trained, compiled Sequential or Functional model. It is left unchanged.
        budget: What the smaller model may cost, for example `tfprune.budget(flops=0.5)`; or a plan for this model.
        data: The training data: a tuple (x, y), or a dataset that can be read more than once.
        rounds: The number of rounds, at least 1. With more rounds, fewer channels go at once. Default 3; a plan takes
            one round.
        epochs: Epochs of training in each round, at least 0. Default 1.
        validation_data: The data that `metric` is measured on, in the same forms; None (the default) takes the first
            samples of `data`.
        metric: `"loss"` (the default), or the name of a metric that the model was compiled with.
        criterion: As in `plan_shrink`, for a budget. A criterion that needs data gets the first samples of `data`.
        filters: As in `plan_shrink`, for a budget.
        round_to: As in `plan_shrink`, for a budget.
        reconstruction: The `mode` of `reconstruct`: `"sequential"` (the default), or `"parallel"`, which is faster
            for deep models.
        samples: How many samples of `data` reconstruction and criteria use, at least 1; whole batches are taken.
            Default 512.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds.

    Returns:
        The smaller model, compiled, and a `PruneReport` with the plan and the metric of each round.

    Raises:
        TypeError: If `model` is not a Keras model, `budget` is neither a budget nor a plan, or `data` is not data to
            train on.
        ValueError: If the model is not compiled or not a graph of layers, the budget cannot be met, `metric` is not
            known, or the data are empty, of another shape or not finite.
        ValueError: If the plan was made for another model, or an argument that chooses channels comes with it.

    Example:
        >>> import tfprune
        >>> layers = [keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(16), keras.layers.Dense(1)]
        >>> model = keras.Sequential(layers)
        >>> model.compile("sgd", "mse")
        >>> x = keras.random.normal((64, 8), seed=0)
        >>> smaller, report = prune_to(model, tfprune.budget(flops=0.5), (x, x[:, :1]), rounds=2, verbose=0)
        >>> len(report.rounds), report.rounds[-1].plan.flops_kept <= report.rounds[0].plan.flops / 2
        (2, True)

    Reference:
        Coello de Portugal Mecke et al., 2026, "Prune, Update and Trim", arXiv:2605.18331.
    """
    check_compiled(model)
    check_verbose(verbose)
    criterion = resolve(criterion, CRITERIA, Criterion, "criterion")
    if isinstance(budget, ShrinkPlan):
        _check_plan(model, budget, criterion=criterion, filters=filters, round_to=round_to)
    else:
        check_budget(budget)
    rounds, epochs = check_count(rounds, "rounds", least=1), check_count(epochs, "epochs", least=0)
    to_train = arguments_of(data)
    seen = _first_batches(data, model, samples=check_count(samples, "samples", least=1))
    evidence = seen if any(fact.needs_data for fact in criterion.needed_facts()) else None

    def planned(current: keras.Model, target: Budget | ShrinkPlan) -> ShrinkPlan:
        if isinstance(target, ShrinkPlan):
            return target
        settings: dict[str, Any] = {"criterion": criterion, "filters": filters, "round_to": round_to}
        return plan_shrink(current, allocation=target, data=evidence, verbose=0, **settings)

    judge = _Evaluator(model, metric, _joined(seen) if validation_data is None else validation_data)
    network = planned(model, budget).network  # refused here, before anything is done
    targets = [budget]
    if isinstance(budget, Budget):
        targets = [*budget.in_rounds(rounds, network=network, model=model)]
    current, found, before = model, [], judge(model)
    with Progress(len(targets) * len(STAGES), verbose=verbose, unit="stage", shown=[metric, "FLOPs"]) as progress:
        for target in targets:
            plan = planned(current, target)
            masked = zero_channels(current, plan)
            better, _ = reconstruct(masked, current, [batch.x for batch in seen], mode=reconstruction, verbose=0)
            smaller = compile_like(shrink(better, plan), model, advice=_ADVICE)
            measured = [judge(masked), judge(better)]
            progress.add(2, {"FLOPs": plan.flops_kept, metric: measured[-1]})
            smaller.fit(**to_train, epochs=epochs, verbose=0)
            measured.append(judge(smaller))
            progress.add(1, {"FLOPs": plan.flops_kept, metric: measured[-1]})
            found.append(Round(plan, *measured))
            _log.info("round %d: %s FLOPs, %s %.4f", len(found), plan.flops_kept, metric, measured[-1])
            current = smaller
    return current, PruneReport(metric, before, tuple(found))


def _check_plan(model: keras.Model, plan: ShrinkPlan, **given: Any) -> None:
    """Refuse a plan for another model, and arguments that would have no effect."""
    fitting_copy(model, plan)
    changed = [f"{name}={value!r}" for name, value in given.items() if value != CHOICES[name]]
    if changed:
        raise ValueError(
            f"Expected no other choice of channels with a plan, which says what goes. Received: "
            f"{', '.join(changed)}. Pass them to tfprune.plan_shrink."
        )


def _first_batches(data: Any, model: keras.Model, *, samples: int) -> list[Batch]:
    """Return the first batches, until they hold at least `samples` samples."""
    taken, count = [], 0
    for batch in batches(data):
        check_batch(batch, model)
        taken.append(batch)
        count += size_of(batch)
        if count >= samples:
            break
    return taken


def _joined(parts: list[Batch]) -> tuple:
    """Return batches as one: (x, y) or (x, y, sample weights)."""
    columns = [[batch.x for batch in parts], [batch.y for batch in parts], [batch.sample_weight for batch in parts]]
    return tuple(
        keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *column)
        for column in columns
        if column[0] is not None
    )


class _Evaluator:
    """Measures the metric of models as a given model was compiled."""

    def __init__(self, model: keras.Model, metric: str, data: Any) -> None:
        self._model, self._metric, self._data = model, metric, data

    def __call__(self, model: keras.Model) -> float:
        copy = model if model.compiled else compile_like(model, self._model, advice=_ADVICE, optimizer="sgd")
        values = copy.evaluate(**arguments_of(self._data), verbose=0, return_dict=True)
        if self._metric not in values:
            raise ValueError(
                f"Expected `metric` among {', '.join(map(repr, values))}. Received: metric={self._metric!r}."
            )
        return float(values[self._metric])
