"""Branches that are removed whole from a model of a class: layers of zeros in place of those that are in them."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import keras
import numpy as np

from tfprune.keras_models.copying.in_place import derive
from tfprune.keras_models.models.layers import sublayers, walk
from tfprune.masking.wrapping.flat_copy import FlatCopy
from tfprune.solving.dependency_graph import Network


class NoClass(ValueError):  # noqa: N818
    """Why there is no model of the same class with the sizes that were asked for."""


@keras.saving.register_keras_serializable(package="tfprune")
class RemovedLayer(keras.layers.Layer):
    """Returns zeros of the shape of its input, plus a bias if it has one; all that a removed layer leaves.

    Args:
        units: The size of the bias; None for no bias.
        is_end: Whether it was the last layer of a branch.
        **kwargs: As of any layer.
    """

    def __init__(self, units: int | None = None, *, is_end: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.is_end = units, is_end
        self.bias: Any = None

    def build(self, input_shape: Any) -> None:
        if self.units is not None:
            self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")

    def call(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        zeros = keras.ops.zeros_like(x)
        return zeros if self.bias is None else zeros + self.bias

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units, "is_end": self.is_end}


@functools.cache
def without_branch(layer_class: Any) -> Any:
    """Return a subclass of the class of an attention of which only removed layers are left: it runs none of its code.

    A cache of keys and values is returned as it was.
    """
    signature = inspect.signature(layer_class.call)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(self, *args, **kwargs).arguments
        _, x, *_ = arguments.values()
        end = next(part for _, part in walk(self) if isinstance(part, RemovedLayer) and part.is_end)
        outputs = end(x)
        return outputs if arguments.get("cache") is None else (outputs, arguments["cache"])

    call.__signature__ = signature  # type: ignore[attr-defined]
    return derive(layer_class, call=call)


class RemovedBranches:
    """What becomes of the layers of branches that are removed whole, by their index in `copy.layers`.

    Args:
        copy: The flat copy of a Functional subclass.
        network: Its channels.
        keep: Which bundles are kept.

    Attributes:
        parts: The layers that others become.
        whole: The layers that hold nothing but one branch, such as an attention: their code is left out.
        touched: The layers of both, and those inside of them.

    Raises:
        NoClass: If the last layer of a branch has a bias of several axes.
    """

    def __init__(self, copy: FlatCopy, network: Network, *, keep: np.ndarray) -> None:
        ends = network.branch_ends(keep)
        gone = ends | (network.unread(keep) if ends else frozenset())
        self._ends = {
            id(variable)
            for weight, variable in network.variables(copy.model)
            if weight.layer in ends and weight.is_empty(keep, weight.reads)
        }
        self._gone = {
            id(part)
            for layer in copy.model.layers
            if layer.name in gone
            for _, part in walk(layer)
            if part.weights and not sublayers(part)
        }
        indices = {id(layer): index for index, layer in enumerate(copy.layers)}
        self.parts = {indices[id(layer)]: self._removed(layer) for layer in copy.layers if id(layer) in self._gone}
        self.whole = [index for index, layer in enumerate(copy.layers) if index and self._is_whole(layer)]
        inside = {indices[id(part)] for index in self.whole for _, part in walk(copy.layers[index])}
        self.touched = inside | self.parts.keys()

    def _is_end(self, layer: keras.layers.Layer) -> bool:
        return any(id(weight) in self._ends for weight in layer.weights)

    def _is_whole(self, layer: keras.layers.Layer) -> bool:
        """Tell whether all weights in a layer that holds others are those of one branch."""
        parts = [part for _, part in walk(layer) if part.weights and not sublayers(part)]
        are_gone = bool(sublayers(layer)) and all(id(part) in self._gone for part in parts)
        return are_gone and sum(map(self._is_end, parts)) == 1

    def _removed(self, layer: keras.layers.Layer) -> RemovedLayer:
        is_end, bias = self._is_end(layer), getattr(layer, "bias", None)
        if is_end and bias is not None and len(bias.shape) > 1:
            raise NoClass(f"{layer.name} has a bias of several axes")
        units = int(bias.shape[0]) if is_end and bias is not None else None
        removed = RemovedLayer(units, is_end=is_end, name=layer.name, dtype=layer.dtype_policy)
        removed.build(None)
        if units:
            removed.bias.assign(bias)
        return removed
