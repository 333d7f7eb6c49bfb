"""The layers that a subclassed model holds in its attributes, lists and dicts included."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras

from tfprune.copying.origin import ORIGIN
from tfprune.models.layers import attributes

Place = tuple[Any, ...]  # an attribute's name, then the keys and indices of the dicts and lists in it


def each_once(model: keras.Model, make: Callable[[keras.layers.Layer], Any]) -> dict[Place, Any]:
    """Call a function on every layer that a model holds; one that it holds twice gives one result."""
    made: dict[int, Any] = {}
    held = dict(held_layers(model))
    lost = [layer.name for layer in model.layers if not any(layer is part for part in held.values())]
    if lost:
        raise ValueError(
            f"Expected the layers of {model.name!r} in attributes, or in lists, tuples and dicts there. Received: "
            f"{', '.join(lost)}, held elsewhere. Hold them in one of these."
        )
    for layer in held.values():
        if id(layer) not in made:
            made[id(layer)] = make(layer)
    return {place: made[id(layer)] for place, layer in held.items()}


@functools.cache
def names_of_keras() -> frozenset[str]:
    """Return the attributes that every compiled model has, before code of the user's adds any."""
    model = keras.Model()
    model.compile("sgd", "mse", metrics=["mse"])
    return frozenset(vars(model)) | {ORIGIN}


def own_attributes(model: Any) -> dict[str, Any]:
    names = names_of_keras() if model.compiled else names_of_keras() - {"loss", "optimizer"}  # of a loop of its own
    return {name: value for name, value in attributes(model).items() if name not in names}


def held_layers(model: Any) -> Iterator[tuple[Place, keras.layers.Layer]]:
    """Yield the layers in a model's attributes, lists and dicts included, each with its place."""

    def visit(place: Place, value: Any) -> Iterator[tuple[Place, keras.layers.Layer]]:
        if isinstance(value, keras.layers.Layer):
            yield place, value
        elif isinstance(value, (dict, list, tuple)):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                yield from visit((*place, key), item)

    for name, value in own_attributes(model).items():
        yield from visit((name,), value)
