"""A smaller graph: each layer and operation of a flat copy in the size that is kept."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np

from tfprune.keras_models.channels.network import Network
from tfprune.keras_models.copying.copy_variables import set_values
from tfprune.keras_models.copying.rebuild import copy_of, revive
from tfprune.keras_models.models.graph import retrace
from tfprune.keras_models.models.layers import is_of_keras
from tfprune.masking.wrapping.flat_copy import FlatCopy

# The operations whose arguments may count or name channels, by the name of the class.
_SIZED = {
    "BroadcastTo": keras.ops.broadcast_to,
    "Repeat": keras.ops.repeat,
    "Reshape": keras.ops.reshape,
    "Roll": keras.ops.roll,
    "Squeeze": keras.ops.squeeze,
    "Take": keras.ops.take,
}


class SmallerGraph:
    """The graph of some channels alone.

    Args:
        copy: A flat copy of a model. It is used up where the graph has to share layers with it, because they have no
            configuration.
        network: Its channels.
        keep: Which bundles are kept.

    Attributes:
        model: A Functional model.
    """

    def __init__(self, copy: FlatCopy, network: Network, *, keep: np.ndarray) -> None:
        self._copy, self._network, self._keep = copy, network, keep
        self._smaller: dict[int, Any] = {}
        result = retrace(copy.model, self._call)
        for layer in copy.model.layers:
            if layer.variables and self._smaller[id(layer)] is not layer:
                values = network.layers[layer.name].values_kept(layer, keep)
                set_values(layer, self._smaller[id(layer)], values=values)
        self.model = keras.Model(result.input, result.output)

    def _call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        if id(layer) not in self._smaller:
            self._smaller[id(layer)] = self._smaller_copy(layer)
        return self._smaller[id(layer)](*args, **kwargs)

    def _smaller_copy(self, layer: Any) -> Any:
        try:
            return self._by_configuration(layer)
        except ValueError:  # it has none: the graph runs and is exported, but cannot be saved
            if not self._stays(layer):
                raise
            self._copy.is_used_up = True
            return layer

    def _by_configuration(self, layer: Any) -> Any:
        counted = self._counted(layer)
        if isinstance(layer, keras.layers.Layer):
            # A user's layer that loses nothing may be one that its call does not build.
            is_anew = counted or is_of_keras(layer) or self._loses_channels(layer)
            return copy_of(layer, changes=counted if is_anew else None)
        if counted:
            axis = {"axis": layer.axis} if hasattr(layer, "axis") else {}
            return functools.partial(_sized, type(layer).__name__, {**axis, **counted})
        return revive(keras.saving.serialize_keras_object(layer), layer)

    def _stays(self, layer: Any) -> bool:
        """Tell whether a layer or operation can stand in both graphs."""
        if not isinstance(layer, keras.layers.Layer):
            return not self._counted(layer)
        return not self._loses_channels(layer) and not (is_of_keras(layer) and layer.weights)

    def _loses_channels(self, layer: keras.layers.Layer) -> bool:
        known = self._network.layers.get(layer.name)
        return known is not None and known.changes(self._keep)

    def _counted(self, layer: Any) -> dict[str, Any]:
        """Return the arguments of a layer or operation that count channels, with how many are kept."""
        known = self._network.layers.get(layer.name)
        return known.counted(self._keep) if known else {}


def _sized(name: str, arguments: dict[str, Any], x: Any, *_: Any) -> Any:
    """Call an operation with the arguments of the smaller graph in place of its own."""
    return _SIZED[name](x, **arguments)
