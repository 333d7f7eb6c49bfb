"""Follow the channels of a graph model from layer to layer, and note what each weight holds of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfprune.channels.ties import Channels, Layout
from tfprune.models.graph import Call, Graph

Rule = Callable[["Flow", Call], "Sequence[Layout]"]
Work = tuple[int, tuple["int | np.ndarray", ...]]  # multiplications: a factor, and the sizes that it is multiplied by


class NoRule(ValueError):  # noqa: N818
    """Says why the channels cannot be followed through a call."""


@dataclass
class LayerChannels:
    """What one layer holds of channels.

    Attributes:
        weights: For each weight, by its place in `layer.weights`, the channels along its axes.
        config: Arguments of the layer that count channels: an array in place of a number, alone or in a tuple, or a
            layer whose own arguments stand in this one's.
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
        self.slices: dict[int, LayerChannels] = {}
        self.layers: dict[int, Any] = {}
        self.rule_of = rule_of
        self._layouts: dict[int, Layout] = {}
        self._parts: list[Any] = []
        for call in graph.calls:
            self.layers.setdefault(id(call.layer), call.layer)
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

    def follow(self, call: Call) -> Sequence[Layout]:
        """Return the layouts of what a call returns; where no rule knows them, its inputs have to stay."""
        sources = len(self.sources)
        try:
            return self.rule_of(call.layer)(self, call)
        except NoRule as reason:
            del self.sources[sources:]
            held = self.slices.pop(id(call.layer), LayerChannels())
            for layout in [*self.inputs(call), *held.weights.values()]:
                self.pin(layout, f"{call.layer.name}: {reason}")
            return [(None,) * len(tensor.shape) for tensor in call.outputs]

    def follow_part(self, part: keras.layers.Layer, inputs: Sequence[Layout], shapes: Any) -> Sequence[Layout]:
        """Return the layouts of what a layer inside another one returns, given those of what it takes.

        Args:
            part: The layer inside.
            inputs: The layouts of its inputs.
            shapes: The shapes of its inputs, then those of its outputs.
        """
        tensors = [keras.KerasTensor(shape) for shape in shapes]
        self._parts.append(tensors)  # kept alive, so that an id stays a tensor's own
        self._layouts.update({id(tensor): layout for tensor, layout in zip(tensors, inputs, strict=False)})
        call = Call(part, tuple(tensors[: len(inputs)]), {}, tensors[len(inputs) :])
        return self.rule_of(part)(self, call)

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
                names that the layer has no weight for are left out.
            config: Its arguments that count channels.
            work: The multiplications of this call.

        Raises:
            NoRule: If the layer has a weight that none of the names fits, or one of another shape.
        """
        named = {place: _named(variable, weights) for place, variable in enumerate(layer.weights)}
        for place, layout in named.items():
            _check(layer.weights[place], layout)
        before = self.slices.get(id(layer))
        if before is None:
            before = self.slices[id(layer)] = LayerChannels(named, dict(config or {}))
        for place, layout in named.items():
            self.tie_layouts(before.weights[place], layout)
        before.work += work

    def tie_layouts(self, one: Layout, other: Layout) -> None:
        """Let the channels along each axis be the same; those that meet none have to stay."""
        for mine, theirs in zip(one, other, strict=True):
            if mine is not None and theirs is not None:
                self.tie(mine, theirs)
            else:
                self.pin([mine, theirs], "its layer is called on channels that are fixed, too")


def _named(variable: keras.Variable, weights: Mapping[str, Layout]) -> Layout:
    for name, layout in weights.items():
        if f"/{variable.path}".endswith(f"/{name}"):
            return layout
    raise NoRule(f"its rule says nothing of its weight {variable.path!r}")


def _check(variable: keras.Variable, layout: Layout) -> None:
    sizes = [None if channels is None else channels.size for channels in layout]
    fits = len(sizes) == len(variable.shape) and all(
        size in (None, length) for size, length in zip(sizes, variable.shape, strict=True)
    )
    if not fits:
        raise NoRule(f"its rule gives {variable.path!r} of shape {tuple(variable.shape)} channels of sizes {sizes}")


def along(layout: Layout, axis: int) -> np.ndarray | None:
    """Return the channels along one axis of a layout that has none along any other.

    Raises:
        NoRule: If it has.
    """
    axis %= len(layout)
    if any(channels is not None for place, channels in enumerate(layout) if place != axis):
        raise NoRule(f"it takes channels along axis {axis} only")
    return layout[axis]


def channel_axis(layer: Any, rank: int) -> int:
    """Return the axis of channels of what a layer takes."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def placed(rank: int, axis: int, channels: np.ndarray | None) -> Layout:
    """Return the layout of a tensor that has channels along one axis."""
    return tuple(channels if place == axis % rank else None for place in range(rank))


def positions(shape: Sequence[int | None], *axes: int) -> int:
    """Return the number of places per sample of a tensor, the named axes aside; an unknown size counts as 1."""
    left_out = {0, *(axis % len(shape) for axis in axes)}
    return int(np.prod([size or 1 for place, size in enumerate(shape) if place not in left_out], dtype=np.int64))
