"""Follow channels through the layers and operations of a Keras model, and record which of them each weight has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np

from tfprune.models.anatomy import Factor, factors
from tfprune.models.graph import Call, Graph
from tfprune.solving.dependency_graph import (
    ChannelFlow,
    Layout,
    NoRule,
    Recorded,
    Work,
    along,
    channels_in,
    check_fits,
    has_channels,
    placed,
    positions,
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
        if isinstance(first, tuple | list) and isinstance(second, tuple | list) and len(first) == len(second):
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
