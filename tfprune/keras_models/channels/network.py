"""The channels of a model as data: the groups that are ranked together, and what each layer holds of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from tfprune.base.axes import other_axes, shape_along
from tfprune.keras_models.channels.flow import ChannelIndices, Work
from tfprune.keras_models.models.branches import unread
from tfprune.keras_models.models.layers import as_numpy
from tfprune.report import table


@dataclass(frozen=True, eq=False)
class ChanneledWeight:
    """What one weight holds of channels.

    Attributes:
        layer: The name of its layer.
        name: Its path in its layer, `kernel`.
        shape: Its shape.
        bundles_along: The bundle of the channel at each index along an axis, for each axis that has channels.
        itemsize: Bytes of an entry.
        reads: The axes whose channels it mixes into others.
        makes: The axes whose channels it makes.
    """

    layer: str
    name: str
    shape: tuple[int, ...]
    bundles_along: dict[int, np.ndarray]
    itemsize: int
    reads: tuple[int, ...] = ()
    makes: tuple[int, ...] = ()

    @property
    def path(self) -> str:
        """Its path in the flat model, `hidden/kernel`."""
        return f"{self.layer}/{self.name}"

    def size(self, keep: np.ndarray) -> int:
        """Return the number of entries where only the bundles in `keep` are left."""
        return _product(1, (self.bundles_along.get(axis, size) for axis, size in enumerate(self.shape)), keep)

    def reading(self, bundles: np.ndarray) -> list[int]:
        """Return the axes along which it reads any of these bundles."""
        return [axis for axis in self.holding(bundles) if axis in self.reads]

    def making(self, bundles: np.ndarray) -> list[int]:
        """Return the axes along which it makes any of these bundles."""
        return [axis for axis in self.holding(bundles) if axis in self.makes]

    def holding(self, bundles: np.ndarray) -> list[int]:
        """Return the axes that have any of these bundles; a bias has some that it neither reads nor makes."""
        return [axis for axis, along in self.bundle_sets.items() if not along.isdisjoint(bundles.tolist())]

    @cached_property
    def bundle_sets(self) -> dict[int, frozenset[int]]:
        """The bundles along each axis that has channels, in no order."""
        return {axis: frozenset(along.tolist()) for axis, along in self.bundles_along.items()}

    def is_empty(self, keep: np.ndarray, axes: Iterable[int]) -> bool:
        """Tell whether no channel is left along one of some axes."""
        return any(not keep[self.bundles_along[axis]].any() for axis in axes)

    def mask(self, keep: np.ndarray) -> np.ndarray:
        """Return where it neither makes nor reads a bundle that is not kept: booleans of its shape."""
        mask = np.ones(self.shape, dtype=bool)
        for axis in (*self.reads, *self.makes):
            mask &= keep[self.bundles_along[axis]].reshape(shape_along(mask.ndim, axis))
        return mask

    def kept(self, values: np.ndarray, keep: np.ndarray) -> np.ndarray:
        """Return the entries of an array of its shape that are left where only the bundles in `keep` are."""
        for axis, bundles in self.bundles_along.items():
            values = np.compress(keep[bundles], values, axis=axis)
        return values

    def bundles_read(self, live: np.ndarray) -> np.ndarray:
        """Return the bundles that it reads by an entry that is True in `live`, booleans of its shape."""
        inputs = [self.bundles_along[axis][live.any(axis=other_axes(live.ndim, axis))] for axis in self.reads]
        return np.concatenate([np.empty(0, int), *inputs])


@dataclass(frozen=True, eq=False)
class ChanneledLayer:
    """What one layer holds of channels.

    Attributes:
        name: Its name.
        weights: Its weights.
        config: Its arguments that count channels, with the bundles in place of their number, or that name them.
        work: Its multiplications.
        takes: The bundles along each axis of what it first takes, None along an axis without channels.
    """

    name: str
    weights: tuple[ChanneledWeight, ...]
    config: dict[str, Any]
    work: tuple[Work, ...]
    takes: tuple[np.ndarray | None, ...] = ()

    def reads_nothing(self, keep: np.ndarray) -> bool:
        """Tell whether it returns a constant where only the bundles in `keep` are left."""
        ends = [weight for weight in self.weights if weight.is_empty(keep, weight.reads)]
        written = {bundle for end in ends for axis in end.makes for bundle in end.bundles_along[axis].tolist()}
        rest = [weight for weight in self.weights if not weight.is_empty(keep, (*weight.reads, *weight.makes))]
        return bool(ends) and not any(written & weight.bundle_sets[axis] for weight in rest for axis in weight.makes)

    def taken_by_index(self) -> Iterator[frozenset[int]]:
        """Yield the bundles that an operation takes by their indices."""
        for value in self.config.values():
            if isinstance(value, ChannelIndices):
                yield frozenset(value.along[value.indices].tolist())

    @property
    def mixes(self) -> bool:
        """Whether it has a weight that may be a kernel."""
        return any(len(weight.shape) > 1 for weight in self.weights)

    def counted(self, keep: np.ndarray) -> dict[str, Any]:
        """Return its arguments that count channels where only the bundles in `keep` are left."""
        return _counted(self.config, keep)

    def changes(self, keep: np.ndarray) -> bool:
        """Tell whether it has other sizes where only the bundles in `keep` are left."""
        is_smaller = any(weight.size(keep) != math.prod(weight.shape) for weight in self.weights)
        return is_smaller or self.counted(keep) != self.counted(np.ones_like(keep))

    def values_kept(self, layer: Any, keep: np.ndarray) -> list[np.ndarray]:
        """Return the values of the variables of the layer itself that are left where only `keep` are."""
        weights = dict(zip(map(id, layer.weights), self.weights, strict=True))
        return [
            weights[id(variable)].kept(as_numpy(variable), keep) if id(variable) in weights else as_numpy(variable)
            for variable in layer.variables
        ]

    def flops(self, keep: np.ndarray) -> int:
        """Return twice its multiplications on one sample."""
        return sum(2 * _product(factor, sizes, keep) for factor, sizes in self.work)


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that are ranked with each other: those of one layer, and of all layers it is added to.

    Attributes:
        name: The first layer that makes them, with a suffix if it makes several kinds; no two groups share a name.
        kind: "channels", or "heads" of attention.
        bundles: The numbers of its bundles; a bundle is what can only go as a whole.
        members: The layers that make, read or pass the channels.
    """

    name: str
    kind: str
    bundles: np.ndarray
    members: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}: {self.bundles.size} {self.kind} of {', '.join(self.members)}"


@dataclass(frozen=True, eq=False)
class Network:
    """The dependency graph of a flat model: its channels, and which weights make and read them.

    Attributes:
        layers: Its layers, by name, in the model's order.
        groups: Its groups of channels.
        reasons: Why a bundle has to stay, by its number, for those that do.
        size: The number of bundles.
        unfollowed: Why a layer with kernels could not be looked into, by its name.
        takers: What takes the outputs of an input, layer or operation, by its name (`takers_of`).

    Example:
        A channel of "hidden" goes from its kernel, its bias and the kernel of "out"; those of "out" are outputs.

        >>> import keras
        >>> from tfprune.keras_models.channels.analyze import analyze
        >>> hidden, out = keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2, name="out")
        >>> x = keras.Input((3,))
        >>> network = analyze(keras.Model(x, out(hidden(x))))
        >>> print(network)
        group   weight         axis  role   channels  may go
        ------  -------------  ----  -----  --------  ------
        hidden  hidden/kernel  1     makes         4       4
        hidden  hidden/bias    0     holds         4       4
        hidden  out/kernel     0     reads         4       4
        out     out/kernel     1     makes         2       0
        out     out/bias       0     holds         2       0
        >>> [weight.path for weight in network.weights_of(network.groups[0])]
        ['hidden/kernel', 'out/kernel']
    """

    layers: dict[str, ChanneledLayer]
    groups: tuple[Group, ...]
    reasons: dict[int, str]
    size: int
    unfollowed: dict[str, str] = field(default_factory=dict)
    takers: dict[str, frozenset[str]] = field(default_factory=dict)

    def all_kept(self) -> np.ndarray:
        """Return the choice that keeps all bundles, True for each."""
        return np.ones(self.size, dtype=bool)

    def free(self, group: Group) -> np.ndarray:
        """Return for each bundle of a group whether it may go."""
        return np.array([int(bundle) not in self.reasons for bundle in group.bundles], dtype=bool)

    def free_part(self, group: Group) -> Group:
        """Return a group without the bundles that have to stay."""
        return replace(group, bundles=group.bundles[self.free(group)])

    def weights_of(self, group: Group) -> list[ChanneledWeight]:
        """Return the weights that make or read channels of a group."""
        weights = (weight for name in group.members for weight in self.layers[name].weights)
        return [weight for weight in weights if weight.reading(group.bundles) or weight.making(group.bundles)]

    @cached_property
    def parts(self) -> dict[str, list[np.ndarray]]:
        """The parts of each group of which one bundle stays at least, by the group's name: no axis gets empty."""
        by_index = [along for layer in self.layers.values() for along in layer.taken_by_index()]
        parts = {}
        for group in self.groups:
            whole = frozenset(group.bundles.tolist())
            weights = (weight for name in group.members for weight in self.layers[name].weights)
            axes = [*by_index, *(along for weight in weights for along in weight.bundle_sets.values())]
            parts[group.name] = [
                np.array(sorted(part)) for part in {whole & along for along in axes} - {whole, frozenset()}
            ]
        return parts

    def variables(self, model: Any) -> Iterator[tuple[ChanneledWeight, Any]]:
        """Yield each weight with its variable in a flat model of these layers."""
        layers = {layer.name: layer for layer in model.layers}
        for layer in self.layers.values():
            yield from zip(layer.weights, layers[layer.name].weights, strict=True) if layer.weights else ()

    def branch_ends(self, keep: np.ndarray) -> frozenset[str]:
        """Return the layers that read nothing any more: the last ones of branches that are removed whole."""
        return frozenset(name for name, layer in self.layers.items() if layer.reads_nothing(keep))

    def unread(self, keep: np.ndarray) -> frozenset[str]:
        """Return the inputs, layers and operations whose outputs lead into removed branches only."""
        return unread(self.takers, ends=self.branch_ends(keep))

    def weights_left(self, keep: np.ndarray) -> Iterator[ChanneledWeight]:
        """Yield the weights that are left: the end of a branch that is removed whole keeps its biases."""
        ends = self.branch_ends(keep)
        for name in self.layers.keys() - self.unread(keep):
            yield from (each for each in self.layers[name].weights if name not in ends or not each.reads + each.makes)

    def parameters(self, keep: np.ndarray) -> int:
        """Return the number of entries of all weights."""
        return sum(weight.size(keep) for weight in self.weights_left(keep))

    def bytes(self, keep: np.ndarray) -> int:
        """Return the bytes of all weights as they are in the model."""
        return sum(weight.itemsize * weight.size(keep) for weight in self.weights_left(keep))

    def flops(self, keep: np.ndarray) -> int:
        """Return the floating-point operations of one sample: two for each multiplication."""
        gone = self.unread(keep) | self.branch_ends(keep)
        return sum(layer.flops(keep) for name, layer in self.layers.items() if name not in gone)

    def __str__(self) -> str:
        rows = [
            [group.name, weight.path, axis, _role(weight, axis), group.bundles.size, int(self.free(group).sum())]
            for group in self.groups
            for name in group.members
            for weight in self.layers[name].weights
            for axis in weight.holding(group.bundles)
        ]
        return table(["group", "weight", "axis", "role", "channels", "may go"], rows, left=4)


def _role(weight: ChanneledWeight, axis: int) -> str:
    return "reads" if axis in weight.reads else "makes" if axis in weight.makes else "holds"


def _product(factor: int, sizes: Iterable[int | np.ndarray], keep: np.ndarray) -> int:
    for size in sizes:
        factor *= int(np.count_nonzero(keep[size])) if isinstance(size, np.ndarray) else size
    return factor


def _counted(value: Any, keep: np.ndarray) -> Any:
    if isinstance(value, np.ndarray):
        return int(np.count_nonzero(keep[value]))
    if isinstance(value, ChannelIndices):
        return value.kept(keep)
    if isinstance(value, dict):
        return {name: _counted(entry, keep) for name, entry in value.items()}
    return tuple(_counted(entry, keep) for entry in value) if isinstance(value, tuple) else value
