"""Choose the attention heads without which the model changes least, in rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.compact.reconstruction.graph_walk import GraphWalk
from tfprune.compact.shrinking.readers import RunningModel
from tfprune.keras_models.models.layers import as_numpy
from tfprune.methods.one_shot.remove_in_order import Target

Loss = Callable[[Sequence[Any]], float]  # of the outputs of the model


def choose_heads(
    running: RunningModel, arrays: Sequence[Any], *, targets: Sequence[Target], rounds: Sequence[int], loss: Loss
) -> dict[str, np.ndarray]:
    """Return which heads of each layer stay.

    In each round, every head that is left is taken out alone, together with the queries that share it. Those go
    whose loss is smallest, but the last head of a layer stays.

    Args:
        running: The model.
        arrays: The arrays for its inputs, of the one batch that is looked at.
        targets: The layers of attention.
        rounds: How many heads go in each round.
        loss: Returns the loss of outputs of the model.
    """
    left = {target.group.name: np.ones(target.group.bundles.size, dtype=bool) for target in targets}
    for count in rounds:
        losses = {
            (target.group.name, head): found
            for target, every in zip(
                targets, _losses(running, arrays, targets=targets, left=left, loss=loss), strict=True
            )
            for head, found in every.items()
        }
        for name, head in sorted(losses, key=lambda key: losses[key]):
            if count and left[name].sum() > 1:
                left[name][head] = False
                count -= 1
    return left


def _losses(
    running: RunningModel,
    arrays: Sequence[Any],
    *,
    targets: Sequence[Target],
    left: dict[str, np.ndarray],
    loss: Loss,
) -> list[dict[int, float]]:
    """Return for each layer the loss without each of the heads that are left in it."""
    masked: dict[str, Any] = {}

    def values() -> list[tuple[Any, Any]]:
        return [(target.reader.site.map.kernel.variable, masked[target.group.name]) for target in targets]

    def show(target: Target, heads: np.ndarray) -> None:
        keep = running.network.all_kept()
        keep[target.group.bundles] = heads
        mask = target.reader.weight.mask(keep)
        masked[target.group.name] = keras.ops.convert_to_tensor(
            as_numpy(target.reader.site.map.kernel.variable) * mask
        )

    for target in targets:
        show(target, left[target.group.name])
    walk = GraphWalk(running.graph, [arrays], weights=values)
    found: list[dict[int, float]] = []
    for target in targets:
        walk.advance(min(running.graph.calls.index(call) for call in target.reader.site.calls))
        heads, every = left[target.group.name], {}
        for head in np.flatnonzero(heads) if heads.sum() > 1 else ():
            show(target, heads & (np.arange(heads.size) != head))
            every[int(head)] = loss(walk.outputs(0))
        show(target, heads)
        found.append(every)
    return found
