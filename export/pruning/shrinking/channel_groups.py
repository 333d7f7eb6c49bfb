"""The channels of a file as data: the groups that are ranked together, and what a file costs without some of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from tfprune.export.pruning.layers.file_layer import FileLayer
from tfprune.export.pruning.layers.find_layers import find_layers
from tfprune.export.pruning.layers.linear_operators import PLACES
from tfprune.export.pruning.layers.pieces import Pieces
from tfprune.export.pruning.shrinking.file_flow import FileFlow, Size
from tfprune.export.pruning.shrinking.kernel_rules import RULES
from tfprune.solving.ties import joined


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that are ranked with each other: those of one operator, and of all operators whose results it meets.

    Attributes:
        name: The name of the first weight that makes them.
        bundles: Their bundles; a bundle is what can only go as a whole.
        free: Those of them that may go.
        reason: Why the others have to stay; empty if there are none.
        parts: Bundles of which one stays at least, so that no axis gets empty.
    """

    name: str
    bundles: np.ndarray
    free: np.ndarray
    reason: str
    parts: tuple[np.ndarray, ...]

    def without(self, gone: np.ndarray) -> ChannelGroup:
        """Return the group as it is once some bundles are gone."""
        parts = tuple(np.setdiff1d(part, gone) for part in self.parts)
        bundles, free = (np.setdiff1d(bundles, gone) for bundles in (self.bundles, self.free))
        return dataclasses.replace(self, bundles=bundles, free=free, parts=parts)


def mixing_layers(pieces: Pieces) -> list[FileLayer]:
    """Return the weights that make channels from others and can be solved for, in order."""
    layers, _ = find_layers(pieces)
    return [
        layer
        for layer in layers
        if layer.kind in PLACES and layer.operators[0].loop is None and not layer.is_in_others
    ]


class FileChannels:
    """The dependency graph of a file.

    Args:
        pieces: The file.
        layers: What `mixing_layers` returns for it.

    Attributes:
        flow: Where the channels are.
        groups: The groups of channels, in order.
        size: The number of bundles.
    """

    def __init__(self, pieces: Pieces, layers: Collection[FileLayer]) -> None:
        self.flow = FileFlow(pieces, RULES)
        _pin_readers_without_layer(self.flow, layers)
        self._bundles = self.flow.bundles()
        self.size = int(self._bundles.max(initial=-1)) + 1
        self._work = [self._in_bundles(sizes) for sizes in self.flow.work]
        self.groups = self._groups()

    def all_kept(self) -> np.ndarray:
        """Return the choice that keeps all bundles, True for each."""
        return np.ones(self.size, dtype=bool)

    def bundles_of(self, channels: np.ndarray) -> np.ndarray:
        """Return the bundle of each channel."""
        return self._bundles[channels]

    def flops(self, keep: np.ndarray) -> int:
        """Return the floating-point operations of one sample: two for each multiplication of a kernel."""
        return sum(2 * _product(sizes, keep) for sizes in self._work)

    def flops_of(self, group: ChannelGroup) -> int:
        """Return the floating-point operations of the operators that make, take or pass channels of a group."""
        keep = self.all_kept()
        own = set(group.bundles.tolist())
        return sum(2 * _product(sizes, keep) for sizes in self._work if own.intersection(_flat(sizes)))

    def _in_bundles(self, sizes: tuple[Size, ...]) -> tuple[Size, ...]:
        return tuple(self._bundles[size] if isinstance(size, np.ndarray) else size for size in sizes)

    def _groups(self) -> tuple[ChannelGroup, ...]:
        reasons = self.flow.reasons(self._bundles)
        axes = {
            frozenset(self._bundles[channels].tolist())
            for layout in (*self.flow.layouts.values(), *self.flow.uses.values())
            for channels in layout
            if channels is not None
        }
        groups = []
        for sources in joined(self.flow.sources, self._bundles):
            bundles = np.unique(np.concatenate([self._bundles[source.channels] for source in sources]))
            whole = frozenset(bundles.tolist())
            parts = tuple(np.array(sorted(part)) for part in {whole & axis for axis in axes} - {frozenset()})
            free = np.array([bundle for bundle in bundles.tolist() if bundle not in reasons], int)
            reason = next((reasons[bundle] for bundle in bundles.tolist() if bundle in reasons), "")
            if len(bundles) < 2:
                free, reason = free[:0], reason or "only one"
            groups.append(ChannelGroup(sources[0].name, bundles, free, reason, parts))
        return tuple(groups)


def _pin_readers_without_layer(flow: FileFlow, layers: Collection[FileLayer]) -> None:
    """Let channels stay that an operator reads whose weights cannot be solved for."""
    steps = {operator.step for layer in layers for operator in layer.operators}
    for call in flow.calls:
        if call.kind in PLACES and call.step not in steps:
            layout = flow.layout(call.inputs[PLACES[call.kind][0]])
            flow.pin(layout, f"{call.kind}: its weights cannot be solved for")


def _flat(sizes: tuple[Size, ...]) -> list[int]:
    return [bundle for size in sizes if isinstance(size, np.ndarray) for bundle in size.tolist()]


def _product(sizes: tuple[Size, ...], keep: np.ndarray) -> int:
    product = 1
    for size in sizes:
        product *= int(np.count_nonzero(keep[size])) if isinstance(size, np.ndarray) else size
    return product
