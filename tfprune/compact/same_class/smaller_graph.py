"""A smaller graph: each layer and operation of a flat copy in the size that is kept."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from tfprune.keras_models.channels.network import Network
from tfprune.keras_models.models.graph import retrace
from tfprune.keras_models.models.layers import as_numpy, is_of_keras
from tfprune.keras_models.models.low_rank import train_alike
from tfprune.keras_models.models.rebuild import copy_of, finish_weights, revive
from tfprune.masking.wrapping.flat_copy import FlatCopy

_SIZED = {"newshape": keras.ops.reshape, "shape": keras.ops.broadcast_to}  # by the argument that is a shape


class SmallerGraph:
    """The graph of some channels alone, and the layers that it has in place of those of the flat copy.

    Args:
        copy: A flat copy of a model. It is used up where the graph has to share layers with it, because they have no
            configuration.
        network: Its channels.
        keep: Which bundles are kept.

    Attributes:
        model: A Functional model.
        network: The channels of the flat copy.
    """

    def __init__(self, copy: FlatCopy, network: Network, *, keep: np.ndarray) -> None:
        self.network, self._keep, self._flat = network, keep, copy.model
        try:
            self.model = self._built(shared=())
        except ValueError:  # a layer without a configuration: the graph runs and is exported, but cannot be saved
            copy.is_used_up = True
            self.model = self._built(shared=[layer for layer in self._flat.operations if self._stays(layer)])

    def _built(self, shared: Iterable[Any]) -> keras.Model:
        """Build the graph over copies of the layers, some of them shared with the flat copy."""
        self._smaller: dict[int, Any] = {id(layer): layer for layer in shared}
        self._shapes: dict[int, tuple[int | None, ...]] = {}
        result = retrace(self._flat, self._call)
        for layer in self._flat.layers:
            if layer.variables:
                self._copy_kept(layer, self._smaller[id(layer)])
        return keras.Model(result.input, result.output)

    def _call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        if id(layer) not in self._smaller:
            self._smaller[id(layer)] = self._smaller_copy(layer)
        if id(layer) not in self._shapes:
            tensors = [leaf for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, keras.KerasTensor)]
            self._shapes[id(layer)] = tensors[0].shape if tensors else ()
        return self._smaller[id(layer)](*args, **kwargs)

    def _smaller_copy(self, layer: Any) -> Any:
        counted = self.counted(layer)
        if isinstance(layer, keras.layers.Layer):
            return copy_of(layer, changes=counted if counted or is_of_keras(layer) else None)
        if "repeats" in counted:
            return functools.partial(keras.ops.repeat, **counted, axis=layer.axis)
        if counted:
            (name, sizes), *_ = counted.items()
            return functools.partial(_sized, name, sizes)
        return revive(keras.saving.serialize_keras_object(layer), layer)

    def _stays(self, layer: Any) -> bool:
        """Tell whether a layer or operation can stand in both graphs."""
        if not isinstance(layer, keras.layers.Layer):
            return not self.counted(layer)
        return not self._changes(layer) and not (is_of_keras(layer) and layer.weights)

    def counted(self, layer: Any) -> dict[str, Any]:
        """Return the arguments of a layer or operation that count channels, with how many are kept."""
        known = self.network.layers.get(layer.name)
        return _counted(known.config, self._keep) if known else {}

    def layer(self, layer: keras.layers.Layer) -> keras.layers.Layer:
        """Return what stands in place of a layer."""
        return self._smaller[id(layer)]

    def shape(self, layer: keras.layers.Layer) -> tuple[int | None, ...]:
        """Return the shape of what is first passed to the layer that stands in place of another."""
        return self._shapes[id(layer)]

    def changed(self) -> list[keras.layers.Layer]:
        """Return the layers of the flat copy that have other sizes in the graph."""
        return [layer for layer in self._flat.layers if id(layer) in self._smaller and self._changes(layer)]

    def _changes(self, layer: keras.layers.Layer) -> bool:
        known = self.network.layers.get(layer.name)
        if known is None:
            return False
        if any(weight.size(self._keep) != math.prod(weight.shape) for weight in known.weights):
            return True
        return self.counted(layer) != _counted(known.config, self.network.all_kept())

    def _copy_kept(self, source: keras.layers.Layer, target: keras.layers.Layer) -> None:
        """Assign the kept entries of the variables of a layer to its smaller copy."""
        if target is source:
            return
        train_alike(source, target)
        weights = dict(zip(map(id, source.weights), self.network.layers[source.name].weights, strict=True))
        for variable, counterpart in zip(source.variables, target.variables, strict=True):
            weight = weights.get(id(variable))
            values = as_numpy(variable)
            counterpart.assign(values if weight is None else weight.kept(values, self._keep))
        finish_weights(target)


def _sized(name: str, sizes: tuple[int, ...], x: Any) -> Any:
    return _SIZED[name](x, sizes)


def _counted(value: Any, keep: np.ndarray) -> Any:
    if isinstance(value, np.ndarray):
        return int(np.count_nonzero(keep[value]))
    if isinstance(value, dict):
        return {name: _counted(entry, keep) for name, entry in value.items()}
    return tuple(_counted(entry, keep) for entry in value) if isinstance(value, tuple) else value
