"""Blocks without names: parts that repeat along the tensors that all paths go through."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import keras

from tfprune.keras_models.copying.twin import layer_inside
from tfprune.keras_models.models.graph import Call, Graph
from tfprune.methods.growth.graph_block import GraphBlock, NoBlocks, PostDominators, between, describe_call

_RIVAL_WEIGHT_FRACTION = 0.25  # a second group of this size is the user's choice, not ours


@dataclass(frozen=True, eq=False)
class _Run:
    """A part of a chain of tensors that repeats: `count` times `period` steps from step `start`."""

    chain: list[keras.KerasTensor]
    calls: list[list[Call]]
    start: int
    period: int
    count: int

    @property
    def inside(self) -> list[Call]:
        steps = self.calls[self.start : self.start + self.period * self.count]
        return [call for step in steps for call in step]

    @property
    def weights(self) -> int:
        return sum(call.layer.count_params() for call in self.inside if isinstance(call.layer, keras.layers.Layer))

    def blocks(self) -> list[GraphBlock]:
        ends = self.chain[self.start :: self.period][: self.count + 1]
        steps = [self.calls[self.start + index * self.period :][: self.period] for index in range(self.count)]
        return [
            GraphBlock(tuple(call for part in step for call in part), entry, end)
            for step, entry, end in zip(steps, ends[:-1], ends[1:], strict=True)
        ]


def repeated_blocks(graph: Graph) -> list[GraphBlock]:
    """Return the largest group of blocks that repeat: the most weights, in the most blocks.

    Raises:
        NoBlocks: If none repeats, or several groups do.
    """
    runs = sorted((run for run in _runs(graph) if run.weights), key=lambda run: (-run.weights, run.period, run.start))
    if not runs:
        raise NoBlocks("no part with weights is followed by one that is built alike")
    best = runs[0]
    inside = {id(call) for call in best.inside}
    for run in runs[1:]:
        if run.weights >= _RIVAL_WEIGHT_FRACTION * best.weights and not inside & {id(call) for call in run.inside}:
            raise NoBlocks(
                f"several groups of blocks repeat: {best.count} that begin with {describe_call(best.inside[0])}, and "
                f"{run.count} that begin with {describe_call(run.inside[0])}"
            )
    return best.blocks()


def _runs(graph: Graph) -> Iterator[_Run]:
    dominators = PostDominators(graph)
    for source in graph.model.inputs:
        chain = dominators.chain(source)
        calls = [between(graph, entry=entry, end=end) for entry, end in itertools.pairwise(chain)]
        yield from _repeating(chain, calls)


def _repeating(chain: list[keras.KerasTensor], calls: list[list[Call]]) -> Iterator[_Run]:
    """Yield the longest runs of blocks that are built alike, for each number of steps in a block.

    The tensors between blocks have one shape. Inside of them weights may differ in size, or be gone, as heads are.
    """
    kinds = [tuple(map(_kind, step)) for step in calls]
    for period in range(1, len(kinds) // 2 + 1):
        start = 0
        while start + 2 * period <= len(kinds):
            end = start
            while end + period < len(kinds) and kinds[end] == kinds[end + period]:
                end += 1
            phases = [range(first, end + period + 1, period) for first in range(start, min(start + period, end + 1))]
            groups = [_of_one_shape(chain, bounds) for bounds in phases]
            best = max(groups, key=lambda runs: sum(map(len, runs)), default=[])
            yield from (_Run(chain, calls, bounds[0], period, len(bounds) - 1) for bounds in best)
            start = max(end, start) + 1


def _of_one_shape(chain: list[keras.KerasTensor], bounds: range) -> list[list[int]]:
    """Return the runs of two blocks or more between tensors of one shape, as the numbers of these tensors."""
    runs = [list(run) for _, run in itertools.groupby(bounds, key=lambda bound: tuple(chain[bound].shape))]
    return [run for run in runs if len(run) > 2]


def _kind(call: Call) -> tuple:
    return type(layer_inside(call.layer)), len(call.inputs)
