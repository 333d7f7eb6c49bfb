"""What a model was made from: the configuration that its own code gives, and fresh models that it makes."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import keras

from tfprune.keras_models.models.rebuild import config_of, revive

ORIGIN = "tfprune_origin"  # where a copy keeps the configuration of the model that it was made from
PARTS = "tfprune_parts"  # where it keeps the layers of that model, in an order that comes again


@functools.cache
def saved_with(mixin: Any, model_class: Any) -> Any:
    """Return a subclass of a model's class whose instances are saved as a registered mixin says."""
    members = {"__module__": model_class.__module__, "__doc__": model_class.__doc__, "copied_class": model_class}
    derived = type(model_class.__name__, (mixin, model_class), members)
    package, _, name = keras.saving.get_registered_name(mixin).partition(">")
    return keras.saving.register_keras_serializable(package=package, name=name)(derived)


def class_config(model: keras.Model) -> dict[str, Any]:
    """Return the configuration of a model as its own code gives it, and the shapes that it was built with."""
    config = vars(model).get(ORIGIN) or config_of(model)
    return {name: value for name, value in config.items() if name != "compile_config"}


def build_from_class_config(origin: dict[str, Any], read: Callable[[dict[str, Any]], Any]) -> keras.Model:
    """Build a model as its class does; one with a `build` of its own creates its layers there.

    Args:
        origin: What `class_config` returned.
        read: Builds a model from a configuration.
    """
    origin = copy.deepcopy(origin)  # as a `from_config` may take it apart
    entry = {name: value for name, value in origin.items() if name != "build_config"}
    model = read(entry)
    if not model.built and type(model).build is not keras.Model.build:
        model.build_from_config(origin.get("build_config"))
    return model


def is_loadable(model: keras.Model) -> bool:
    """Tell whether a subclassed model can be built from its configuration."""
    return "config" in vars(model)[ORIGIN] if ORIGIN in vars(model) else build_if_loadable(model) is not None


def build_if_loadable(model: keras.Model) -> keras.Model | None:
    """Return a subclassed model built from its configuration; None if it cannot be."""
    if ORIGIN in vars(model):
        config = vars(model)[ORIGIN]
        return build_from_class_config(config, lambda entry: revive(entry, model)) if "config" in config else None
    try:
        return build_from_class_config(class_config(model), lambda entry: revive(entry, model))
    except ValueError:
        return None
