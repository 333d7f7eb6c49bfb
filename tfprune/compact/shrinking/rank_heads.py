"""Rank attention heads by the loss without each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from tfprune.base.progress import Progress, check_verbose
from tfprune.compact.shrinking.ranking_report import RankedGroup, RankingReport
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.compiled import batch_loss, loss_of
from tfprune.keras_models.models.graph import trace_to_run
from tfprune.keras_models.models.layers import as_numpy
from tfprune.keras_models.models.token_ids import check_token_ids
from tfprune.masking.wrapping.flat_copy import flat_copy
from tfprune.solving.dependency_graph import Network


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
