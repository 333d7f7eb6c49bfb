"""Make an instance one of another class, in place, so that whatever refers to it still does.

Python looks `__call__` up in the class, and Keras saves the name of the class. So a layer that has to be called in
another way, or a model that has to be saved in another way, becomes an instance of a class that is derived from its
own, with the same name and module. A model or layer whose inside is exchanged takes the class and the state of a new
one instead, as Keras lets a built layer take no other layers.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from tfprune.keras_models.copying.held_layers import names_of_keras


def derive(base: Any, *mixins: Any, suffix: str = "", **members: Any) -> Any:
    """Return a class like another one, with the members of mixins and others before its own."""
    return type(base.__name__ + suffix, (*mixins, base), {"__module__": base.__module__, **members})


@functools.cache
def saved_with(mixin: Any, model_class: Any, *, suffix: str = "") -> Any:
    """Return a subclass of a model's class whose instances are saved as a registered mixin says."""
    derived = derive(model_class, mixin, suffix=suffix, __doc__=model_class.__doc__, copied_class=model_class)
    package, _, name = keras.saving.get_registered_name(mixin).partition(">")
    return keras.saving.register_keras_serializable(package=package, name=name)(derived)


@contextmanager
def classes_changed(layers: Iterable[Any], change: Callable[[Any], Any]) -> Iterator[None]:
    """Make layers instances of other classes within the context.

    Args:
        layers: The layers.
        change: Called with each class, once; returns the other one.
    """
    classes = [(layer, type(layer)) for layer in layers]
    changed = {kind: change(kind) for kind in {kind for _, kind in classes}}
    try:
        for layer, kind in classes:
            layer.__class__ = changed[kind]
        yield
    finally:
        for layer, kind in classes:
            layer.__class__ = kind


def become(model: keras.Model, filled: keras.Model) -> keras.Model:
    """Make a model the same as another, its class and all its attributes, and return it; it is uncompiled by this.

    The calls that graphs around it make of it stay.
    """
    calls = {name for name, value in vars(model).items() if isinstance(value, list) and any(map(_is_call, value))}
    state = {name: value for name, value in vars(filled).items() if name not in calls}
    for name in names_of_keras(model) & (vars(model).keys() - state.keys() - calls):
        del vars(model)[name]
    model.__class__ = type(filled)
    # Keras lets a built model take no new layers: it takes over the state of one that has them. Functions are not
    # taken over: those that the model's code made refer to the model itself.
    vars(model).update({name: value for name, value in state.items() if not isinstance(value, types.FunctionType)})
    return model


def _is_call(value: Any) -> bool:
    return hasattr(value, "operation") and hasattr(value, "input_tensors")


def become_part(layer: keras.layers.Layer, part: keras.layers.Layer) -> None:
    """Make a layer the same as another one that was never called, its name and the calls in graphs aside."""
    if part.trainable != layer.trainable:
        part.trainable = layer.trainable
    name, state = layer.name, vars(layer)
    for key, value in vars(part).items():
        is_of_calls = isinstance(value, list) and any(map(_is_call, state.get(key) or ()))  # the part has none
        if not is_of_calls and not isinstance(value, types.FunctionType):  # some of which refer to the part
            state[key] = value
    layer.__class__ = type(part)
    layer.name = name
