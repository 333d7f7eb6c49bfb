"""Copies of models with some layers replaced; the weights are another step, and another module's."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras

from tfprune.keras_models.copying.around_graph import replace_in_graph, restore_around_graph
from tfprune.keras_models.copying.layer_states import layer_states, set_layer_states
from tfprune.keras_models.copying.subclassed import reassemble, restore
from tfprune.keras_models.models.kinds import as_graph, is_around_graph, is_subclassed, keeps_class
from tfprune.keras_models.models.rebuild import Replace, rebuild


class Way(NamedTuple):
    """How models with classes of their own are copied.

    Attributes:
        subclassed: Copies a model whose code creates its layers and calls them.
        around_graph: Copies a model of a class that is built around a graph.
    """

    subclassed: Callable[..., keras.Model]
    around_graph: Callable[..., keras.Model]


AS_WRAPPED = Way(reassemble, replace_in_graph)  # as instances that are saved with their wrappers
AS_WRITTEN = Way(restore, restore_around_graph)  # as instances of the classes that the user wrote


def copy_model(model: keras.Model, replace: Replace, *, way: Way = AS_WRAPPED) -> keras.Model:
    """Return an uncompiled copy of a model in which some layers are replaced; weights are not copied.

    Args:
        model: A built model. It is left untouched.
        replace: Called with the path of each layer and the layer, or a copy of it; returns the replacement, of which
            the copy may use the configuration only, or None to keep a copy of the layer.
        way: How models with classes of their own are copied: `AS_WRAPPED` or `AS_WRITTEN`.

    Raises:
        ValueError: If the model cannot be copied.
    """

    def replaced(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if is_subclassed(layer):
            return way.subclassed(layer, replaced, path=path)
        return way.around_graph(layer, replace, path=path) if keeps_class(layer) else replace(path, layer)

    def by_configuration() -> keras.Model:
        copy = rebuild(as_graph(model), replaced)
        _restore_states(model, copy)
        return copy

    def by_class() -> keras.Model:
        return way.around_graph(model, replace)

    if as_graph(model) is None:
        return way.subclassed(model, replaced)
    if not is_around_graph(model):
        return by_configuration()
    ways = (by_class, by_configuration) if keeps_class(model) else (by_configuration, by_class)
    try:
        return ways[0]()
    except ValueError as error:
        try:
            return ways[1]()
        except ValueError:
            raise error from None


def _restore_states(model: keras.Model, copy: keras.Model) -> None:
    """Set on the models in a graph what the configuration of their class does not hold."""
    for child, counterpart in zip(model.layers, copy.layers, strict=True):
        if keeps_class(child):
            set_layer_states(counterpart, layer_states(child))
        elif as_graph(child) is not None:
            _restore_states(child, counterpart)
