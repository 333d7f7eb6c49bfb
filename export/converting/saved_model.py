"""A Keras model as a SavedModel that the converter can read: inputs by name, loops in a form that it takes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras

from tfprune.export.converting.signature import Signature
from tfprune.models.layers import walk


def write_saved_model(model: keras.Model, folder: Path, *, inputs: Signature, unroll: bool) -> None:
    """Write the SavedModel of a model on the TensorFlow backend; a loop in it fixes the batch at 1.

    Args:
        model: The model. It is left as it is.
        folder: Where the SavedModel goes; it does not exist yet.
        inputs: The inputs of the model.
        unroll: Whether recurrent layers are unrolled.

    Raises:
        ValueError: If a recurrent layer of open length would have to be unrolled.
    """
    _write(model, folder, inputs=inputs, batch=inputs.batch)
    # Lists of tensors (a recurrent layer's steps) have a builtin form only when their size is known.
    has_loops = b"TensorListReserve" in (folder / "saved_model.pb").read_bytes()
    if not has_loops and not (unroll and _recurrent(model)):
        return
    shutil.rmtree(folder)
    if not unroll:
        _write(model, folder, inputs=inputs, batch=1)
        return
    for entry in inputs.inputs:
        if None in entry.shape[1:]:
            raise ValueError(
                f"Expected inputs of fixed length for a file of integers, whose recurrent layers are unrolled. "
                f"Received: {entry.name!r} of shape {entry.shape}. Build the model with the length in "
                "`keras.Input(shape)`, or use quantize='dynamic'."
            )
    with unrolled(model):
        _write(model, folder, inputs=inputs, batch=1)


def _write(model: keras.Model, folder: Path, *, inputs: Signature, batch: int | None) -> None:
    specs = {
        entry.name: keras.InputSpec(shape=(batch, *entry.shape[1:]), dtype=entry.dtype, name=entry.name)
        for entry in inputs.inputs
    }
    # Given explicitly, because Keras' own signature always leaves the batch open.
    with _without_messages():
        model.export(str(folder), verbose=False, input_signature=[inputs.pack(specs)])


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
