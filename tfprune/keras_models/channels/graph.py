"""The channels of a Keras model: how they are followed, and what each layer has of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import keras
import numpy as np

from tfprune.base.axes import other_axes, shape_along
from tfprune.keras_models.models.branches import unread
from tfprune.keras_models.models.graph import Call, Graph
from tfprune.keras_models.models.layers import as_numpy
from tfprune.keras_models.models.low_rank import Factor, factors
from tfprune.report import table
from tfprune.solving.dependency_graph import (
    ChannelFlow,
    ChannelIndices,
    DependencyGraph,
    Group,
    Layout,
    NoRule,
    Recorded,
    Work,
    along,
    channels_in,
    check_fits,
    counted,
    flops,
    has_channels,
    placed,
    positions,
    product,
)


class Rule(Protocol):
    """How channels go through one kind of layer: what `register_shrinkable` takes."""

    def __call__(self, flow: Flow, call: Call, /) -> Sequence[Layout]:
        """Follow the channels through one call.

        Args:
            flow: The channels so far: `flow.inputs(call)` are the layouts of what the call takes.
            call: The call: `call.layer`, its arguments and its outputs.

        Returns:
            A layout for each output: for each axis the numbers of the channels along it, or None if it has none.

        Raises:
            NoRule: If the channels cannot be followed. They then stay, with this reason in the plan.
        """


class Flow(ChannelFlow):
    """The channels of a graph model, and where they are.

    Args:
        graph: The calls of a flat model.
        rule_of: Returns the rule of a layer or operation; raises `NoRule` if there is none.
    """

    along = staticmethod(along)
    placed = staticmethod(placed)
    positions = staticmethod(positions)

    def __init__(self, graph: Graph, rule_of: Callable[[Any], Rule]) -> None:
        super().__init__(graph)
        self.probed: dict[str, bool] = {}  # whether layers without weights treat each channel by itself
        self.rule_of = rule_of
        self.follow_calls(lambda call: rule_of(call.layer), reason="an output of the model")

    def first_input(self, call: Call) -> Layout:
        """Return the layout of the first tensor that a call takes, where it is the only one that has channels.

        Raises:
            NoRule: If another one has, such as a mask.
        """
        layout, *others = self.inputs(call)
        if any(map(has_channels, others)):
            raise NoRule("it takes a mask that was computed from channels")
        return layout

    def follow_inner(self, layer: keras.layers.Layer, inputs: Sequence[Layout], shapes: Any) -> Sequence[Layout]:
        """Return the layouts of what a layer inside another one returns, given those of what it takes.

        Args:
            layer: The layer inside.
            inputs: The layouts of its inputs.
            shapes: The shapes of its inputs, then those of its outputs.
        """
        tensors = [keras.KerasTensor(shape) for shape in shapes]
        self.layouts.update(zip(tensors, inputs, strict=False))
        call = Call(layer, tuple(tensors[: len(inputs)]), {}, tensors[len(inputs) :])
        return self.rule_of(layer)(self, call)

    def record(
        self,
        layer: keras.layers.Layer,
        weights: Mapping[str, Layout],
        *,
        config: Mapping[str, Any] | None = None,
        work: Sequence[Work] = (),
    ) -> None:
        """Note what a layer holds; when it is called again, the channels of both calls are tied.

        Args:
            layer: The layer.
            weights: The channels along the axes of each weight, by the end of its path, `kernel` or `query/kernel`;
                names that the layer has no weight for are left out. Factors of LoRA follow from their kernels.
            config: Its arguments that count channels.
            work: The multiplications of this call.

        Raises:
            NoRule: If the layer has a weight that none of the names fits, or one of another shape.
        """
        beside = factors(layer)
        layouts = {
            index: _layout_of(variable, weights, beside.get(id(variable)))
            for index, variable in enumerate(layer.weights)
        }
        before = self.recorded.get(id(layer))
        if before is None:
            self.recorded[id(layer)] = Recorded(layouts, dict(config or {}), [*work])
            return
        for index, layout in layouts.items():
            self.tie_layouts(before.weights[index], layout)
        self._tie_arguments(before.arguments, config or {})
        before.work += work

    def note(self, operation: Any, config: Mapping[str, Any]) -> None:
        """Note which arguments of an operation count or name channels; those of several calls are tied."""
        before = self.recorded.get(id(operation))
        if before is None:
            self.recorded[id(operation)] = Recorded(arguments=dict(config))
        else:
            self._tie_arguments(before.arguments, config)

    def _tie_arguments(self, before: dict[str, Any], config: Mapping[str, Any]) -> None:
        """Let the arguments of a layer serve another call; channels that they cannot count in both have to stay."""
        for name in before.keys() | config.keys():
            values = before.get(name), config.get(name)
            if not self._tied(*values):
                self.pin(channels_in(values), "its layer is called on others, too")
                before.pop(name, None)

    def _tied(self, first: Any, second: Any) -> bool:
        if isinstance(first, tuple) and isinstance(second, tuple) and len(first) == len(second):
            tied = [self._tied(ours, theirs) for ours, theirs in zip(first, second, strict=True)]
            return all(tied)
        if isinstance(first, np.ndarray) and isinstance(second, np.ndarray) and first.size == second.size:
            self.tie(first, second)
            return True
        return first is second or (not [*channels_in((first, second))] and first == second)


def _layout_of(variable: keras.Variable, weights: Mapping[str, Layout], factor: Factor | None) -> Layout:
    path = variable.path if factor is None else factor.kernel.path
    for name, layout in weights.items():
        if f"/{path}".endswith(f"/{name}"):
            layout = layout if factor is None else factor.axes(layout)
            check_fits(layout, variable.shape, repr(variable.path))
            return layout
    raise NoRule(f"its rule says nothing of its weight {variable.path!r}")


def channel_axis(layer: Any, rank: int) -> int:
    """Return the axis of channels of what a layer takes."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


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
        return product((self.bundles_along.get(axis, size) for axis, size in enumerate(self.shape)), keep)

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
        return counted(self.config, keep)

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
        return flops(self.work, keep)


@dataclass(frozen=True, eq=False)
class Network(DependencyGraph):
    """The dependency graph of a flat model: its channels, and which weights make and read them.

    Attributes:
        layers: Its layers, by name, in the model's order.
        unfollowed: Why a layer with kernels could not be looked into, by its name.
        takers: What takes the outputs of an input, layer or operation, by its name (`takers_of`).

    Example:
        A channel of "hidden" goes from its kernel, its bias and the kernel of "out"; those of "out" are outputs.

        >>> import keras
        >>> from tfprune.keras_models.channels.groups import analyze
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

    layers: dict[str, ChanneledLayer] = field(default_factory=dict)
    unfollowed: dict[str, str] = field(default_factory=dict)
    takers: dict[str, frozenset[str]] = field(default_factory=dict)

    def weights_of(self, group: Group) -> list[ChanneledWeight]:
        """Return the weights that make or read channels of a group."""
        weights = (weight for name in group.members for weight in self.layers[name].weights)
        return [weight for weight in weights if weight.reading(group.bundles) or weight.making(group.bundles)]

    def scores(self, scored: Iterable[tuple[ChanneledWeight, np.ndarray]]) -> np.ndarray:
        """Return the mean score of the entries that make each bundle; NaN where no kernel makes it.

        Args:
            scored: Kernels that make channels, each with its scores in its own shape.
        """
        sums, counts = np.zeros(self.size), np.zeros(self.size)
        for weight, scores in scored:
            for axis in weight.makes:
                of_channels = scores.sum(axis=other_axes(scores.ndim, axis), dtype=np.float64)
                np.add.at(sums, weight.bundles_along[axis], of_channels)
                np.add.at(counts, weight.bundles_along[axis], scores.size / of_channels.size)
        with np.errstate(invalid="ignore"):
            return sums / counts

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
            [group.name, weight.path, axis, _role(weight, axis), group.bundles.size, int(group.free.sum())]
            for group in self.groups
            for name in group.members
            for weight in self.layers[name].weights
            for axis in weight.holding(group.bundles)
        ]
        return table(["group", "weight", "axis", "role", "channels", "may go"], rows, left=4)


def _role(weight: ChanneledWeight, axis: int) -> str:
    return "reads" if axis in weight.reads else "makes" if axis in weight.makes else "holds"
