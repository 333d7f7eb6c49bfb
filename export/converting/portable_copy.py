"""A copy of a Keras model for a process with another backend: saved by Keras, custom classes found by import."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from tfprune.models.rebuild import named_things

COPY = "model.keras"


def write_copy(model: keras.Model, folder: Path) -> list[list[str]]:
    """Save a model for `read_copy`.

    Args:
        model: A model without wrappers.
        folder: An existing folder, which gets one file.

    Returns:
        The module and the name of each custom class and function of the model.

    Raises:
        ValueError: If another process cannot import one of them.
    """
    things = {id(thing): thing for _, thing in named_things(model)}
    found = [[thing.__module__, thing.__qualname__] for thing in things.values()]
    for module, name in found:
        if module == "__main__" or "<" in name:  # defined by this program, in a function, or a lambda
            raise ValueError(_refusal(module, name))
    model.save(folder / COPY)
    return found


def read_copy(folder: Path, things: Sequence[Sequence[str]]) -> keras.Model:
    """Load the model that `write_copy` saved.

    Args:
        folder: The folder with the file.
        things: What `write_copy` returned.

    Raises:
        ValueError: If a custom class or function cannot be imported.
    """
    found = [_imported(module, name) for module, name in things]
    objects = {keras.saving.get_registered_name(thing): thing for thing in found}
    return keras.saving.load_model(folder / COPY, custom_objects=objects, compile=False)


def _imported(module: str, name: str) -> Any:
    try:
        return functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise ValueError(_refusal(module, name)) from error


def _refusal(module: str, name: str) -> str:
    return (
        f"Expected custom classes and functions that another process can import: it loads the model on TensorFlow "
        f"and converts it. Received: {module}.{name}. Define it in a module that your program imports, and register "
        f"it with keras.saving.register_keras_serializable(). Or save the stripped model with model.save, and export "
        f"it from a program with KERAS_BACKEND=tensorflow that defines {name.rpartition('.')[2]!r}."
    )
