"""Rank the channels of a file by the errors of the operators that read them, and by what the outputs feel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfprune.export.device.processes.child_progress import ChildProgress
from tfprune.export.pruning.layers.file_layer import FileLayer
from tfprune.export.pruning.layers.file_outputs import FileOutputs, Runs
from tfprune.export.pruning.layers.loops import Activations
from tfprune.export.pruning.layers.pieces import Pieces
from tfprune.export.pruning.shrinking.channel_groups import FileChannels
from tfprune.solving.brain_surgery import Surgeon, removals
from tfprune.solving.dependency_graph import Group
from tfprune.solving.least_squares import GramMoments
from tfprune.solving.split_by_error import LEVEL_FELT, LEVELS, ErrorCurve

RIDGE = 1e-4  # of the mean square of the inputs, while channels are ranked
NONE = -1  # in place of a bundle


@dataclass(frozen=True, eq=False)
class RankedGroup:
    """A group of channels with an order of removal.

    Attributes:
        group: The channels.
        order: The bundles that may go, the first to go first.
        curve: What the file's outputs lose with the fraction of these that is gone.
    """

    group: Group
    order: np.ndarray
    curve: ErrorCurve

    def removed(self, share: float, *, round_to: int) -> np.ndarray:
        """Return the bundles that go, at most a share of those that may, where a multiple of a number stays."""
        total = len(self.group.bundles)
        remaining = total - int(share * len(self.order) + 1e-9)
        remaining = min(-(-remaining // round_to) * round_to, total)
        places = np.searchsorted(self.group.bundles, self.order)
        keep, scores = np.ones(total, dtype=bool), np.zeros(total)
        keep[places[: total - remaining]] = False
        scores[places] = np.arange(len(places))
        self.group.keep_one_of_each_part(keep, scores)
        return self.group.bundles[~keep]


class Ranking:
    """Runs the dense file on samples once, and ranks the channels of each group when all who read them were reached.

    Args:
        pieces: The dense file.
        runs: The inputs of each run, by tensor.
        layers: The weights that can be solved for.
        channels: The channels.
        progress: Counts the layers that were reached.
    """

    def __init__(
        self,
        pieces: Pieces,
        runs: Runs,
        *,
        layers: Sequence[FileLayer],
        channels: FileChannels,
        progress: ChildProgress,
    ) -> None:
        self._pieces, self._runs, self._channels = pieces, runs, channels
        self._layers, self._progress = layers, progress
        self._read = {id(layer): read_bundles(channels, layer) for layer in layers}
        self._moments: dict[int, list[GramMoments]] = {}
        self.shared: dict[int, list[GramMoments]] = {}
        self.unranked: list[tuple[Group, str]] = []

    def ranked(self, folder: Path) -> list[RankedGroup]:
        """Return the groups that may lose channels, in order."""
        waiting = [(group, readers) for group in self._channels.groups if (readers := self._readers(group))]
        states = Activations(self._pieces, self._runs, folder=folder)
        outputs = FileOutputs(self._pieces, self._runs)
        done: dict[str, RankedGroup] = {}
        for _ in self._passed(states):
            ready = [(group, readers) for group, readers in waiting if self._has_all(readers)]
            waiting = [entry for entry in waiting if not self._has_all(entry[1])]
            for group, readers in ready:
                done[group.name] = self._rank(group, readers, states=states, outputs=outputs)
            needed = {id(reader) for _, readers in waiting for reader in readers}
            self._moments = {key: sums for key, sums in self._moments.items() if key in needed}
        return [done[group.name] for group in self._channels.groups if group.name in done]

    def _readers(self, group: Group) -> list[FileLayer]:
        """Return the layers that read channels of a group which may go."""
        if group.stuck:
            return []
        free = group.free_part().bundles
        readers = [layer for layer in self._layers if np.isin(self._read[id(layer)], free).any()]
        counts = [np.unique(self._read[id(layer)], return_counts=True) for layer in readers]
        uneven = any(len({*numbers[np.isin(bundles, free)].tolist()}) > 1 for bundles, numbers in counts)
        if uneven or not readers:
            reason = "an operator reads some channels more often than others" if uneven else "no operator reads them"
            self.unranked.append((group, reason))
            return []
        return readers

    def _has_all(self, readers: Sequence[FileLayer]) -> bool:
        return all(id(reader) in self._moments for reader in readers)

    def _passed(self, states: Activations) -> Iterator[None]:
        """Go through the layers in order, and yield whenever the inputs of one were added up."""
        adding = {id(layer): layer.moments() for layer in self._layers}
        uses = [(operator, layer) for layer in self._layers for operator in layer.operators]
        for operator, layer in sorted(uses, key=lambda use: use[0].order):
            for run, x in enumerate(states.of(operator)):
                layer.add(adding[id(layer)], layer.rows(self._pieces, operator, x, run=run))
            if operator is layer.operators[-1]:
                sums = adding.pop(id(layer))
                aimed = [each.aimed_at(own) for each, own in zip(sums, layer.weights, strict=True)]
                self._moments[id(layer)] = aimed
                if layer.is_in_parallel:
                    self.shared[id(layer)] = aimed
                self._progress.add()
                yield

    def _rank(
        self, group: Group, readers: Sequence[FileLayer], *, states: Activations, outputs: FileOutputs
    ) -> RankedGroup:
        free = group.free_part().bundles
        free_bundles = free[np.any([np.isin(free, self._read[id(reader)]) for reader in readers], axis=0)]
        order, costs = zip(
            *removals([self._surgeon(free_bundles, reader) for reader in readers], len(free_bundles)), strict=True
        )
        errors = np.concatenate([[0.0], np.cumsum(costs)])
        bundles = free_bundles[list(order)]
        counts = np.rint(LEVELS * len(bundles)).astype(int)
        curve = ErrorCurve(self._channels.flops_of(group), 0.0, errors[counts])
        felt = self._felt(bundles[: counts[LEVEL_FELT]], readers, states=states, outputs=outputs)
        return RankedGroup(group, bundles, curve.scaled(felt))

    def _surgeon(self, free_bundles: np.ndarray, reader: FileLayer) -> Surgeon:
        (sums,) = self._moments[id(reader)]
        bundles = self._read[id(reader)]
        places = [np.flatnonzero(bundles == bundle) for bundle in free_bundles]
        size = max(map(len, places))
        columns = np.array([own if len(own) else np.full(size, NONE) for own in places])
        weights = reader.weights[0] / np.sqrt(sums.energy.sum() or 1.0)
        return Surgeon(sums.gram, weights, channels=columns, ridge=RIDGE)

    def _felt(
        self, gone: np.ndarray, readers: Sequence[FileLayer], *, states: Activations, outputs: FileOutputs
    ) -> float:
        """Return the error of the file's outputs where some channels of a group alone are gone."""
        is_here = len(readers) == 1 and not readers[0].is_in_parallel
        start, values = (states.step, states.all) if is_here else (0, outputs.inputs)
        with contextlib.ExitStack() as stack:
            for reader in readers:
                mask = ~np.isin(self._read[id(reader)], gone)
                solved = reader.solver.without(self._moments[id(reader)], mask)
                stack.enter_context(reader.written(self._pieces, solved))
            return outputs.error(start, values)


def read_bundles(channels: FileChannels, layer: FileLayer) -> np.ndarray:
    """Return the bundle of each input of a layer, `NONE` for one that stays."""
    operator, layout = layer.operators[0], channels.along_weight(layer)
    axes = [axis for axis, bundles in enumerate(layout) if bundles is not None and axis != operator.output_axis]
    if not axes:
        return np.full(layer.inputs, NONE)
    (axis,) = axes
    along: np.ndarray = layout[axis]  # type: ignore[assignment]
    lengths = [-1 if other == axis else 1 for other in range(len(layout))]
    return operator.to_matrix(np.broadcast_to(along.reshape(lengths), layer.stored.shape))[0, 0]


def made_bundles(channels: FileChannels, layer: FileLayer) -> np.ndarray:
    """Return the bundle of each output of a layer, of shape (groups, outputs), `NONE` for one that stays."""
    layout = channels.along_weight(layer)
    bundles = layout[layer.operators[0].output_axis] if layout else None
    return np.full(layer.weights.shape[:2], NONE) if bundles is None else bundles.reshape(layer.weights.shape[:2])
