"""The layers that a subclassed model or a layer holds in its attributes, lists and dicts included."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras

from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.layers import attributes, sublayers

ORIGIN = "tfprune_origin"  # where a copy keeps the configuration of the model that it was made from
PARTS = "tfprune_parts"  # where it keeps the layers of that model, in an order that comes again

AttributePath = tuple[Any, ...]  # an attribute's name, then the keys and indices of the dicts and lists in it


class RefusedMethod(functools.partial):
    """Replaces a method that raises; not a user attribute."""


def each_once(model: keras.Model, make: Callable[[keras.layers.Layer], Any]) -> dict[AttributePath, Any]:
    """Call a function on every layer that a model holds; one that it holds twice gives one result."""
    results: dict[int, Any] = {}
    held = dict(held_layers(model))
    missing = [layer.name for layer in model.layers if not any(layer is part for part in held.values())]
    if missing:
        raise ValueError(
            f"Expected the layers of {model.name!r} in attributes, or in lists, tuples and dicts there. Received: "
            f"{', '.join(missing)}, held elsewhere. Hold them in one of these."
        )
    for layer in held.values():
        if id(layer) not in results:
            results[id(layer)] = make(layer)
    return {place: results[id(layer)] for place, layer in held.items()}


def names_of_keras(layer: Any) -> frozenset[str]:
    """Return the attributes that every compiled model of this kind has, before code of the user's adds any."""
    if not isinstance(layer, keras.Model):
        return _names_of_layers()
    return _names_of_graphs() if hasattr(layer, "inputs") else _names_of_code()


@functools.cache
def _names_of_layers() -> frozenset[str]:
    layer = keras.layers.Layer()
    layer.part = keras.layers.Layer()  # a backend may note down what it tracks
    return frozenset(vars(layer)) - {"part"}


@functools.cache
def _names_of_code() -> frozenset[str]:
    return _compiled_names(keras.Model())


@functools.cache
def _names_of_graphs() -> frozenset[str]:
    inputs = keras.Input((1,))
    return _compiled_names(keras.Model(inputs, inputs))


def _compiled_names(model: keras.Model) -> frozenset[str]:
    model.compile("sgd", "mse", metrics=["mse"])
    return frozenset(vars(model)) | {ORIGIN, PARTS}


def own_attributes(model: Any) -> dict[str, Any]:
    """Return the attributes that the user's code set on a model or layer, by name."""
    names = names_of_keras(model)
    if not getattr(model, "compiled", True):  # of a loop of its own
        names -= {"loss", "optimizer"}
    return {
        name: value
        for name, value in attributes(model).items()
        if name not in names and not isinstance(value, RefusedMethod)
    }


def replace_nested(place: AttributePath, value: Any, *, new: Callable[[AttributePath, Any], Any]) -> Any:
    """Return the value of an attribute with leaves replaced; unaffected lists, tuples and dicts stay as they are.

    Args:
        place: The path of the value.
        value: The value.
        new: Called with path and value of each leaf (not a list, tuple or dict); returns the replacement.
    """
    if not isinstance(value, (dict, list, tuple)):
        return new(place, value)
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    items = [replace_nested((*place, key), item, new=new) for key, item in pairs]
    if all(item is old for item, (_, old) in zip(items, pairs, strict=True)):
        return value
    if isinstance(value, dict):
        return {key: item for item, (key, _) in zip(items, pairs, strict=True)}
    if hasattr(value, "_fields"):  # a namedtuple
        return value._make(items)  # type: ignore[union-attr]
    return tuple(items) if isinstance(value, tuple) else items


def copy_scalar_attributes(model: keras.Model, copy: keras.layers.Layer) -> None:
    """Give a copy the numbers and texts that methods have set on a model, such as which layers have LoRA."""
    for name, value in own_attributes(model).items():
        is_data = all(isinstance(leaf, (int, float, str)) for leaf in keras.tree.flatten(value))
        if name not in vars(copy) and is_data:
            setattr(copy, name, value)


def held_layers(model: Any) -> Iterator[tuple[AttributePath, keras.layers.Layer]]:
    """Yield the layers in a model's attributes, lists and dicts included, each with its place."""
    yield from held_values(model, keras.layers.Layer)


def held_values(model: Any, kind: type) -> Iterator[tuple[AttributePath, Any]]:
    """Yield what is of a kind in a model's attributes, lists and dicts included, each with its place."""

    def visit(place: AttributePath, value: Any) -> Iterator[tuple[AttributePath, Any]]:
        if isinstance(value, kind):
            yield place, value
        elif isinstance(value, (dict, list, tuple)):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                yield from visit((*place, key), item)

    for name, value in own_attributes(model).items():
        yield from visit((name,), value)


def beside_graph(anatomy: Anatomy) -> list[tuple[AttributePath, keras.layers.Layer]]:
    """Return the layers in the attributes of a Functional subclass that are no part of the graph."""
    inside = {id(layer) for _, layer in anatomy.every}
    return [(place, layer) for place, layer in held_layers(anatomy.model) if id(layer) not in inside]


def own_variables(layer: Any) -> list[keras.Variable]:
    """Return the variables of a model or layer that are not those of its layers."""
    held = {id(variable) for part in sublayers(layer) for variable in part.variables}
    return [variable for variable in layer.variables if id(variable) not in held]
