"""prune_to: shrink a model to a budget in rounds, or by a plan in one: rank, remove, reconstruct, fine-tune."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import keras

from tfprune.base.progress import Progress, check_verbose
from tfprune.base.run_folder import RunFolder
from tfprune.base.spec import check_choice, check_count, resolve
from tfprune.compact.fine_tuning.distillation import Distillation
from tfprune.compact.fine_tuning.metric_guard import MetricGuard
from tfprune.compact.fine_tuning.prune_report import STAGES, PruneReport
from tfprune.compact.fine_tuning.rounds import Rounds, Target, described, targets_of
from tfprune.compact.fine_tuning.run_data import RunData
from tfprune.compact.fine_tuning.trainer import Trainer
from tfprune.compact.reconstruction.reconstruct import MODES
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
    rounds: int = 3,
    epochs: int = 1,
    every: int | None = None,
    batch_size: int | None = None,
    optimizer: str | keras.optimizers.Optimizer | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    distill: Distillation | None = None,
    validation_data: Any = None,
    metric: str = "loss",
    mode: str | None = None,
    max_drop: float | None = None,
    criterion: str | Criterion = "magnitude",
    filters: Filters = None,
    round_to: int = 1,
    reconstruction: str = "sequential",
    samples: int = 512,
    folder: str | os.PathLike[str] | None = None,
    verbose: int | str = "auto",
) -> tuple[keras.Model, PruneReport]:
    """Shrink a model to a budget, in rounds of removing channels, reconstructing weights and fine-tuning.

    Use it to get the smaller model from one call; `plan_shrink`, `reconstruct` and `shrink` are its steps. Each round
    goes the same part of the way to the budget: it ranks the channels again, removes those with the lowest scores,
    reconstructs the remaining weights, builds the smaller model and trains it. If training makes `metric` worse, the
    round ends with the reconstructed weights; the report has both. A plan, such as that of `plan_concepts`, says
    itself what goes: it is carried out in one round.

    Training uses the loss, metrics and optimizer that the model was compiled with; the optimizer starts anew in each
    round. Fine-tuning needs a lower rate than training: a tenth of the largest rate of a schedule takes the place of
    the learning-rate schedule that the model was compiled with.

    With `max_drop` it stops before a round that costs more on the validation data, and returns the model of the round
    before. With `folder` a run that was killed goes on, called again with the same arguments: rounds that were
    finished are read, and the one that was not starts anew. Each round is then seeded, from Python's global random
    numbers, and so ends as it would have in a run that was not killed.

    Args:
        model: A trained, compiled Sequential or Functional model. It is left unchanged.
        budget: What the smaller model may cost, for example `tfprune.budget(flops=0.5)`; or a plan for this model.
        data: The training data: a tuple (x, y), or a dataset that can be read more than once.
        rounds: The number of rounds, at least 1. With more rounds, fewer channels go at once. Default 3; a plan takes
            one round.
        epochs: Epochs of training in each round, at least 0. Default 1.
        every: Steps of training between two removals, at least 1, in place of `epochs`.
        batch_size: Samples in a batch of arrays; None takes 32. A dataset has batches of its own.
        optimizer: What trains: an optimizer, such as `keras.optimizers.SGD(schedule)` with a schedule of the learning
            rate, of which each round gets a fresh copy, or its name. None takes the one the model was compiled with,
            at a tenth of the largest rate of its schedule, if it has one.
        callbacks: Keras callbacks for the training of each round. Epochs are counted over all rounds. They see the
            metrics of `validation_data`, where there are some.
        distill: How the model given teaches the smaller ones, such as `tfprune.Distillation(temperature=4)`; None
            (the default) trains on the data alone.
        validation_data: The data that `metric` is measured on, in the same forms; None (the default) takes the first
            samples of `data`.
        metric: `"loss"` (the default), or the name of a metric that the model was compiled with.
        mode: `"max"` if a larger metric is better, `"min"` if a smaller one is. None (the default) finds it out for
            accuracies and losses; with other metrics, each round then ends with the trained weights.
        max_drop: How much worse `metric` may be in the model returned than in the one given, in its unit, at least 0.
            It needs `validation_data`. None (the default) goes on until the budget is met.
        criterion: As in `plan_shrink`, for a budget. A criterion that needs data gets the first samples of `data`.
        filters: As in `plan_shrink`, for a budget.
        round_to: As in `plan_shrink`, for a budget.
        reconstruction: The `mode` of `reconstruct`: `"sequential"` (the default), or `"parallel"`, which is faster
            for deep models.
        samples: How many samples of `data` reconstruction and criteria use, at least 1; whole batches are taken.
            Default 512.
        folder: Where the state of the run is kept; None (the default) keeps none.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds.

    Returns:
        The smaller model, compiled, and a `PruneReport` with the plan and the metric of each round.

    Raises:
        TypeError: If `model` is not a Keras model, `budget` is neither a budget nor a plan, `data` is not data to
            train on, or an argument has the wrong type.
        ValueError: If the model is not compiled or not a graph of layers, the budget cannot be met, `metric` is not
            known, or the data are empty, without labels, of another shape or not finite.
        ValueError: If the first round costs more than `max_drop`, or there are no validation data to tell.
        ValueError: If the plan was made for another model, or an argument that chooses channels comes with it.
        ValueError: If `folder` holds another run, is in use by one, or cannot be written.

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
    check_choice(reconstruction, "reconstruction", choices=MODES)
    criterion = resolve(criterion, CRITERIA, Criterion, "criterion")
    if isinstance(budget, ShrinkPlan):
        _check_plan(model, budget, criterion=criterion, filters=filters, round_to=round_to)
    else:
        check_budget(budget)
    is_bound = max_drop is not None
    run_data = RunData(model, data, validation_data, batch_size=batch_size, samples=samples, is_bound=is_bound)
    trainer = Trainer(
        model,
        run_data.to_fit(is_watched=bool(callbacks)),
        epochs=epochs,
        every=every,
        optimizer=optimizer,
        callbacks=callbacks,
        distill=distill,
    )
    evidence = run_data.first if any(fact.needs_data for fact in criterion.needed_facts()) else None

    def plan_for(current: keras.Model, target: Target | None) -> ShrinkPlan:
        if isinstance(target, ShrinkPlan):
            return target
        return plan_shrink(
            current,
            0.0 if target is None else None,
            criterion=criterion,
            allocation="uniform" if target is None else target,
            filters=filters,
            round_to=round_to,
            data=evidence,
            verbose=0,
        )

    rounds = check_count(rounds, "rounds", least=1)
    guard = MetricGuard(model, metric, run_data.to_judge(), mode=mode, max_drop=max_drop)
    network = plan_for(model, budget).network  # refused here, before anything is done
    settings = {**trainer.settings(), "rounds": rounds, "mode": reconstruction, "metric": metric}
    settings["choice"] = described({"criterion": criterion, "filters": filters, "round_to": round_to})
    settings["budget"] = described(budget)
    with RunFolder(folder, settings=settings, arrays=[*weight_values(model), *run_data.arrays()]) as state:
        targets = targets_of(budget, rounds, network=network, model=model, folder=state)
        total = len(targets) * (len(STAGES) + trainer.steps())
        with Progress(total, verbose=verbose, unit="step", shown=[metric, "FLOPs"]) as progress:
            run = Rounds(
                plan_for,
                run_data.first,
                mode=reconstruction,
                guard=guard,
                trainer=trainer,
                folder=state,
                progress=progress,
            )
            return run.go(model, targets)


def _check_plan(
    model: keras.Model, plan: ShrinkPlan, *, criterion: Criterion, filters: Filters, round_to: int
) -> None:
    """Refuse a plan for another model, and arguments that would have no effect."""
    flat_copy_for(plan, model)
    choice = {"criterion": criterion, "filters": filters, "round_to": round_to}
    changed = [f"{name}={value!r}" for name, value in choice.items() if value != CHOICES[name]]
    if changed:
        raise ValueError(
            f"Expected no other choice of channels with a plan, which says what goes. Received: "
            f"{', '.join(changed)}. Pass them to tfprune.plan_shrink."
        )
