"""Shrink a model to a budget in rounds: score, remove, compensate, train a little."""

from __future__ import annotations

from typing import Any

import keras

from tfprune.criteria import CRITERIA, Criterion
from tfprune.models.batches import Batch, batches, check_batch, size_of
from tfprune.models.compiled import arguments_of, check_compiled, compile_like
from tfprune.models.filters import Filters
from tfprune.reconstruction.reconstruct import reconstruct
from tfprune.shrinking.budget import Budget
from tfprune.shrinking.plan_shrink import plan_shrink
from tfprune.shrinking.prune_report import STAGES, PruneReport, Round
from tfprune.shrinking.shrink import shrink
from tfprune.shrinking.shrink_plan import ShrinkPlan
from tfprune.shrinking.zero_channels import zero_channels
from tfprune.spec import check_count, resolve

_WAY_OUT = "Call plan_shrink, reconstruct and shrink yourself, and compile and train what they return"


def prune_to(
    model: keras.Model,
    budget: Budget,
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
    verbose: int = 1,
) -> tuple[keras.Model, PruneReport]:
    """Return a smaller model within a budget: in rounds, channels go, weights make up for them, the model trains.

    Each round goes the same part of the way to the budget: it ranks the channels anew, removes those of least score,
    solves for the weights that are left (`reconstruct`), builds the smaller model (`shrink`), and trains it as the
    model was compiled, its optimizer and learning rate anew.

    Args:
        model: A built and compiled Sequential or Functional model, trained. It is left unchanged.
        budget: What the smaller model may cost, `tfprune.budget(flops=0.5)`.
        data: What to train on: a tuple (x, y), or a data set that can be read again and again.
        rounds: At least 1; with more of them fewer channels go at once.
        epochs: Epochs of training in each round, at least 0.
        validation_data: What `metric` is measured on, in the same forms; None takes the first samples of `data`.
        metric: `"loss"`, or the name of a metric that the model was compiled with.
        criterion: As of `plan_shrink`; what needs data is shown the first samples of `data`.
        filters: As of `plan_shrink`.
        round_to: As of `plan_shrink`.
        reconstruction: The `mode` of `reconstruct`: `"sequential"`, or for deep models the quicker `"parallel"`.
        samples: How many samples of `data` reconstruction and criteria look at, at least 1; whole batches are taken.
        verbose: 1 shows a progress bar, 0 nothing.

    Returns:
        The smaller model, compiled, and a report with the plan and the metric of each round.

    Raises:
        TypeError: For what is no model, no budget or no data.
        ValueError: For a model that is not compiled or no graph, a budget that cannot be met, an unknown metric, and
            for data as `reconstruct` refuses them.

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
    if not isinstance(budget, Budget):
        raise TypeError(f"Expected a budget, such as tfprune.budget(flops=0.5). Received: budget={budget!r}.")
    criterion = resolve(criterion, CRITERIA, Criterion, "criterion")
    rounds, epochs = check_count(rounds, "rounds", least=1), check_count(epochs, "epochs", least=0)
    to_train = arguments_of(data)
    seen = _first_batches(data, model, samples=check_count(samples, "samples", least=1))
    evidence = seen if any(fact.needs_data for fact in criterion.needed_facts()) else None

    def planned(current: keras.Model, target: Budget) -> ShrinkPlan:
        settings: dict[str, Any] = {"criterion": criterion, "filters": filters, "round_to": round_to}
        return plan_shrink(current, allocation=target, data=evidence, **settings)

    judge = _Evaluator(model, metric, validation_data or seen)
    network = planned(model, budget).network  # refused here, before anything is done
    bar = keras.utils.Progbar(rounds * len(STAGES), stateful_metrics=[metric, "FLOPs"], verbose=verbose)
    current, found, before = model, [], judge(model)
    for target in budget.in_rounds(rounds, network=network, model=model):
        plan = planned(current, target)
        masked = zero_channels(current, plan)
        better, _ = reconstruct(masked, current, [batch.x for batch in seen], mode=reconstruction)
        smaller = compile_like(shrink(better, plan), model, advice=_WAY_OUT)
        measured = [judge(masked), judge(better)]
        bar.add(2, [("FLOPs", plan.flops_kept), (metric, measured[-1])])
        smaller.fit(**to_train, epochs=epochs, verbose=0)
        measured.append(judge(smaller))
        bar.add(1, [("FLOPs", plan.flops_kept), (metric, measured[-1])])
        found.append(Round(plan, *measured))
        current = smaller
    return current, PruneReport(metric, before, tuple(found))


def _first_batches(data: Any, model: keras.Model, *, samples: int) -> list[Batch]:
    """Return the first batches, until there are so many samples."""
    taken, count = [], 0
    for batch in batches(data):
        check_batch(batch, model)
        taken.append(batch)
        count += size_of(batch)
        if count >= samples:
            break
    return taken


class _Evaluator:
    """Measures models as one was compiled."""

    def __init__(self, model: keras.Model, metric: str, data: Any) -> None:
        self._model, self._metric, self._data = model, metric, data

    def __call__(self, model: keras.Model) -> float:
        copy = model if model.compiled else compile_like(model, self._model, advice=_WAY_OUT, optimizer="sgd")
        if isinstance(self._data, list):
            values: dict[str, float] = {}
            copy.reset_metrics()
            for batch in self._data:
                values = copy.test_on_batch(*batch, return_dict=True)
        else:
            values = copy.evaluate(**arguments_of(self._data), verbose=0, return_dict=True)
        if self._metric not in values:
            raise ValueError(
                f"Expected `metric` among {', '.join(map(repr, values))}. Received: metric={self._metric!r}."
            )
        return float(values[self._metric])
