"""The layers whose units can be recorded: where, and the channel of the dependency graph of each unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.base.axes import output_axes
from tfprune.criteria import FACTS, Magnitude
from tfprune.keras_models.channels.groups import kernels_by_weight
from tfprune.keras_models.evidence.scored_weight import FactRequest, Subject
from tfprune.keras_models.models.graph import Call, Graph, trace
from tfprune.keras_models.models.kernels import Kernel
from tfprune.keras_models.models.layer_hooks import LOOPS, holders
from tfprune.keras_models.models.layers import as_numpy
from tfprune.masking.wrapping.flat_copy import FlatCopy
from tfprune.solving.dependency_graph import ChanneledWeight, Group, Network

_MEANS_OVER_POSITIONS = FACTS["output_moments"]
# Units are recorded behind these layers, as the layers that read the units see them.
_UNITWISE = (
    *(keras.layers.BatchNormalization, keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU),
    *(keras.layers.ELU, keras.layers.PReLU),
)


@dataclass(frozen=True, eq=False)
class LayerUnits:
    """The units of one layer.

    Attributes:
        layer: The name of the layer in the flat copy of its model.
        bundles: The bundle of each unit.
        group: The group that these bundles belong to.
        request: The request by which the units are recorded while the model runs.
    """

    layer: str
    bundles: np.ndarray
    group: Group
    request: FactRequest


class UnitsOfModel:
    """The units of a model that may be removed, by layer; and for every other layer the reason why it has none.

    Args:
        copy: The flat copy of the model.
    """

    def __init__(self, copy: FlatCopy) -> None:
        self.copy, self.network = copy, copy.network
        self.layers: dict[str, LayerUnits] = {}
        self.reasons: dict[str, str] = {}
        self._graph, self._held = trace(copy.model), holders(copy.plain)
        for weight, (_, _, kernel) in kernels_by_weight(self.network, copy.model).items():
            if weight.makes and weight.layer not in self.layers:
                reason = self._add(weight, kernel)
                if reason:
                    self.reasons.setdefault(weight.layer, reason)

    def _add(self, weight: ChanneledWeight, kernel: Kernel) -> str | None:
        """Add the units that a kernel makes, or say why it has none."""
        if len(weight.makes) > 1 or len(output_axes(kernel.axes)) > 1:
            return "its units lie along several axes"
        bundles = weight.bundles_along[weight.makes[0]]
        group = next(group for group in self.network.groups if np.isin(bundles, group.bundles).any())
        reason = "it makes heads of attention" if group.kind == "heads" else group.stuck
        if reason:
            return reason
        hooked, holder = self._held[id(kernel.variable)]
        subject = Subject(weight.path, kernel, Magnitude(), lambda: as_numpy(kernel.variable))
        request = FactRequest(subject, _MEANS_OVER_POSITIONS, _last_of(hooked, self._graph), holder)
        self.layers[weight.layer] = LayerUnits(weight.layer, bundles, group, request)
        return None

    def chosen(self, layers: str | Sequence[str] | None) -> list[LayerUnits]:
        """Return the units of some layers; None takes all.

        Raises:
            TypeError: If `layers` is neither None nor names.
            ValueError: If a layer does not exist or has no units that may be removed, or no layer has any.
        """
        names = list(self.layers) if layers is None else [layers] if isinstance(layers, str) else layers
        if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
            raise TypeError(f"Expected `layers` to be None or names of layers. Received: layers={layers!r}.")
        available = ", ".join(self.layers) or "none"
        if not names:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items()) or "there is no kernel"
            raise ValueError(f"Expected layers with units that may be removed. Received: none, as {reasons}.")
        for name in names:
            if name not in self.layers:
                why = self.reasons.get(name, "no kernel of that name makes units")
                raise ValueError(
                    f"Expected `layers` with units that may be removed: {available}. Received: {name!r}; {why}."
                )
        return [self.layers[name] for name in dict.fromkeys(names)]


def _last_of(layer: keras.layers.Layer, graph: Graph) -> keras.layers.Layer:
    """Return the last of the layers behind a layer that treat each of its units by itself."""
    if isinstance(layer, LOOPS):
        return layer
    calls = [call for call in graph.calls if call.layer is layer]
    for call in calls if len(calls) == 1 else ():
        *_, layer = (each.layer for each in _chain(call, graph))
    return layer


def _chain(call: Call, graph: Graph) -> Iterator[Call]:
    """Yield a call and those behind it, as long as each takes what the one before returns, and nothing else does."""
    calls: dict[int, int] = {}
    for each in graph.calls:
        calls[id(each.layer)] = calls.get(id(each.layer), 0) + 1
    current: Any = call
    while current is not None:
        yield current
        readers = graph.consumers(current)
        is_last = graph.is_output(current) or len(readers) != 1
        behind = None if is_last else readers[0]
        fits = behind is not None and isinstance(behind.layer, _UNITWISE) and calls[id(behind.layer)] == 1
        current = behind if fits else None


def makers(network: Network, group: Group) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the layers whose kernels make channels of a group, each with the bundle of each of its channels."""
    seen: set[str] = set()
    for weight in network.weights_of(group):
        for axis in weight.making(group.bundles):
            if weight.layer not in seen:
                seen.add(weight.layer)
                yield weight.layer, weight.bundles_along[axis]
