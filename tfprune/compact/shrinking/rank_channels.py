"""Rank channels by the error that the layers that read them make without them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfprune.base.progress import Progress, check_verbose
from tfprune.compact.reconstruction.layer_moments import moments_of
from tfprune.compact.reconstruction.linear_map import NotLinear
from tfprune.compact.shrinking.channel_readers import Reader, RunningModel
from tfprune.keras_models.channels.network import Group
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.batches import Batches
from tfprune.masking.wrapping.flat_copy import flat_copy
from tfprune.solving.brain_surgery import DAMPING, Surgeon, removals

_log = logging.getLogger(__name__)


def rank_channels(
    model: keras.Model,
    data: Any,
    *,
    ridge: float = DAMPING,
    batch_size: int = 32,
    verbose: int | str = "auto",
) -> dict[str, np.ndarray]:
    """Return scores of channels, by greedy optimal brain surgery on the layers that read them.

    Use it where `reconstruct` follows: the first channel to go is the one without which the outputs of these layers
    change least after their other weights are reconstructed, and so on with the remaining channels. The score of a
    channel is the squared error once it is gone, as a fraction of the squares of the outputs. It does not depend on
    the order of the channels, and compares between groups.

    Args:
        model: A built model whose calls can be followed, wrapped or not. It is left unchanged.
        data: Calibration data, some hundred samples, in the forms that `reconstruct` takes.
        ridge: The number added to the diagonal of the moments, as a fraction of its mean, at least 0.
        batch_size: Samples in a batch, at least 1. Default 32.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds.

    Returns:
        An array of scores for each group of channels, by the name of the group, larger = keep. Pass it on as
        `plan_shrink(model, sparsity, criterion=rank_channels(model, data))`, then call `zero_channels` and
        `reconstruct`. A group is left out if a layer reads it whose inputs are not known, such as a recurrent layer.

    Raises:
        TypeError: If `model` is not a Keras model, or `data` is not data.
        ValueError: If the model is not a graph of layers, or none of its groups can be ranked.
        ValueError: If `data` are empty, of another shape or not finite.

    Example:
        >>> layers = [keras.Input((8,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)]
        >>> model = keras.Sequential(layers)
        >>> model.layers[0].set_weights([np.eye(8, 4) * [1, 2, 0, 3], np.zeros(4)])
        >>> int(rank_channels(model, keras.random.normal((64, 8), seed=0))["hidden"].argmin())
        2

    Reference:
        Hassibi & Stork, 1993, "Second order derivatives for network pruning: Optimal Brain Surgeon".
    """
    check_verbose(verbose)
    running = RunningModel(flat_copy(Anatomy.of(model)))
    batches = Batches(data, running.graph.model, batch_size=batch_size)
    ranked = list(_ranked(running))
    scores: dict[str, np.ndarray] = {}
    with Progress(len(ranked), verbose=verbose, unit="group") as progress:
        for group, free, readers in ranked:
            scores[group.name] = _scores(group, free, _surgeons(readers, batches, ridge))
            progress.add()
    if not scores:
        raise ValueError(
            f"Expected channels read by layers whose inputs are known. Received: {model.name!r} without any."
        )
    return scores


def _ranked(running: RunningModel) -> Iterator[tuple[Group, np.ndarray, list[Reader]]]:
    """Yield the groups whose readers are known, with the bundles that may go and the layers that read them."""
    for group in running.network.groups:
        part = running.network.free_part(group)
        if group.kind == "channels" and part.bundles.size > 1:
            try:
                readers = running.readers_of(part)
            except NotLinear as error:
                _log.info("%s is not ranked: %s", group.name, error)
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
