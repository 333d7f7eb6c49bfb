"""The channels of a file as data: the groups that are ranked together, and what a file costs without some of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from tfprune.export.pruning.layers.file_layer import FileLayer
from tfprune.export.pruning.layers.find_layers import find_layers
from tfprune.export.pruning.layers.linear_operators import PLACES
from tfprune.export.pruning.layers.pieces import Pieces
from tfprune.export.pruning.shrinking.file_flow import FileFlow, FileGraph
from tfprune.export.pruning.shrinking.kernel_rules import RULES
from tfprune.solving.dependency_graph import (
    DependencyGraph,
    Group,
    Layout,
    Recorded,
    channels_in,
    flops,
    form_groups,
    in_bundles,
)


def mixing_layers(pieces: Pieces) -> list[FileLayer]:
    """Return the weights that make channels from others and can be solved for, in order."""
    layers, _ = find_layers(pieces)
    return [
        layer
        for layer in layers
        if layer.kind in PLACES and layer.operators[0].loop is None and not layer.is_in_others
    ]


@dataclass(frozen=True, eq=False)
class FileChannels(DependencyGraph):
    """The dependency graph of a file.

    Attributes:
        pieces: The file.
        layouts: The bundles along the axes of each tensor that has channels.
        recorded: What each operator has of channels, as bundles, by the number of its step.
    """

    pieces: Pieces
    layouts: dict[int, Layout]
    recorded: dict[int, Recorded]

    def along_weight(self, layer: FileLayer) -> Layout:
        """Return the bundles along the axes of the weight of a layer; empty if it has none."""
        operator = layer.operators[0]
        return self.recorded.get(operator.step, Recorded()).weights.get(PLACES[operator.kind][1], ())

    def flops(self, keep: np.ndarray) -> int:
        """Return the floating-point operations of one sample: two for each multiplication of a kernel."""
        return sum(flops(each.work, keep) for each in self.recorded.values())

    def flops_of(self, group: Group) -> int:
        """Return the floating-point operations of the operators that make, take or pass channels of a group."""
        own = set(group.bundles.tolist())
        works = (work for each in self.recorded.values() for work in each.work)
        meeting = [work for work in works if any(not own.isdisjoint(axis.tolist()) for axis in channels_in(work))]
        return flops(meeting, self.all_kept())


def file_channels(pieces: Pieces, layers: Collection[FileLayer]) -> FileChannels:
    """Follow the channels of a file.

    Args:
        pieces: The file.
        layers: What `mixing_layers` returns for it.
    """
    flow = FileFlow(FileGraph(pieces), RULES)
    _pin_readers_without_layer(flow, layers)
    bundles = flow.bundles()
    layouts = in_bundles(flow.layouts, bundles)
    recorded = {step: each.in_bundles(bundles) for step, each in flow.recorded.items()}
    weights = [layout for each in recorded.values() for layout in each.weights.values()]
    axes = [frozenset(axis.tolist()) for layout in (*layouts.values(), *weights) for axis in channels_in(layout)]
    return FileChannels(*form_groups(flow, bundles, axes=axes), pieces, layouts, recorded)


def _pin_readers_without_layer(flow: FileFlow, layers: Collection[FileLayer]) -> None:
    """Let channels stay that an operator reads whose weights cannot be solved for."""
    steps = {operator.step for layer in layers for operator in layer.operators}
    for call in flow.graph.calls:
        if call.name in PLACES and call.holder not in steps:
            layout = flow.layout(call.inputs[PLACES[call.name][0]])
            flow.pin(layout, f"{call.name}: its weights cannot be solved for")
