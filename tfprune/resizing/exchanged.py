"""A model of its own class in which some layers deep inside have other sizes; it is saved with them, and so loads.

Its code creates layers of the sizes that its arguments say, all blocks alike. Where blocks keep different numbers,
the layers inside of them are exchanged, and the numbers that their code looks at are set.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any

import keras

from tfprune.copying.origin import fresh, origin_of, saved_with
from tfprune.models.layers import walk
from tfprune.models.rebuild import config_of

_SIZES = "tfprune_sizes"  # where a resized model keeps what was exchanged
_HEADS = "tfprune_heads"  # where an attention layer keeps the number of its heads in a cache


@dataclass(frozen=True)
class Exchange:
    """What is other in a model than its code makes it, by the index of a layer in `walk`.

    Attributes:
        parts: The layers that others become.
        numbers: The attributes of layers to set.
        heads: How many heads of a cache are a layer's own.
    """

    parts: dict[int, keras.layers.Layer]
    numbers: dict[int, dict[str, int]]
    heads: dict[int, int]


class _Resized:
    """Mixed into the class of a model: saves what was exchanged."""

    def get_config(self) -> dict[str, Any]:
        sizes: Exchange = vars(self)[_SIZES]
        parts = {str(index): config_of(part) for index, part in sizes.parts.items()}
        plain = [{str(index): value for index, value in values.items()} for values in (sizes.numbers, sizes.heads)]
        return {"origin": vars(self)["tfprune_made_from"], "parts": parts, "numbers": plain[0], "heads": plain[1]}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> keras.Model:
        read = functools.partial(keras.saving.deserialize_keras_object, custom_objects=custom_objects)
        model = fresh(config["origin"], read)
        exchange = Exchange(
            {int(index): read(part) for index, part in config["parts"].items()},
            {int(index): numbers for index, numbers in config["numbers"].items()},
            {int(index): count for index, count in config["heads"].items()},
        )
        return resize(model, exchange, origin=config["origin"])


keras.saving.register_keras_serializable(package="tfprune", name="Resized")(_Resized)


def resize(model: keras.Model, exchange: Exchange, *, origin: dict[str, Any] | None = None) -> keras.Model:
    """Let layers of a model become others, set numbers, and return the model, of a class that is saved with them.

    Args:
        model: A model that is the caller's own, of a class around a graph.
        exchange: What to exchange; the parts are built, and used up.
        origin: The configuration that the model was made from; None asks its class.
    """
    origin = origin_of(model) if origin is None else origin
    layers = [layer for _, layer in walk(model)]
    for index, part in exchange.parts.items():
        _become(layers[index], part)
    for index, numbers in exchange.numbers.items():
        vars(layers[index]).update(numbers)  # past Keras, which locks a built layer
    for index, count in exchange.heads.items():
        vars(layers[index])[_HEADS] = count
        attention: Any = type(layers[index])
        layers[index].__class__ = _with_own_heads(attention)
    vars(model).update({_SIZES: exchange, "tfprune_made_from": origin})
    model_class: Any = type(model)
    model.__class__ = _derived(model_class)
    return model


def _become(layer: keras.layers.Layer, part: keras.layers.Layer) -> None:
    """Give a layer the state of another one that was never called; whatever refers to it, a graph too, still does."""
    name, state = layer.name, vars(part).items()
    vars(layer).update({key: value for key, value in state if not isinstance(value, list) or value})
    layer.__class__ = type(part)
    layer.name = name


def _derived(model_class: Any) -> Any:
    """Return a subclass of a model's class whose instances are saved with what was exchanged."""
    return model_class if issubclass(model_class, _Resized) else saved_with(_Resized, model_class)


def has_cache(layer: keras.layers.Layer) -> bool:
    """Tell whether a layer's call takes a cache of keys and values, as KerasHub's attention does."""
    return "cache" in inspect.signature(layer.call).parameters


@functools.cache
def _with_own_heads(layer_class: Any) -> Any:
    """Return a subclass of an attention's class that uses the first heads of a cache, which all layers share."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(layer_class.call).bind(self, *args, **kwargs)
        cache = bound.arguments.get("cache")
        if cache is None:
            return layer_class.call(*bound.args, **bound.kwargs)
        count = vars(self)[_HEADS]
        bound.arguments["cache"] = keras.tree.map_structure(lambda part: part[..., :count, :], cache)
        *others, own = layer_class.call(*bound.args, **bound.kwargs)
        return (*others, keras.tree.map_structure(functools.partial(_put_back, count), own, cache))

    call.__signature__ = inspect.signature(layer_class.call)  # type: ignore[attr-defined]
    return type(layer_class.__name__, (layer_class,), {"__module__": layer_class.__module__, "call": call})


def _put_back(count: int, own: Any, cache: Any) -> Any:
    return keras.ops.concatenate([own, cache[..., count:, :]], axis=-2)
