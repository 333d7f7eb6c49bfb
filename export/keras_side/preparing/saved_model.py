"""A Keras model as the process that converts it reads it.

On TensorFlow a SavedModel: inputs by name, loops in a form that the converter takes. From other backends a copy saved
by Keras, whose custom classes are found by import.
"""

from __future__ import annotations

import functools
import importlib
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from tfprune.export.keras_side.preparing.signature import Signature
from tfprune.keras_models.copying.twin import named_things
from tfprune.keras_models.models.calls import recurrent_states
from tfprune.keras_models.models.layers import as_numpy, walk

COPY = "model.keras"


def write_saved_model(
    model: keras.Model, folder: Path, *, inputs: Signature, unroll: bool, last: Callable[[Any], Any] | None = None
) -> None:
    """Write the SavedModel of a model on the TensorFlow backend; a loop in it fixes an open batch at 1.

    Args:
        model: The model. It is left as it is.
        folder: Where the SavedModel goes; it does not exist yet.
        inputs: The inputs of the model.
        unroll: Whether recurrent layers are unrolled.
        last: What is applied to each output; None for nothing.

    Raises:
        ValueError: If a recurrent layer of open length would have to be unrolled.
    """
    if not (unroll and _recurrent(model)):
        _write(model, folder, inputs=inputs, batch=inputs.batch, last=last)
        # Lists of tensors (a recurrent layer's steps) have a builtin form only when their size is known.
        if b"TensorListReserve" not in (folder / "saved_model.pb").read_bytes():
            return
        shutil.rmtree(folder)
    if not unroll:
        _write(model, folder, inputs=inputs, batch=inputs.batch or 1, last=last)
        return
    for entry in inputs.inputs:
        if None in entry.shape[1:]:
            raise ValueError(
                f"Expected inputs of fixed length for a file of integers, whose recurrent layers are unrolled. "
                f"Received: {entry.name!r} of shape {entry.shape}. Build the model with the length in "
                "`keras.Input(shape)`, or use quantize='dynamic'."
            )
    with unrolled(model):
        _write(model, folder, inputs=inputs, batch=inputs.batch or 1, last=last)


def _write(
    model: keras.Model, folder: Path, *, inputs: Signature, batch: int | None, last: Callable[[Any], Any] | None
) -> None:
    specs = {
        entry.name: keras.InputSpec(shape=(batch, *entry.shape[1:]), dtype=entry.dtype, name=entry.name)
        for entry in inputs.inputs
    }
    # `model.export` leaves it to layers whether they train, and a layer that augments images does by default.
    infer = functools.partial(model, training=False)
    serve = infer if last is None else lambda x: keras.tree.map_structure(last, infer(x))
    with _without_messages():
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serve", serve, input_signature=[inputs.pack(specs)])
        archive.write_out(str(folder), verbose=False)


@contextmanager
def states_at_start(model: keras.Model) -> Iterator[None]:
    """Let the recurrent layers that keep their states start anew, and put the states back afterwards."""
    states = list(recurrent_states(model))
    before = [as_numpy(state).copy() for state in states]
    try:
        for state in states:
            state.assign(keras.ops.zeros_like(state))
        yield
    finally:
        for state, value in zip(states, before, strict=True):
            state.assign(value)


@contextmanager
def _without_messages() -> Iterator[None]:
    """Keep TensorFlow from telling the temporary folder, which it prints wherever it is used interactively."""
    logger = logging.getLogger("tensorflow")
    before = logger.level
    logger.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(before)


def _recurrent(model: keras.Model) -> list[keras.layers.RNN]:
    return [layer for _, layer in walk(model) if isinstance(layer, keras.layers.RNN)]


@contextmanager
def unrolled(model: keras.Model) -> Iterator[None]:
    """Unroll every recurrent layer for the time being: the integer converter crashes on their loops."""
    layers = _recurrent(model)
    before = [layer.unroll for layer in layers]
    try:
        for layer in layers:
            layer.unroll = True
        yield
    finally:
        for layer, unroll in zip(layers, before, strict=True):
            layer.unroll = unroll


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
    names = [[thing.__module__, thing.__qualname__] for thing in things.values()]
    for module, name in names:
        if module == "__main__" or "<" in name:  # defined by this program, in a function, or a lambda
            raise ValueError(_refusal(module, name))
    model.save(folder / COPY)
    return names


def read_copy(folder: Path, things: Sequence[Sequence[str]]) -> keras.Model:
    """Load the model that `write_copy` saved.

    Args:
        folder: The folder with the file.
        things: What `write_copy` returned.

    Raises:
        ValueError: If a custom class or function cannot be imported.
    """
    imported = [_imported(module, name) for module, name in things]
    objects = {keras.saving.get_registered_name(thing): thing for thing in imported}
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
