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


class HeadOrder:
    """The order in which attention heads go, in rounds, whatever the number of heads to remove.

    In each round, every remaining part of a layer is removed alone: a head with the queries that share it. Where all
    queries of a layer share one, it is the whole layer, as long as so many are to be removed. The parts with the
    smallest loss go. A round is measured once, for all numbers of heads that begin with the rounds before it.

    Args:
        running: The model. It has the same weights whenever heads are chosen.
        arrays: The arrays for its inputs, of one batch.
        removals: The layers of attention.
        loss: Returns the loss of outputs of the model.
    """

    def __init__(
        self, running: RunningModel, arrays: Sequence[Any], *, removals: Sequence[Removal], loss: HeadLoss
    ) -> None:
        self._running, self._arrays = running, arrays
        self._removals, self._loss = removals, loss
        self._measured: dict[tuple, dict[tuple[str, int], float]] = {}  # by the rounds before, and what goes at once

    def kept(self, rounds: Sequence[int]) -> dict[str, np.ndarray]:
        """Return the heads that each layer keeps.

        Args:
            rounds: The number of heads to remove in each round.

        Returns:
            For each layer, by the name of its group, True for the heads that it keeps.
        """
        kept = {each.group.name: np.ones(each.group.bundles.size, dtype=bool) for each in self._removals}
        of_name = {removal.group.name: removal for removal in self._removals}
        for number, count in enumerate(rounds):
            parts = {name: _parts(removal, count) for name, removal in of_name.items()}
            state = (tuple(rounds[:number]), tuple(map(len, parts.values())))
            if state not in self._measured:
                self._measured[state] = self._losses(kept, parts)
            losses = self._measured[state]
            for name, index in sorted(losses, key=lambda key: losses[key]):
                part = parts[name][index]
                if part.size <= min(count, kept[name].sum() - of_name[name].least):
                    kept[name][part] = False
                    count -= part.size
        return kept

    def _losses(
        self, kept: dict[str, np.ndarray], parts: dict[str, tuple[np.ndarray, ...]]
    ) -> dict[tuple[str, int], float]:
        """Return the loss without each of the remaining parts, by the name of its group and its index."""
        running, removals = self._running, self._removals
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
        walk = GraphWalk(running.graph, [self._arrays], weights=masked_kernels)
        losses: dict[tuple[str, int], float] = {}
        for removal in removals:
            walk.advance(min(running.graph.calls.index(call) for call in removal.reader.site.calls))
            name, heads = removal.group.name, kept[removal.group.name]
            for index, part in enumerate(parts[name]):
                if heads[part].all() and heads.sum() - part.size >= removal.least:
                    show(removal, heads & ~np.isin(np.arange(heads.size), part))
                    losses[name, index] = self._loss(walk.outputs(0))
            show(removal, heads)
        return losses


def _parts(removal: Removal, count: int) -> tuple[np.ndarray, ...]:
    """Return the parts of a layer, or its single heads where fewer than a part are to be removed."""
    heads = np.arange(removal.group.bundles.size)
    return removal.parts if removal.parts[0].size <= count else tuple(heads[:, np.newaxis])
