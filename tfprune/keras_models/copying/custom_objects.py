"""The user's classes and functions in a model, by the names that Keras' configurations have for them."""

from __future__ import annotations

import itertools
import types
from collections.abc import Iterator
from typing import Any

import keras

from tfprune.keras_models.models.layers import walk


def lambda_name(layer: keras.layers.Lambda) -> str:
    """Return the name of a lambda layer's function in configurations: one of its own."""
    return f"{layer.function.__name__}_of_{layer.name}_{id(layer)}"


def custom_objects(sources: list[keras.layers.Layer], config: Any) -> dict[str, Any]:
    """Return the user's classes and functions that layers are or hold, by the name Keras saves.

    Args:
        sources: The layers, or models.
        config: What is built with them, a configuration of Keras.

    Raises:
        ValueError: If two of them have a name that the configuration mentions: Keras would take one for the other.
    """
    mentioned = set(_texts(config))
    objects: dict[str, Any] = {}
    for name, thing in itertools.chain.from_iterable(map(named_things, sources)):
        if objects.setdefault(name, thing) is not thing and name in mentioned:
            raise ValueError(
                f"Expected custom classes and functions to have different names. Received: two called {name!r} in "
                f"{sources[0].name!r}, which Keras cannot tell apart when it rebuilds or loads the model. Rename one."
            )
    return objects


def _texts(config: Any) -> Iterator[str]:
    """Yield every text in a configuration."""
    if isinstance(config, str):
        yield config
    elif isinstance(config, (dict, list, tuple)):
        for item in config.values() if isinstance(config, dict) else config:
            yield from _texts(item)


def named_things(model: keras.layers.Layer) -> Iterator[tuple[str, Any]]:
    """Yield the user's classes and functions that the layers of a model are or hold, by the name in its copies."""
    for _, layer in walk(model):
        # A function over a method of the class is Keras' wrapper around it, not an argument of the layer.
        arguments = {
            name: value
            for name, value in vars(layer).items()
            if _may_be_custom(value) and not callable(getattr(type(layer), name, None))
        }
        if isinstance(layer, keras.layers.Lambda) and isinstance(arguments.pop("function", None), types.FunctionType):
            yield lambda_name(layer), layer.function
        for value in (layer, *arguments.values()):
            # A copy of a subclassed model has a class of its own, and is made by the user's.
            thing = value if isinstance(value, types.FunctionType) else getattr(value, "copied_class", type(value))
            is_custom = hasattr(thing, "get_config") or isinstance(thing, types.FunctionType)
            if is_custom and not thing.__module__.startswith("keras."):
                yield keras.saving.get_registered_name(thing), thing


def _may_be_custom(value: Any) -> bool:
    return isinstance(value, types.FunctionType) or type(value).__module__ != "builtins"
