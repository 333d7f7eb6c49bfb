"""Rank channels by the error that the layers that read them make without them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfprune.base.progress import Progress, check_verbose
from tfprune.base.spec import check_number
from tfprune.compact.reconstruction.layer_moments import moments_of
from tfprune.compact.reconstruction.linear_map import NotLinear
from tfprune.compact.shrinking.channel_readers import Reader, RunningModel
from tfprune.compact.shrinking.ranking_report import RankedGroup, RankingReport
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.token_ids import check_token_ids
from tfprune.masking.wrapping.flat_copy import flat_copy
from tfprune.report import Skipped
from tfprune.solving.brain_surgery import DAMPING, Surgeon, removals
from tfprune.solving.dependency_graph import Group


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
