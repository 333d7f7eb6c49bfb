"""prune_to: shrink a model to a budget in rounds, or by a plan in one: rank, remove, reconstruct, fine-tune."""

from __future__ import annotations

import os
from typing import Any

import keras

from tfprune.base.limit import Limit, as_limit, refuse_limit_of_size
from tfprune.base.progress import Progress, check_verbose
from tfprune.base.run_folder import RunFolder
from tfprune.base.spec import resolve
from tfprune.compact.fine_tuning.fine_tuning import FineTuning
from tfprune.compact.fine_tuning.metric_guard import MetricGuard
from tfprune.compact.fine_tuning.prune_report import STAGES, PruneReport
from tfprune.compact.fine_tuning.rounds import Rounds, Target, described, targets_of
from tfprune.compact.fine_tuning.run_data import RunData
from tfprune.compact.fine_tuning.trainer import Trainer
from tfprune.compact.shrinking.budget import Budget, check_budget
from tfprune.compact.shrinking.plan_shrink import CHOICES, plan_shrink
from tfprune.compact.shrinking.shrink_plan import ShrinkPlan, flat_copy_for
from tfprune.criteria import CRITERIA, Criterion
from tfprune.keras_models.models.compiled import check_compiled
from tfprune.keras_models.models.filters import Filters
from tfprune.keras_models.models.layers import weight_values


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

    def plan_for(current: keras.Model, target: Target | None) -> ShrinkPlan:
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
        targets = targets_of(budget, rounds, network=network, model=model, folder=state)
        total = len(targets) * (len(STAGES) + trainer.steps())
        with Progress(total, verbose=verbose, unit="step", shown=[metric, "FLOPs"]) as progress:
            run = Rounds(
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
        raise TypeError(
            f"Expected `fine_tuning` to be a tfprune.FineTuning. Received: fine_tuning={fine_tuning!r}. Pass "
            f"tfprune.FineTuning(rounds=5)."
        )
    limit = as_limit(max_drop)
    refuse_limit_of_size(limit)
    if limit.data is not None:
        raise ValueError(
            "Expected a Limit without data. Received: max_drop=Limit(..., data=...). Pass the data as "
            "validation_data=(x, y)."
        )
    if not isinstance(limit.metric, str | None) or limit.output is not None:
        raise ValueError(
            f"Expected a Limit with the name of a compiled metric, and without `output`. Received: "
            f"max_drop={limit!r}. Compile the model with the metric, and pass the name that `evaluate` gives it."
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
