"""Follow the channels of a graph model from layer to layer, and note what each weight holds of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras
import numpy as np

from tfprune.keras_models.channels.no_rule import NoRule
from tfprune.keras_models.models.graph import Call, Graph
from tfprune.keras_models.models.low_rank import Factor, factors
from tfprune.solving.ties import Channels, Layout

Work = tuple[int, tuple["int | np.ndarray", ...]]  # multiplications: a factor, and the sizes that it is multiplied by


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


@dataclass(frozen=True, eq=False)
class ChannelIndices:
    """An argument that names channels by their indices, which change where others are removed.

    Attributes:
        along: The channels along the axis that the indices count on.
        indices: The indices, from 0 on.
    """

    along: np.ndarray
    indices: np.ndarray

    def kept(self, keep: np.ndarray) -> tuple[int, ...]:
        """Return where the channels that are kept are among each other.

        Args:
            keep: Whether each channel, or bundle where `along` holds bundles, is kept.
        """
        places = np.cumsum(keep[self.along]) - 1
        return tuple(places[self.indices[keep[self.along[self.indices]]]].tolist())


@dataclass
class LayerChannels:
    """What one layer holds of channels.

    Attributes:
        weights: For each weight, by its index in `layer.weights`, the channels along its axes.
        config: Arguments of the layer that count channels: an array in place of a number, alone or in a tuple, or a
            layer whose own arguments stand in this one's; or that name them (`ChannelIndices`).
        work: The multiplications of one call on one sample.
    """

    weights: dict[int, Layout] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    work: list[Work] = field(default_factory=list)


class Flow(Channels):
    """The channels of a graph model, and where they are.

    Args:
        graph: The calls of a flat model.
        rule_of: Returns the rule of a layer or operation; raises `NoRule` if there is none.
    """

    def __init__(self, graph: Graph, rule_of: Callable[[Any], Rule]) -> None:
        super().__init__()
        self.recorded: dict[int, LayerChannels] = {}
        self.layers: dict[int, Any] = {}
        self.taken: dict[int, Layout] = {}  # the channels of what a layer first takes, by its id
        self.unfollowed: dict[int, str] = {}  # why, by the id of a layer that no channels lead into
        self._refused: dict[int, NoRule] = {}  # by the id of a layer: another call of it is not followed, either
        self.probed: dict[str, bool] = {}  # whether layers without weights treat each channel by itself
        self.rule_of = rule_of
        self._layouts: dict[int, Layout] = {}
        self._inner_tensors: list[Any] = []
        for call in graph.calls:
            self.layers.setdefault(id(call.layer), call.layer)
            self.taken.setdefault(id(call.layer), next(iter(self.inputs(call)), ()))
            for tensor, layout in zip(call.outputs, self.follow(call), strict=True):
                self._layouts[id(tensor)] = layout
        for tensor in graph.model.outputs:
            self.pin(self.layout(tensor), "an output of the model")

    def layout(self, tensor: Any) -> Layout:
        """Return the channels along the axes of a tensor; an input of the model and a constant have none."""
        return self._layouts.get(id(tensor), (None,) * len(tensor.shape))

    def inputs(self, call: Call) -> list[Layout]:
        """Return the layouts of the tensors that a call takes, in order."""
        return [self.layout(tensor) for tensor in call.inputs]

    def first_input(self, call: Call) -> Layout:
        """Return the layout of the first tensor that a call takes, where it is the only one that has channels.

        Raises:
            NoRule: If another one has, such as a mask.
        """
        layout, *others = self.inputs(call)
        if any(channels is not None for other in others for channels in other):
            raise NoRule("it takes a mask that was computed from channels")
        return layout

    def follow(self, call: Call) -> Sequence[Layout]:
        """Return the layouts of what a call returns; if it has no rule, the channels of its inputs have to stay."""
        sources = len(self.sources)
        try:
            if id(call.layer) in self._refused:
                raise self._refused[id(call.layer)]
            layouts = self.rule_of(call.layer)(self, call)
            _check_returned(layouts, call)
            return layouts
        except NoRule as reason:
            del self.sources[sources:]
            held = self.recorded.pop(id(call.layer), LayerChannels())
            counted = tuple(_channels_in(tuple(held.config.values())))
            given = [*self.inputs(call), *held.weights.values(), counted]
            for layout in given:
                self.pin(layout, f"{call.layer.name}: {reason}")
            if all(channels is None for layout in given for channels in layout):
                self.unfollowed[id(call.layer)] = str(reason)
            else:
                self._refused[id(call.layer)] = reason
            return [(None,) * len(tensor.shape) for tensor in call.outputs]

    def follow_inner(self, layer: keras.layers.Layer, inputs: Sequence[Layout], shapes: Any) -> Sequence[Layout]:
        """Return the layouts of what a layer inside another one returns, given those of what it takes.

        Args:
            layer: The layer inside.
            inputs: The layouts of its inputs.
            shapes: The shapes of its inputs, then those of its outputs.
        """
        tensors = [keras.KerasTensor(shape) for shape in shapes]
        self._inner_tensors.append(tensors)  # kept alive, so that an id stays a tensor's own
        self._layouts.update({id(tensor): layout for tensor, layout in zip(tensors, inputs, strict=False)})
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
            self.recorded[id(layer)] = LayerChannels(layouts, dict(config or {}), [*work])
            return
        for index, layout in layouts.items():
            self.tie_layouts(before.weights[index], layout)
        self._tie_arguments(before.config, config or {})
        before.work += work

    def note(self, operation: Any, config: Mapping[str, Any]) -> None:
        """Note which arguments of an operation count or name channels; those of several calls are tied."""
        before = self.recorded.get(id(operation))
        if before is None:
            self.recorded[id(operation)] = LayerChannels(config=dict(config))
        else:
            self._tie_arguments(before.config, config)

    def _tie_arguments(self, before: dict[str, Any], config: Mapping[str, Any]) -> None:
        """Let the arguments of a layer serve another call; channels that they cannot count in both have to stay."""
        for name in before.keys() | config.keys():
            values = before.get(name), config.get(name)
            if not self._tied(*values):
                self.pin(_channels_in(values), "its layer is called on others, too")
                before.pop(name, None)

    def _tied(self, first: Any, second: Any) -> bool:
        if isinstance(first, tuple) and isinstance(second, tuple) and len(first) == len(second):
            tied = [self._tied(ours, theirs) for ours, theirs in zip(first, second, strict=True)]
            return all(tied)
        if isinstance(first, np.ndarray) and isinstance(second, np.ndarray) and first.size == second.size:
            self.tie(first, second)
            return True
        return first is second or (not [*_channels_in((first, second))] and first == second)

    def tie_layouts(self, first: Layout, second: Layout) -> None:
        """Let the channels along each axis be the same; those that meet none have to stay."""
        for ours, theirs in zip(first, second, strict=True):
            if ours is not None and theirs is not None:
                self.tie(ours, theirs)
            else:
                self.pin([ours, theirs], "its layer is called on channels that are fixed, too")

    @staticmethod
    def along(layout: Layout, axis: int) -> np.ndarray | None:
        """Return the channels along one axis of a layout that has none along any other.

        Raises:
            NoRule: If it has.
        """
        axis %= len(layout)
        if any(channels is not None for index, channels in enumerate(layout) if index != axis):
            raise NoRule(f"it takes channels along axis {axis} only")
        return layout[axis]

    @staticmethod
    def placed(rank: int, axis: int, channels: np.ndarray | None) -> Layout:
        """Return the layout of a tensor that has channels along one axis."""
        return tuple(channels if index == axis % rank else None for index in range(rank))

    @staticmethod
    def positions(shape: Sequence[int | None], *axes: int) -> int:
        """Return the positions per sample of a tensor, without the given axes; an unknown size counts as 1."""
        left_out = {0, *(axis % len(shape) for axis in axes)}
        return int(np.prod([size or 1 for index, size in enumerate(shape) if index not in left_out], dtype=np.int64))


def _channels_in(argument: Any) -> Iterator[np.ndarray]:
    """Yield the channels that an argument counts or names."""
    if isinstance(argument, np.ndarray):
        yield argument
    elif isinstance(argument, ChannelIndices):
        yield argument.along
    elif isinstance(argument, tuple):
        for entry in argument:
            yield from _channels_in(entry)


def _check_returned(layouts: Sequence[Layout], call: Call) -> None:
    if len(layouts) != len(call.outputs):
        raise NoRule(f"its rule returns {len(layouts)} layouts for {len(call.outputs)} outputs")
    for layout, tensor in zip(layouts, call.outputs, strict=True):
        _check_fits(layout, tensor.shape, "an output")


def _layout_of(variable: keras.Variable, weights: Mapping[str, Layout], factor: Factor | None) -> Layout:
    path = variable.path if factor is None else factor.kernel.path
    for name, layout in weights.items():
        if f"/{path}".endswith(f"/{name}"):
            layout = layout if factor is None else factor.axes(layout)
            _check_fits(layout, variable.shape, repr(variable.path))
            return layout
    raise NoRule(f"its rule says nothing of its weight {variable.path!r}")


def _check_fits(layout: Layout, shape: Sequence[int | None], name: str) -> None:
    sizes = [None if channels is None else channels.size for channels in layout]
    fits = len(sizes) == len(shape) and all(
        size is None or size == length for size, length in zip(sizes, shape, strict=True)
    )
    if not fits:
        raise NoRule(f"its rule gives {name} of shape {tuple(shape)} channels of sizes {sizes}")


def channel_axis(layer: Any, rank: int) -> int:
    """Return the axis of channels of what a layer takes."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1
