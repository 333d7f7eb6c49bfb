"""Rank channels and heads by what their removal costs on data, and a penalty that grows while a model trains."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import check_number
from tfprune.compact.linear_map import NotLinear, moments_of
from tfprune.compact.shrink import Reader, RunningModel, ShrinkPlan, check_plan, flat_copy_for
from tfprune.masking.strip import flat_copy
from tfprune.models.anatomy import Anatomy, as_numpy
from tfprune.models.graph import trace_to_run
from tfprune.models.training import Batches, batch_loss, check_token_ids, loss_of
from tfprune.report import Report, Skipped, skipped_table, table
from tfprune.solving.dependency_graph import Group, Network
from tfprune.solving.surgery import DAMPING, Surgeon, removals

# Report of `rank_channels` and `rank_heads`: the scores of each group.

_SHOWN = 3  # indices of a group in a table


@dataclass(frozen=True)
class RankedGroup(Report):
    """A group of channels or heads with their scores.

    Attributes:
        group: The name of the group, as in a `ShrinkPlan`.
        kind: "channels", or "heads" of attention.
        scores: The score of each channel or head, larger = keep.
    """

    group: str
    kind: str
    scores: tuple[float, ...]

    @property
    def order(self) -> tuple[int, ...]:
        """The indices of the channels or heads, the least important first."""
        return tuple(np.argsort(self.scores, kind="stable").tolist())


@dataclass(frozen=True)
class RankingReport(Report):
    """Scores of channels or heads; pass it as `criterion` to `plan_shrink`.

    Attributes:
        rows: One row per group, in the order of the model.
        skipped: The groups without scores, each with the reason.

    Example:
        >>> report = RankingReport((RankedGroup("hidden", "channels", (0.3, 0.1, 0.2)),))
        >>> report.scores["hidden"].tolist(), report.rows[0].order
        ([0.3, 0.1, 0.2], (1, 2, 0))
    """

    rows: tuple[RankedGroup, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def scores(self) -> dict[str, np.ndarray]:
        """The scores of each group, by the name of the group."""
        return {row.group: np.array(row.scores) for row in self.rows}

    def __str__(self) -> str:
        lines = [
            [
                *(row.group, row.kind, len(row.scores)),
                *(f"{value:.4g}" for value in (min(row.scores), float(np.median(row.scores)), max(row.scores))),
                ", ".join(map(str, row.order[:_SHOWN])),
            ]
            for row in self.rows
        ]
        header = ["group", "kind", "number", "lowest score", "median", "highest", "least important"]
        return table(header, lines, left=2) + skipped_table(self.skipped)


# Rank channels by the error that the layers that read them make without them.


def rank_channels(
    model: keras.Model,
    samples: Any,
    *,
    ridge: float = DAMPING,
    batch_size: int = 32,
    verbose: int | str = "auto",
) -> RankingReport:
    """Rank channels by greedy optimal brain surgery on the layers that read them.

    Use it before `reconstruct`. Channels are removed one by one, each time the one whose removal changes the outputs
    of these layers least after their other weights are reconstructed. The score of a channel is the squared error
    after its removal, as a fraction of the squares of the outputs. Scores do not depend on the order of the channels,
    and can be compared between groups.

    Args:
        model: A built model whose calls can be followed, wrapped or not. It is left unchanged.
        samples: Inputs like those that the model will see, a few hundred, in the forms that `reconstruct` accepts.
        ridge: The number added to the diagonal of the moments, as a fraction of its mean, at least 0. Default 1e-9.
        batch_size: Samples in a batch, at least 1. Default 32.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds.

    Returns:
        A `RankingReport`. Pass it to `plan_shrink(model, 0.5, criterion=report)`, then call `zero_channels` and
        `reconstruct`. Groups are skipped if a layer that reads them has unknown inputs, such as a recurrent layer.

    Raises:
        TypeError: If `model` is not a Keras model, or `samples` are not data.
        ValueError: If the model is not a graph of layers, or none of its groups can be ranked.
        ValueError: If `samples` are empty, of another shape or not finite, or have token ids beyond the
                vocabulary.

    Example:
        >>> layers = [keras.Input((8,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)]
        >>> model = keras.Sequential(layers)
        >>> model.layers[0].set_weights([np.eye(8, 4) * [1, 2, 0, 3], np.zeros(4)])
        >>> report = rank_channels(model, keras.random.normal((64, 8), seed=0))
        >>> report.rows[0].group, report.rows[0].order[0]
        ('hidden', 2)

    Reference:
        Hassibi & Stork, 1993, "Second order derivatives for network pruning: Optimal Brain Surgeon".
    """
    check_number(ridge, "ridge", least=0)
    check_verbose(verbose)
    running = RunningModel(flat_copy(Anatomy.of(model)))
    batches = Batches(samples, running.graph.model, batch_size=batch_size, argument="samples")
    check_token_ids(running.graph, batches)
    skipped: list[Skipped] = []
    ranked = list(_ranked(running, skipped))
    rows = []
    with Progress(len(ranked), verbose=verbose, unit="group") as progress:
        for group, free, readers in ranked:
            scores = _scores(group, free, _surgeons(readers, batches, ridge))
            rows.append(RankedGroup(group.name, group.kind, tuple(scores.tolist())))
            progress.add()
    if not rows:
        raise ValueError(
            f"Expected channels read by layers whose inputs are known. Received: {model.name!r} without any."
        )
    return RankingReport(tuple(rows), tuple(skipped))


def _ranked(running: RunningModel, skipped: list[Skipped]) -> Iterator[tuple[Group, np.ndarray, list[Reader]]]:
    """Yield the groups whose readers are known, with their removable bundles and readers; append the others."""
    for group in running.network.groups:
        part = group.free_part()
        if group.kind == "channels" and part.bundles.size > 1:
            try:
                readers = running.readers_of(part)
            except NotLinear as error:
                skipped.append(Skipped(group.name, str(error), Skipped.NO_RULE))
                continue
            if readers:
                yield group, part.bundles, readers


def _surgeons(readers: list[Reader], batches: Batches, ridge: float) -> list[Surgeon]:
    surgeons = []
    sites = [reader.site for reader in readers]
    for reader, (moments,) in zip(readers, moments_of(sites, batches), strict=True):
        weights = reader.site.map.weights()[0] / np.sqrt(moments.energy.sum() or 1.0)
        surgeons.append(Surgeon(moments.gram, weights, channels=reader.indices, ridge=ridge))
    return surgeons


def _scores(group: Group, free: np.ndarray, surgeons: list[Surgeon]) -> np.ndarray:
    """Return the error once each channel is gone; for channels that have to stay, the error without all others."""
    order, costs = zip(*removals(surgeons, free.size), strict=True)
    errors = np.cumsum(costs)
    scores = dict(zip(free[list(order)].tolist(), errors.tolist(), strict=True))
    return np.array([scores.get(bundle, errors[-1]) for bundle in group.bundles.tolist()])


# Rank attention heads by the loss without each of them.


def rank_heads(
    model: keras.Model, data: Any, *, loss: Any = None, batch_size: int = 32, verbose: int | str = "auto"
) -> RankingReport:
    """Rank attention heads by the growth of the loss when one head alone is removed.

    Use it to choose the heads that `plan_shrink` removes. It evaluates `data` once for each head.

    Args:
        model: A built Sequential or Functional model with one output, wrapped or not. It is left unchanged.
        data: A tuple (x, y), or a dataset of such batches that can be read more than once. A few hundred samples are
            enough.
        loss: A loss, its name or a function; None (the default) takes the loss that the model is compiled with.
        batch_size: Samples in a batch, at least 1. Default 32.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds.

    Returns:
        A `RankingReport`: the growth of the mean loss without each head, by the name of the group, such as
        `attention/heads`. Pass it to `plan_shrink(model, 0.5, criterion=report)`. Heads depend on each other: to
        remove many, shrink and rank again.

    Raises:
        TypeError: If `model` is not a Keras model, or `data` is not data.
        ValueError: If the model is not a graph of layers, has no heads or several outputs, or has no loss.
        ValueError: If `data` have no labels or have sample weights, are empty, of another shape or not finite, or
                have token ids beyond the vocabulary.

    Example:
        >>> from tfprune import plan_shrink
        >>> series = keras.Input((6, 4))
        >>> attended = keras.layers.MultiHeadAttention(2, 3, name="attention")(series, series)
        >>> model = keras.Model(series, keras.layers.Dense(1)(attended))
        >>> x = keras.random.normal((16, 6, 4), seed=0)
        >>> ranks = rank_heads(model, (x, 0 * x[..., :1]), loss="mse")
        >>> [(row.group, row.kept) for row in plan_shrink(model, 0.5, criterion=ranks).rows if row.kind == "heads"]
        [('attention/heads', 1)]

    Reference:
        Coello de Portugal Mecke et al., 2026, "Prune, Update and Trim", arXiv:2605.18331 (heads by masked loss).
    """
    check_verbose(verbose)
    copy = flat_copy(Anatomy.of(model))
    measured = loss_of(model, loss)
    flat, network = copy.model, copy.network
    groups = {group.name: group for group in network.groups if group.kind == "heads"}
    if not groups:
        raise ValueError(f"Expected a model with attention heads that can be followed. Received: {model.name!r}.")
    run = copy.plain if copy.anatomy.kind.has_graph else flat  # which holds the same weights
    batches = Batches(data, run, batch_size=batch_size, is_for_loss=True)
    check_token_ids(trace_to_run(copy.called), batches, argument="data")
    losses: dict[str, list[float]] = {name: [] for name in groups}
    with Progress(sum(group.bundles.size for group in groups.values()), verbose=verbose, unit="head") as progress:
        whole = _mean_loss(run, batches, measured)
        for name, bundle in [(name, int(bundle)) for name, group in groups.items() for bundle in group.bundles]:
            with _without(flat, network, bundle):
                losses[name].append(_mean_loss(run, batches, measured))
            progress.add()
    growths = {name: tuple(loss - whole for loss in each) for name, each in losses.items()}
    return RankingReport(tuple(RankedGroup(name, "heads", scores) for name, scores in growths.items()))


def _mean_loss(model: keras.Model, batches: Batches, loss: Callable) -> float:
    total, count = 0.0, 0
    function = keras.Function(model.inputs, model.outputs)
    for inputs, targets in batches:
        outputs = function([keras.ops.convert_to_tensor(array) for array in inputs])
        total += len(inputs[0]) * batch_loss(loss, outputs[0], targets=targets)
        count += len(inputs[0])
    return total / count


@contextmanager
def _without(flat: keras.Model, network: Network, bundle: int) -> Iterator[None]:
    """Put zeros in place of a bundle."""
    keep = network.all_kept()
    keep[bundle] = False
    before = []
    for weight, variable in network.variables(flat):
        if weight.reading(np.array([bundle])) or weight.making(np.array([bundle])):
            before.append((variable, as_numpy(variable).copy()))
            variable.assign(before[-1][1] * weight.mask(keep))
    try:
        yield
    finally:
        for variable, values in before:
            variable.assign(values)


# GrowingPenalty: shrink the channels that a plan removes while the model trains, before they are cut.


class GrowingPenalty(keras.callbacks.Callback):
    """Pull the channels that a plan removes toward zero, with a growing L2 penalty, while `model.fit` runs.

    Use it between `plan_shrink` and `shrink`, where a cut at once costs accuracy that training does not recover: the
    other channels take over little by little. After the fit, `shrink` with the same plan changes the outputs hardly
    at all.

    After step t, all entries of kernels that make or read a removed channel are multiplied by 1 - c * t. This is
    weight decay apart from the optimizer: for SGD it equals an L2 penalty in the loss whose factor grows steadily.
    c follows from `remaining` and the number of steps. With `steps_per_execution`, the factors of all steps of an
    execution are applied after it. Frozen weights are not changed. Let the learning rate fall toward the end of the
    fit: Adam moves even an entry with a small gradient by as much as the rate.

    Args:
        plan: The plan of `plan_shrink` for the model that is trained.
        remaining: The fraction of each entry that is left at the end of the fit if the loss does not pull at it, in
            (0, 1). Default 1e-6: the loss does.

    Raises:
        TypeError: If `plan` is not a plan, or `remaining` not a number.
        ValueError: If `remaining` is out of range, or the plan removes no channels.
        ValueError: When training begins, if the plan was made for another model, the number of steps is unknown, or
            there are too few of them.

    Example:
        >>> from tfprune import plan_shrink, shrink
        >>> stack = [keras.layers.Dense(8, "relu", name="hidden"), keras.layers.Dense(1, name="out")]
        >>> model = keras.Sequential([keras.Input((4,)), *stack])
        >>> model.compile("sgd", "mse")
        >>> plan = plan_shrink(model, 0.5)
        >>> x = np.random.default_rng(0).normal(size=(64, 4))
        >>> fitted = model.fit(x, x[:, :1], epochs=20, callbacks=[GrowingPenalty(plan)], verbose=0)
        >>> bool(np.allclose(model.predict(x, verbose=0), shrink(model, plan).predict(x, verbose=0), atol=1e-4))
        True

    Reference:
        Wang et al., 2021, "Neural Pruning via Growing Regularization", arXiv:2012.09243, section 3.2 (GReg-1). The
        paper adds the penalty to the loss.
    """

    def __init__(self, plan: ShrinkPlan, *, remaining: float = 1e-6) -> None:
        super().__init__()
        check_plan(plan)
        if plan.keep.all():
            raise ValueError("Expected a plan that removes channels. Received: one that keeps all. Plan a sparsity.")
        self.remaining = check_number(remaining, "remaining", above=0, below=1)
        self.plan = plan

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        batches = self.params.get("steps")
        if batches is None:
            raise ValueError(
                "Expected the number of steps per epoch to be known, because the penalty grows up to the last one. "
                "Received: unknown. Pass steps_per_epoch to fit."
            )
        self._steps = batches * self.params["epochs"]
        self._growth = _growth(self._steps, self.remaining)
        self._removed = list(_removed(self.plan, self.model))

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._begin = self._step = epoch * self.params["steps"]  # a resumed fit goes on where it stopped

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        before, self._step = self._step, self._begin + min(batch + 1, self.params["steps"])
        _ = self.model  # on JAX, reading it brings the weights up to date
        steps = np.arange(before, self._step) + 1  # several with steps_per_execution
        factor = float(np.prod(1 - self._growth * steps))
        for variable, removed in self._removed:
            variable.assign(ops.where(removed, variable.value * factor, variable.value))


def _growth(steps: int, remaining: float) -> float:
    """Return g for which the product of 1 - g * t over all steps t is what shall remain."""

    def logarithm(growth: float) -> float:
        return float(np.log1p(-growth * np.arange(1, steps + 1)).sum())

    low, high = 0.0, 1 / steps * (1 - 1e-12)
    if logarithm(high) > math.log(remaining):
        raise ValueError(
            f"Expected enough steps to shrink channels to {remaining:g} of their size. Received: {steps} steps in "
            f"this fit. Train longer, or pass a larger `remaining`."
        )
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if logarithm(middle) > math.log(remaining) else (low, middle)
    return high


def _removed(plan: ShrinkPlan, model: keras.Model) -> Any:
    """Yield each trained weight of a model with entries that make or read a removed channel, and which they are."""
    copy = flat_copy_for(dataclasses.replace(plan, planned_copy=None), model)  # a kept copy knows no sources
    trained = {id(variable) for variable in model.trainable_variables}
    for weight, variable in plan.network.variables(copy.model):
        mask = weight.mask(plan.keep)
        source = copy.sources.get(id(variable))
        if source is None or mask.all() or id(source.variable) not in trained:
            continue
        if tuple(source.variable.shape) == tuple(as_numpy(variable).shape):
            yield source.variable, ops.convert_to_tensor(~mask)
