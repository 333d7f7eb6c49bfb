"""A smaller graph: layers and operations of a flat copy in the size that is kept, and branches that are removed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfprune.masking.strip import FlatCopy
from tfprune.models.anatomy import as_numpy, is_of_keras, sublayers, walk
from tfprune.models.graph import Call, retrace, trace
from tfprune.models.in_place import derive
from tfprune.models.twin import copy_of, revive, set_values
from tfprune.solving.dependency_graph import ChanneledLayer, Network

# A smaller graph: each layer and operation of a flat copy in the size that is kept.

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
        self._placeholders: dict[str, list[None]] = {}
        self._constants: dict[str, Any] = {}
        self._leave_out_branches()
        result = retrace(copy.model, self._call)
        for layer in copy.model.layers:
            self._set_values(layer)
        self.model = keras.Model(result.input, result.output)

    def _set_values(self, layer: Any) -> None:
        smaller = self._smaller.get(id(layer), layer)  # none of a layer in a branch that is gone
        if smaller is not layer and layer.variables:
            values = map(as_numpy, layer.variables)
            kept = self._network.layers[layer.name].values_kept(layer, values, self._keep)
            set_values(layer, smaller, values=kept)

    def _leave_out_branches(self) -> None:
        """Find what leads into removed branches only, and the constants that the ends of these branches return."""
        ends, unread = self._network.branch_ends(self._keep), self._network.unread(self._keep)
        if not ends:
            return
        self._copy.write_zeros(self._network, self._keep)
        for call in trace(self._copy.model).calls:
            if call.layer.name in unread:
                self._placeholders[call.layer.name] = [None] * len(call.outputs)
            elif call.layer.name in ends:
                self._constants[call.layer.name] = _constant_output(
                    call, self._network.layers[call.layer.name], keep=self._keep
                )

    def _call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        if layer.name in self._placeholders:
            return self._placeholders[layer.name]
        if layer.name in self._constants:
            return self._constants[layer.name]
        if (total := _added_to_constants(layer, args, kwargs)) is not None:
            return total
        if id(layer) not in self._smaller:
            self._smaller[id(layer)] = self._smaller_copy(layer)
        outputs = self._smaller[id(layer)](*args, **kwargs)
        if _is_constant(outputs) and isinstance(layer, keras.layers.Layer):  # which its weights decide
            self._set_values(layer)
            return self._smaller[id(layer)](*args, **kwargs)
        return outputs

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
        """Return True if a layer or operation can stand in both graphs."""
        if not isinstance(layer, keras.layers.Layer):
            return not self._counted(layer)
        return not self._loses_channels(layer) and not (is_of_keras(layer) and layer.weights)

    def _loses_channels(self, layer: keras.layers.Layer) -> bool:
        channels = self._network.layers.get(layer.name)
        return channels is not None and channels.changes(self._keep)

    def _counted(self, layer: Any) -> dict[str, Any]:
        """Return the arguments of a layer or operation that count channels, with how many are kept."""
        channels = self._network.layers.get(layer.name)
        return channels.counted(self._keep) if channels else {}


def _sized(name: str, arguments: dict[str, Any], x: Any, *_: Any) -> Any:
    """Call an operation with the arguments of the smaller graph in place of its own."""
    return _SIZED[name](x, **arguments)


def _constant_output(call: Call, channels: ChanneledLayer, *, keep: np.ndarray) -> Any:
    """Return what a layer returns that reads nothing any more, where only the bundles in `keep` are left.

    It has the size 1 along the axes along which it is the same everywhere.

    Args:
        call: The call, whose layer has zeros for what is removed.
        channels: The channels of the layer.
        keep: Which bundles are kept.

    Raises:
        ValueError: If the layer returns several tensors.
    """
    if len(call.outputs) > 1:
        raise ValueError(
            f"Expected a layer with one output at the end of a branch that is removed whole. Received: "
            f"{call.layer.name!r} with {len(call.outputs)}. Keep one of its heads or units."
        )
    args, kwargs = keras.tree.map_structure(_zeros, (call.args, call.kwargs))
    values = keras.ops.convert_to_numpy(keras.tree.flatten(call.layer(*args, **kwargs))[0])
    candidates = [weight.bundles_along[axis] for weight in channels.weights for axis in weight.makes]
    candidates = [bundles for bundles in candidates if keep[bundles].any() and bundles.size == values.shape[-1]]
    for axis in range(values.ndim - 1):
        first = values.take([0], axis)
        values = first if (values == first).all() else values
    return keras.ops.convert_to_tensor(np.compress(keep[candidates[-1]], values, axis=-1) if candidates else values)


def _zeros(value: Any) -> Any:
    """Return zeros in place of a symbolic tensor, of size 1 where its sizes are open."""
    if not isinstance(value, keras.KerasTensor):
        return value
    return keras.ops.zeros([size or 1 for size in value.shape], dtype=value.dtype)


def _is_constant(value: Any) -> bool:
    """Return True if a value is a tensor of numbers."""
    return keras.ops.is_tensor(value) and not isinstance(value, keras.KerasTensor)


def _added_to_constants(layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the sum of an addition to constants, where zeros are left out; None for all other calls."""
    is_operation = not isinstance(layer, keras.layers.Layer) and type(layer).__name__ == "Add"
    if not is_operation and not (isinstance(layer, keras.layers.Add) and is_of_keras(layer)):
        return None
    terms = [value for value in keras.tree.flatten((args, dict(kwargs))) if value is not None]
    constants = [_without_leading_axes(term) for term in terms if _is_constant(term)]
    others = [term for term in terms if not _is_constant(term)]
    if not constants or not others:
        return None
    return functools.reduce(keras.ops.add, [*others, *filter(np.any, constants)])


def _without_leading_axes(value: Any) -> np.ndarray:
    """Return a constant without leading axes of size 1, which would fix the size of a batch."""
    values = keras.ops.convert_to_numpy(value)
    return values.reshape(values.shape[next((axis for axis, size in enumerate(values.shape) if size > 1), -1) :])


# Branches that are removed whole from a model of a class: layers of zeros in place of those that are in them.


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
    """The fate of the layers of branches that are removed whole, by their index in `copy.layers`.

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
        """Return True if all weights in a layer that holds others are those of one branch."""
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
