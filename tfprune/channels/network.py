"""The channels of a model as data: the groups that can only go together, and what each layer holds of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfprune.axes import INPUT, OUTPUT
from tfprune.channels.flow import Flow, LayerChannels, Work
from tfprune.channels.rules import follow
from tfprune.channels.ties import joined
from tfprune.models.graph import trace, unused_name
from tfprune.models.kernels import Kernel, kernels
from tfprune.models.layers import walk


@dataclass(frozen=True, eq=False)
class ChanneledWeight:
    """What one weight holds of channels.

    Attributes:
        name: Its path in its layer, `kernel`.
        shape: Its shape.
        bundles_along: The class of the channel at each place along an axis, for each axis that has channels.
        itemsize: Bytes of an entry.
        reads: The axes whose channels it mixes into others.
        writes: The axes whose channels it makes.
    """

    name: str
    shape: tuple[int, ...]
    bundles_along: dict[int, np.ndarray]
    itemsize: int
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()

    def size(self, keep: np.ndarray) -> int:
        """Return the number of entries where only the bundles in `keep` are left."""
        return _product(1, (self.bundles_along.get(axis, size) for axis, size in enumerate(self.shape)), keep)

    def axes_of(self, bundles: np.ndarray) -> tuple[list[int], list[int]]:
        """Return the axes along which it reads, and those along which it makes, any of these bundles."""
        touching = [axis for axis in (*self.reads, *self.writes) if np.isin(self.bundles_along[axis], bundles).any()]
        return [axis for axis in touching if axis in self.reads], [a for a in touching if a in self.writes]

    def mask(self, keep: np.ndarray) -> np.ndarray:
        """Return where it neither makes nor reads a bundle that is not kept: booleans of its shape."""
        mask = np.ones(self.shape, dtype=bool)
        for axis in (*self.reads, *self.writes):
            line = keep[self.bundles_along[axis]]
            mask &= line.reshape([-1 if index == axis else 1 for index in range(mask.ndim)])
        return mask

    def holds(self, bundles: np.ndarray) -> bool:
        """Tell whether any of these bundles is along one of its axes."""
        return any(np.isin(line, bundles).any() for line in self.bundles_along.values())


@dataclass(frozen=True, eq=False)
class ChanneledLayer:
    """What one layer holds of channels: its weights, arguments that count channels, and its multiplications."""

    name: str
    weights: tuple[ChanneledWeight, ...]
    config: dict[str, Any]
    work: tuple[Work, ...]

    def flops(self, keep: np.ndarray) -> int:
        """Return twice its multiplications on one sample."""
        return sum(2 * _product(factor, sizes, keep) for factor, sizes in self.work)


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that are ranked with each other: those of one layer, and of all it is added to.

    Attributes:
        name: The first layer that makes them, and what of it if it makes several kinds; no two have the same.
        kind: "channels", or "heads" of attention.
        bundles: Their numbers; a class is what can only go as a whole.
        members: The layers that make, read or pass them.
    """

    name: str
    kind: str
    bundles: np.ndarray
    members: tuple[str, ...] = field(default=())


@dataclass(frozen=True, eq=False)
class Network:
    """The channels of a flat model.

    Attributes:
        parts: Its layers, by name, in the model's order.
        groups: Its channels.
        reasons: Why a class has to stay, for those that do.
        size: The number of bundles.
    """

    parts: dict[str, ChanneledLayer]
    groups: tuple[Group, ...]
    reasons: dict[int, str]
    size: int

    def all_kept(self) -> np.ndarray:
        """Return the choice that keeps all bundles, True for each."""
        return np.ones(self.size, dtype=bool)

    def free(self, group: Group) -> np.ndarray:
        """Tell of each class of a group whether it may go."""
        return np.array([int(label) not in self.reasons for label in group.bundles], dtype=bool)

    def parameters(self, keep: np.ndarray) -> int:
        """Return the number of entries of all weights."""
        return sum(held.size(keep) for part in self.parts.values() for held in part.weights)

    def bytes(self, keep: np.ndarray) -> int:
        """Return the bytes of all weights as they are in the model."""
        return sum(held.itemsize * held.size(keep) for part in self.parts.values() for held in part.weights)

    def flops(self, keep: np.ndarray) -> int:
        """Return the floating-point operations of one sample: two for each multiplication."""
        return sum(part.flops(keep) for part in self.parts.values())


def _product(factor: int, sizes: Iterable[int | np.ndarray], keep: np.ndarray) -> int:
    for size in sizes:
        factor *= int(np.count_nonzero(keep[size])) if isinstance(size, np.ndarray) else size
    return factor


def analyse(model: keras.Model) -> Network:
    """Follow the channels of a flat model, such as `flatten` returns."""
    flow = follow(trace(model))
    bundles = flow.bundles()
    layers = [layer for layer in flow.layers.values() if isinstance(layer, keras.layers.Layer)]
    parts = {layer.name: _part(flow, layer, bundles) for layer in layers}
    reasons = flow.reasons(bundles)
    groups: list[Group] = []
    taken: set[str] = set()
    for places in joined(flow.sources, bundles):
        sources = [flow.sources[place] for place in places]
        labels = np.unique(np.concatenate([bundles[source.channels] for source in sources]))
        members = tuple(name for name, part in parts.items() if any(held.holds(labels) for held in part.weights))
        groups.append(Group(unused_name(sources[0].name, taken), sources[0].kind, labels, members))
    return Network(parts, tuple(groups), reasons, int(bundles.max(initial=-1)) + 1)


def _part(flow: Flow, layer: keras.layers.Layer, bundles: np.ndarray) -> ChanneledLayer:
    slices = flow.slices.get(id(layer), LayerChannels())
    letters = {id(kernel.variable): kernel for kernel in kernels(layer)}
    of_keras = [part for _, part in walk(layer) if type(part).__module__.startswith("keras.")]
    plain = {id(weight) for part in of_keras for weight in part.weights}
    weights = []
    for place, variable in enumerate(layer.weights):
        layout = slices.weights.get(place, (None,) * len(variable.shape))
        bundles_along = {axis: bundles[channels] for axis, channels in enumerate(layout) if channels is not None}
        kernel = letters.get(id(variable))
        reads, writes = _roles(bundles_along, kernel, mixes=id(variable) not in plain and len(layout) > 1)
        name = variable.name if kernel is None else kernel.path
        shape, itemsize = tuple(map(int, variable.shape)), np.dtype(_storage(variable.dtype)).itemsize
        weights.append(ChanneledWeight(name, shape, bundles_along, itemsize, reads, writes))
    work = tuple((factor, tuple(_numbered(size, flow, bundles) for size in sizes)) for factor, sizes in slices.work)
    return ChanneledLayer(layer.name, tuple(weights), _numbered(slices.config, flow, bundles), work)


def _storage(dtype: str) -> str:
    return "float16" if dtype == "bfloat16" else dtype


def _roles(
    tracked: Collection[int], kernel: Kernel | None, *, mixes: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the axes along which a weight reads channels and those along which it makes them.

    What is no kernel of a Keras layer shifts or scales each channel by itself; that of another may read all it holds.
    """
    if kernel is None:
        return (tuple(tracked), ()) if mixes else ((), ())
    reads, writes = ([axis for axis in tracked if kernel.axes[axis] == letter] for letter in (INPUT, OUTPUT))
    return tuple(reads), tuple(writes)


def _numbered(value: Any, flow: Flow, bundles: np.ndarray) -> Any:
    """Put bundles in place of channels, and what a layer's part counts in place of the part."""
    if isinstance(value, np.ndarray):
        return bundles[value]
    if isinstance(value, tuple):
        return tuple(_numbered(entry, flow, bundles) for entry in value)
    if isinstance(value, dict):
        return {name: _numbered(entry, flow, bundles) for name, entry in value.items()}
    if isinstance(value, keras.layers.Layer):
        return _numbered(flow.slices[id(value)].config, flow, bundles)
    return value
