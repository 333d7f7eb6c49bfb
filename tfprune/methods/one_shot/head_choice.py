"""Choose the attention heads without which the model changes least, in rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.compact.reconstruction.graph_walk import GraphWalk
from tfprune.compact.shrinking.channel_readers import RunningModel
from tfprune.keras_models.models.layers import as_numpy
from tfprune.methods.one_shot.remove_in_order import Removal

HeadLoss = Callable[[Sequence[Any]], float]  # of the outputs of the model


def choose_heads(
    running: RunningModel,
    arrays: Sequence[Any],
    *,
    removals: Sequence[Removal],
    rounds: Sequence[int],
    loss: HeadLoss,
) -> dict[str, np.ndarray]:
    """Choose the heads that each layer keeps.

    In each round, every remaining part of a layer is removed alone: a head with the queries that share it. Where all
    queries of a layer share one, it is the whole layer, as long as so many are to be removed. The parts with the
    smallest loss go.

    Args:
        running: The model.
        arrays: The arrays for its inputs, of one batch.
        removals: The layers of attention.
        rounds: The number of heads to remove in each round.
        loss: Returns the loss of outputs of the model.

    Returns:
        For each layer, by the name of its group, True for the heads that it keeps.
    """
    kept = {removal.group.name: np.ones(removal.group.bundles.size, dtype=bool) for removal in removals}
    of_name = {removal.group.name: removal for removal in removals}
    for count in rounds:
        parts = {name: _parts(removal, count) for name, removal in of_name.items()}
        losses = _losses(running, arrays, removals=removals, kept=kept, parts=parts, loss=loss)
        for name, index in sorted(losses, key=lambda key: losses[key]):
            part = parts[name][index]
            if part.size <= min(count, kept[name].sum() - of_name[name].least):
                kept[name][part] = False
                count -= part.size
    return kept


def _parts(removal: Removal, count: int) -> tuple[np.ndarray, ...]:
    """Return the parts of a layer, or its single heads where fewer than a part are to be removed."""
    heads = np.arange(removal.group.bundles.size)
    return removal.parts if removal.parts[0].size <= count else tuple(heads[:, np.newaxis])


def _losses(
    running: RunningModel,
    arrays: Sequence[Any],
    *,
    removals: Sequence[Removal],
    kept: dict[str, np.ndarray],
    parts: dict[str, tuple[np.ndarray, ...]],
    loss: HeadLoss,
) -> dict[tuple[str, int], float]:
    """Return the loss without each of the remaining parts, by the name of its group and its index."""
    masked: dict[str, Any] = {}

    def masked_kernels() -> list[tuple[Any, Any]]:
        return [(removal.reader.site.map.kernel.variable, masked[removal.group.name]) for removal in removals]

    def show(removal: Removal, heads: np.ndarray) -> None:
        keep = running.network.all_kept()
        keep[removal.group.bundles] = heads
        values = as_numpy(removal.reader.site.map.kernel.variable) * removal.reader.weight.mask(keep)
        masked[removal.group.name] = keras.ops.convert_to_tensor(values)

    for removal in removals:
        show(removal, kept[removal.group.name])
    walk = GraphWalk(running.graph, [arrays], weights=masked_kernels)
    losses: dict[tuple[str, int], float] = {}
    for removal in removals:
        walk.advance(min(running.graph.calls.index(call) for call in removal.reader.site.calls))
        name, heads = removal.group.name, kept[removal.group.name]
        for index, part in enumerate(parts[name]):
            if heads[part].all() and heads.sum() - part.size >= removal.least:
                show(removal, heads & ~np.isin(np.arange(heads.size), part))
                losses[name, index] = loss(walk.outputs(0))
        show(removal, heads)
    return losses
