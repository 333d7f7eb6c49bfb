"""A smaller model: a graph of plain layers in the sizes that are kept, or one of the class that the user wrote."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfprune.masking.pruned import check_without_masks
from tfprune.masking.strip import FlatCopy
from tfprune.models.anatomy import (
    Anatomy,
    Kind,
    as_numpy,
    check_model,
    is_of_keras,
    kind_of,
    quantized_already,
    rename,
    sublayers,
    walk,
)
from tfprune.models.by_attributes import become_part
from tfprune.models.graph import Call, retrace, trace
from tfprune.models.in_place import Remade, derive, reader, saved_with
from tfprune.models.tracing import FAILURES, describe, first_run, run_on_numbers, same_outputs
from tfprune.models.twin import class_config, config_of, copy_of, fresh_copy, revive, set_values
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


# Exchange layers deep inside a model of a class for smaller ones; the model is saved with them.
#
# The code of a class makes all blocks alike, of the sizes that its arguments give. Where blocks keep different
# numbers of heads or units, their layers are exchanged, and the numbers that their code reads are set. Other
# settings are set as well, such as the window of a block that has another index now.

_SIZES = "tfprune_sizes"  # where a resized model keeps what was exchanged
_ORIGIN = "tfprune_made_from"  # where it keeps what class it was made by
_SUFFIX = "OfUnequalBlocks"  # of the name of its class, by which a task of KerasHub refuses to export it
_SHOWN = 2  # layers that differ from block to block, in an error
_HEADS = "tfprune_heads"  # where an attention layer keeps the number of its heads in a cache


@dataclass(frozen=True)
class Exchange:
    """How a model differs from what its code builds, by the index of a layer in `walk`.

    Attributes:
        parts: The layers that others become.
        numbers: The attributes of layers to set.
        heads: How many heads of a cache are a layer's own.
        branches: Layers whose code is left out, as all layers inside of them are removed; each is 1.
    """

    parts: dict[int, keras.layers.Layer] = field(default_factory=dict)
    numbers: dict[int, dict[str, Any]] = field(default_factory=dict)
    heads: dict[int, int] = field(default_factory=dict)
    branches: dict[int, int] = field(default_factory=dict)

    def moved(self, places: Mapping[int, int]) -> Exchange:
        """Return the changes to the layers in `places`, renumbered."""

        def renumbered(values: dict[int, Any]) -> dict[int, Any]:
            return {places[index]: value for index, value in values.items() if index in places}

        return Exchange(*map(renumbered, (self.parts, self.numbers, self.heads, self.branches)))

    def __or__(self, later: Exchange) -> Exchange:
        joined = {name: values | vars(later)[name] for name, values in vars(self).items()}
        numbers = {index: self.numbers.get(index, {}) | own for index, own in later.numbers.items()}
        return Exchange(**{**joined, "numbers": self.numbers | numbers})


class Resized(Remade):
    """Saves what was exchanged in a model."""

    def tfprune_plain_config(self) -> dict[str, Any]:
        arguments = super(Remade, self).get_config()  # type: ignore[misc]
        return {**vars(self)[_ORIGIN], "config": arguments}

    def tfprune_changes(self) -> dict[str, Any]:
        sizes: Exchange = vars(self)[_SIZES]
        layers = [layer for _, layer in walk(self)]
        parts = {str(index): _as_made(config_of(layers[index])) for index in sizes.parts}
        plain = {
            name: {str(index): value for index, value in values.items()}
            for name, values in vars(sizes).items()
            if name != "parts"
        }
        return {"parts": parts, **plain}

    @staticmethod
    def tfprune_change(model: Any, config: dict[str, Any], custom_objects: dict[str, Any] | None) -> Any:
        read = reader(custom_objects)
        exchange = Exchange(
            {int(index): read(part) for index, part in config["parts"].items()},
            {int(index): numbers for index, numbers in config["numbers"].items()},
            {int(index): count for index, count in config["heads"].items()},
            {int(index): count for index, count in config.get("branches", {}).items()},  # none in older files
        )
        resize([layer for _, layer in walk(model)], exchange)
        return model

    def save_to_preset(self, *args: Any, **kwargs: Any) -> None:
        self._refuse("a preset")

    def export_to_transformers(self, *args: Any, **kwargs: Any) -> None:
        self._refuse("the configuration of a Transformers model")

    def _refuse(self, target: str) -> None:
        name = type(self).__name__.removesuffix(_SUFFIX)
        sizes: Exchange = vars(self)[_SIZES]
        if sizes.parts or sizes.heads or sizes.branches:
            received = f"in which some layers are smaller: {_differing(self, name)}"
            otherwise = (
                f" Or remove the same number of units and heads from each block, of the kinds that the arguments of "
                f"{name} count: tfprune.shrink(model, plan, uniform=True)."
            )
        else:
            settings = ", ".join(sorted({setting for own in sizes.numbers.values() for setting in own}))
            received, otherwise = f"with blocks of other settings ({settings}) than its arguments give them", ""
        raise ValueError(
            f"Expected a model that its arguments describe, as {target} holds nothing else. Received: a {name} "
            f"{received}. Call save('model.keras'), and import keras and then tfprune before "
            f"keras.models.load_model.{otherwise}"
        )


keras.saving.register_keras_serializable(package="tfprune", name="Resized")(Resized)


def _differing(model: Any, name: str) -> str:
    """Say which layers differ from block to block."""
    shapes: dict[str, dict[tuple[int, ...], str]] = {}
    for path, layer in walk(model):
        if layer.weights and not sublayers(layer):
            role = re.sub(r"\d+", "*", path)
            shapes.setdefault(role, {}).setdefault(tuple(layer.weights[0].shape), path)
    unequal = [paths for paths in shapes.values() if len(paths) > 1]
    if not unequal:
        return f"all blocks are equal, but no argument of {name} counts what was removed"
    listed = [" and ".join(f"{path} has {shape}" for shape, path in list(paths.items())[:2]) for paths in unequal]
    more = f"; and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return "; ".join(listed[:_SHOWN]) + more


def _replace_methods(model: Any, **methods: Callable[..., None]) -> None:
    """Let methods of one model, where it has them, be others that raise an error."""
    for name, method in methods.items():
        if hasattr(model, name):
            vars(model)[name] = method  # past Keras, which keeps a record of attributes


def _as_made(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of a layer without LoRA, which Keras adds to the kernel that it saves."""
    arguments = {name: value for name, value in config["config"].items() if not name.startswith("lora_")}
    return {**config, "config": arguments}


def resize(layers: Sequence[keras.layers.Layer], exchange: Exchange) -> None:
    """Let layers of a model become others, and set numbers.

    A model of a class that holds such layers, itself or inside of a model of a class, is saved with them from now on.

    Args:
        layers: The model, a Functional subclass that is the caller's own, and all layers below it, as in `walk`.
        exchange: What to exchange; the parts are built, and used up.
    """
    model = layers[0]
    owners = [layer for layer in layers if layer is model or kind_of(layer) is Kind.FUNCTIONAL_SUBCLASS]
    origins = [vars(owner).get(_ORIGIN) or class_config(owner) for owner in owners]
    for index, part in exchange.parts.items():
        become_part(layers[index], part)
    for index, numbers in exchange.numbers.items():
        vars(layers[index]).update(numbers)  # past Keras, which locks a built layer
    for index, count in exchange.heads.items():
        vars(layers[index])[_HEADS] = count
        attention: Any = type(layers[index])
        layers[index].__class__ = _with_own_heads(attention)
    for index in exchange.branches:
        inner_class: Any = type(layers[index])
        layers[index].__class__ = without_branch(inner_class)
    left = {id(layer): index for index, layer in enumerate(layers)}
    for owner, origin in reversed(list(zip(owners, origins, strict=True))):  # the innermost first
        inside = enumerate(layer for _, layer in walk(owner))
        own = exchange.moved({left.pop(id(layer)): place for place, layer in inside if id(layer) in left})
        if own != Exchange():
            _keep(owner, own, origin)
            if owner is not model:  # a task, which writes the arguments of its backbone
                _replace_methods(
                    model,
                    save_to_preset=owner.save_to_preset,
                    export_to_transformers=owner.export_to_transformers,
                )


def _keep(model: keras.Model, exchange: Exchange, origin: dict[str, Any]) -> None:
    """Make a model one of a class that is saved with what was exchanged."""
    vars(model).update({_SIZES: vars(model).get(_SIZES, Exchange()) | exchange, _ORIGIN: origin})
    model_class: Any = type(model)
    is_resized = issubclass(model_class, Resized)
    model.__class__ = model_class if is_resized else saved_with(Resized, model_class, suffix=_SUFFIX)


def has_cache(layer: keras.layers.Layer) -> bool:
    """Return True if a layer's call takes a cache of keys and values, as KerasHub's attention does."""
    return "cache" in inspect.signature(layer.call).parameters


def own_heads(layer: keras.layers.Layer, count: int) -> int:
    """Return how many heads of a cache an attention layer uses, of the `count` that its model has for all layers."""
    return vars(layer).get(_HEADS, count)


@functools.cache
def _with_own_heads(layer_class: Any) -> Any:
    """Return a subclass of an attention's class that uses the first heads of a cache, which all layers share."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(layer_class.call).bind(self, *args, **kwargs)
        cache, count = bound.arguments.get("cache"), vars(self)[_HEADS]
        if cache is None or keras.tree.flatten(cache)[0].shape[-2] == count:  # none, or one of its own
            return layer_class.call(*bound.args, **bound.kwargs)
        bound.arguments["cache"] = keras.tree.map_structure(lambda part: part[..., :count, :], cache)
        *others, own = layer_class.call(*bound.args, **bound.kwargs)
        return (*others, keras.tree.map_structure(functools.partial(_put_back, count), own, cache))

    call.__signature__ = inspect.signature(layer_class.call)  # type: ignore[attr-defined]
    return derive(layer_class, call=call)


def _put_back(count: int, own: Any, cache: Any) -> Any:
    return keras.ops.concatenate([own, cache[..., count:, :]], axis=-2)


# The arguments of a class: find those that count something, and build a model anew with other numbers.


def check_class(model: keras.Model) -> Kind:
    """Return how a model is put together that is to be built anew with other arguments.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it has masks, or is quantized.
    """
    anatomy = Anatomy.of(model)
    check_model(anatomy)
    check_without_masks(model)
    if reason := quantized_already(model):
        raise ValueError(f"Expected a model that is not quantized yet. Received: {model.name!r}. {reason}")
    return anatomy.kind


def dicts_in(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every dict in a configuration, the outermost first: arguments of a model, and of layers in it."""
    if isinstance(config, dict):
        yield config
    if isinstance(config, (dict, list, tuple)):
        for value in list(config.values() if isinstance(config, dict) else config):
            yield from dicts_in(value)


def build_with_arguments(
    model: keras.Model, config: dict[str, Any], *, build: Callable[..., keras.Model] = fresh_copy
) -> keras.Model:
    """Build a model of the same class from other arguments; weights are not copied.

    Args:
        model: A Functional subclass.
        config: What `class_config` returns for it, with other numbers.
        build: Called with the model and `origin`, the configuration.

    Raises:
        NoClass: If the class does not take these arguments.
    """
    try:
        return build(model, origin=config)
    except FAILURES as error:  # code of the class, run on arguments that it may not take
        raise NoClass(describe(error)) from None


# A smaller model of the same class, built from its configuration with other numbers of heads and hidden units.

_Sizes = dict[tuple[bool, int], int]  # how many are kept, by whether they are heads and how many there are

# Which arguments count heads and hidden units: by a word in their names, and by words that mean something else.
_UNITS = ("intermediate", "mlp", "feed", "ffn", "ffw", "inner", "units")
_OTHERS = ("layers", "ratio", "size", "length", "rate")


def resized_by_arguments(copy: FlatCopy, network: Network, *, keep: np.ndarray) -> keras.Model:
    """Build a model of the same class with fewer channels by other arguments.

    Use it where all blocks keep the same number of heads, and of hidden units.

    Args:
        copy: The flat copy of a Functional subclass.
        network: Its channels.
        keep: Which bundles are kept.

    Raises:
        NoClass: If the arguments of the class cannot say what is kept.
    """
    plain = copy.plain
    if any(isinstance(layer, Resized) for layer in copy.layers):
        raise NoClass("some of its layers have other sizes than its arguments say")
    if network.branch_ends(keep):
        raise NoClass("a branch of it is removed whole")
    weights = {id(variable): weight for weight, variable in network.variables(copy.model)}
    values_kept = [
        weights[id(variable)].kept(as_numpy(variable), keep) if id(variable) in weights else as_numpy(variable)
        for variable in plain.variables
    ]
    config = deepcopy(class_config(plain))
    sizes = _sizes_of(network, network.layers.values(), keep=keep)
    if not _resize(config["config"], sizes, dict(_head_sizes(network))):
        raise NoClass(f"no argument of {type(plain).__name__} counts what is removed")
    smaller = build_with_arguments(plain, config)
    if [tuple(variable.shape) for variable in smaller.variables] != [values.shape for values in values_kept]:
        raise NoClass(f"{type(plain).__name__} makes layers of other sizes")
    rename(smaller, copy.names)
    copy.write_zeros(network, keep)
    run = first_run(copy.plain)
    for variable, values in zip(smaller.variables, values_kept, strict=True):
        variable.assign(values)
    if run is not None and not same_outputs(run_on_numbers(smaller, run[0]), run[1]):
        raise NoClass(f"{type(plain).__name__} computes something else with other arguments")
    if reason := _head_size_apart(smaller):
        _replace_methods(smaller, export_to_transformers=functools.partial(_refuse_head_size, reason))
    return smaller


def _refuse_head_size(reason: str, *args: Any, **kwargs: Any) -> None:
    raise ValueError(
        f"Expected a model that the configuration of a Transformers model describes. Received: {reason}. Remove "
        f"units only, with `filters`, or save the model with save('model.keras') or save_to_preset."
    )


def _head_size_apart(model: keras.Model) -> str:
    """Say which model has heads of another size than the one that is derived where none is given; "" for none.

    KerasHub derives it anew for the configuration of a Transformers model of such a class.
    """
    for _, part in walk(model):
        if not isinstance(part, keras.Model) or not _may_derive_head_size(type(part)):
            continue
        config = part.get_config()
        head_size, width, heads = (config.get(name) for name in ("head_dim", "hidden_dim", "num_query_heads"))
        if head_size and width and heads and width // heads != head_size:
            return (
                f"a {type(part).__name__} with {heads} heads of {head_size} channels, for which KerasHub writes a "
                f"head_dim of {width // heads}"
            )
    return ""


def _may_derive_head_size(model_class: type) -> bool:
    parameters = inspect.signature(model_class).parameters
    return "head_dim" in parameters and parameters["head_dim"].default is None


def _sizes_of(network: Network, layers: Iterable[ChanneledLayer], *, keep: np.ndarray) -> _Sizes:
    """Return how many are kept of how many along the axes that kernels make, heads (True) and units apart."""
    heads = _heads(network)
    sizes: _Sizes = {}
    for layer in layers:
        for weight in layer.weights:
            for axis in weight.makes:
                bundles = weight.bundles_along[axis]
                sizes[int(bundles[0]) in heads, bundles.size] = int(np.count_nonzero(keep[bundles]))
    return sizes


def _head_sizes(network: Network) -> Iterator[tuple[str, int]]:
    """Yield the size of a head, which stays: classes derive it from the number of heads where it is not given."""
    heads = _heads(network)
    for layer in network.layers.values():
        for weight in layer.weights:
            for axis in weight.makes:
                if int(weight.bundles_along[axis][0]) in heads and len(weight.shape) == 3 and 2 in weight.makes:
                    yield "head_dim", weight.shape[2]


def _heads(network: Network) -> set[int]:
    return {bundle for group in network.groups if group.kind == "heads" for bundle in group.bundles.tolist()}


def _resize(config: dict[str, Any], sizes: _Sizes, head_sizes: Mapping[str, int]) -> bool:
    """Change the numbers of heads and units in a configuration; return True if any changed."""
    changed = False
    for arguments in dicts_in(config):
        for name, value in arguments.items():
            if value is None and name in head_sizes:
                arguments[name] = head_sizes[name]
            elif type(value) is int:
                arguments[name] = _smaller_count(name, value, sizes=sizes)
                changed |= arguments[name] != value
    return changed


def _smaller_count(name: str, value: int, *, sizes: _Sizes) -> int:
    """Return a number of heads or units in the smaller model; a multiple of it where several layers are joined."""
    if name.endswith("key_value_groups"):  # how many queries share a key: all, where there is one
        queries = max((size for of_heads, size in sizes if of_heads), default=None)
        return sizes[True, value] if value == queries else value
    is_heads = "head" in name and "dim" not in name
    if any(word in name for word in _OTHERS) or not (is_heads or any(word in name for word in _UNITS)):
        return value
    fitting = {size: kept for (of_heads, size), kept in sizes.items() if of_heads == is_heads and value % size == 0}
    if not fitting:
        return value
    size = max(fitting)
    return value // size * fitting[size]


def _numbers_kept(layer: keras.layers.Layer, sizes: _Sizes) -> dict[str, int]:
    """Return the attributes of a layer that count heads or units of the layers inside, with how many are kept."""
    before = {name: value for name, value in vars(layer).items() if type(value) is int}
    after = {name: _smaller_count(name, value, sizes=sizes) for name, value in before.items()}
    return {name: value for name, value in after.items() if value != before[name]}


def _heads_kept(layer: keras.layers.Layer, sizes: _Sizes) -> int | None:
    """Return how many heads an attention keeps of those that a cache holds, the fewer of queries' and keys'."""
    counts = [count for (of_heads, _), count in sizes.items() if of_heads]
    return min(counts) if counts and has_cache(layer) else None


# A smaller model of the same class: by its arguments where they can say what is kept, else block by block.


def smaller_class(copy: FlatCopy, network: Network, *, keep: np.ndarray) -> keras.Model:
    """Build a model of the same class with fewer channels, the layers inside of its blocks exchanged.

    Args:
        copy: The flat copy of a Functional subclass. It is used up; if there is no such model, its graph is intact.
        network: Its channels.
        keep: Which bundles are kept.

    Raises:
        NoClass: If the smaller model returns something else than the model with zeros.
    """
    layers = copy.layers
    channels = {id(layer): network.layers[layer.name] for layer in copy.model.layers if layer.name in network.layers}
    changed = {key: layer for key, layer in channels.items() if layer.changes(keep)}
    branches = RemovedBranches(copy, network, keep=keep)
    parts = branches.parts | {
        index: _part(layer, changed[id(layer)], keep)
        for index, layer in enumerate(layers)
        if id(layer) in changed and index not in branches.touched
    }
    inner = {
        index: [changed[id(part)] for part in sublayers(layer) if id(part) in changed]
        for index, layer in enumerate(layers)
        if not isinstance(layer, keras.Model)  # whose numbers say what its cache is
    }
    sizes = {
        index: _sizes_of(network, some, keep=keep)
        for index, some in inner.items()
        if some and index not in branches.touched
    }
    heads = {index: count for index, of_layer in sizes.items() if (count := _heads_kept(layers[index], of_layer))}
    numbers = {index: _numbers_kept(layers[index], of_layer) for index, of_layer in sizes.items()}
    copy.is_used_up = True
    copy.write_zeros(network, keep)
    run = first_run(copy.plain)
    before = [(layer, type(layer), dict(vars(layer))) for layer in layers]
    filled = {key: values for key, values in numbers.items() if values}
    resize(layers, Exchange(parts, filled, heads, dict.fromkeys(branches.whole, 1)))
    outputs = None if run is None else run_on_numbers(copy.plain, run[0])
    if run is None or not same_outputs(outputs, run[1]):
        for layer, layer_class, attributes in before:
            layer.__class__ = layer_class
            vars(layer).clear()
            vars(layer).update(attributes)
        raise NoClass("its code returns something else where layers are smaller")
    return copy.hand_out()


def _part(layer: keras.layers.Layer, channels: ChanneledLayer, keep: np.ndarray) -> keras.layers.Layer:
    """Return the smaller layer, built as the layer was, with its sizes open."""
    sizes, values = channels.counted(keep), channels.values_kept(layer, map(as_numpy, layer.variables), keep)
    part = copy_of(layer, changes=sizes)
    config = layer.get_build_config() or {}  # none of a layer without weights that another one built
    if "input_shape" in config:
        built = config["input_shape"]
        takes = channels.takes[-len(built) :]  # perhaps called on positions in one axis
        takes = (None,) * (len(built) - len(takes)) + takes
        config = {
            "input_shape": tuple(
                size if size is None or bundles is None else int(np.count_nonzero(keep[bundles]))
                for size, bundles in zip(built, takes, strict=True)
            )
        }
    part.build_from_config(config)
    set_values(layer, part, values=values)
    return part
