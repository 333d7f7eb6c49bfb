"""Copies of models with some layers replaced; the weights are another step, and another module's."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import keras

from tfprune.keras_models.copying.functional_subclass import replace_in_graph, restore_functional_subclass
from tfprune.keras_models.copying.layer_states import layer_states, set_layer_states
from tfprune.keras_models.copying.subclassed import reassemble, restore
from tfprune.keras_models.models.kinds import as_graph, is_functional_subclass, is_subclassed, rebuilds_as_class
from tfprune.keras_models.models.rebuild import Replace, rebuild


class CopyMode(Enum):
    """How models with classes of their own are copied."""

    WRAPPED = "wrapped"  # as instances that are saved with their wrappers
    ORIGINAL_CLASS = "original_class"  # as instances of the classes that the user wrote


class _Copiers(NamedTuple):
    subclassed: Callable[..., keras.Model]  # of a model whose code creates its layers and calls them
    functional_subclass: Callable[..., keras.Model]


_COPIERS = {
    CopyMode.WRAPPED: _Copiers(reassemble, replace_in_graph),
    CopyMode.ORIGINAL_CLASS: _Copiers(restore, restore_functional_subclass),
}


def copy_model(model: keras.Model, replace: Replace, *, mode: CopyMode = CopyMode.WRAPPED) -> keras.Model:
    """Return an uncompiled copy of a model in which some layers are replaced; weights are not copied.

    Args:
        model: A built model. It is left untouched.
        replace: Called with the path of each layer and the layer, or a copy of it; returns the replacement, of which
            the copy may use the configuration only, or None to keep a copy of the layer.
        mode: How models with classes of their own are copied.

    Raises:
        ValueError: If the model cannot be copied.
    """

    copiers = _COPIERS[mode]

    def replaced(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if is_subclassed(layer):
            return copiers.subclassed(layer, replaced, path=path)
        if rebuilds_as_class(layer):
            return copiers.functional_subclass(layer, replace, path=path)
        return replace(path, layer)

    def by_configuration() -> keras.Model:
        copy = rebuild(as_graph(model), replaced)
        _restore_states(model, copy)
        return copy

    def by_class() -> keras.Model:
        return copiers.functional_subclass(model, replace)

    if as_graph(model) is None:
        return copiers.subclassed(model, replaced)
    if not is_functional_subclass(model):
        return by_configuration()
    ways = (by_class, by_configuration) if rebuilds_as_class(model) else (by_configuration, by_class)
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
        if rebuilds_as_class(child):
            set_layer_states(counterpart, layer_states(child))
        elif as_graph(child) is not None:
            _restore_states(child, counterpart)
