"""Outputs of models that tell classes, as logits, whether they are logits or probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfprune.keras_models.models.graph import is_plain


def logits_of(model: keras.Model) -> Callable[[Any], list[Any]]:
    """Return a function from the outputs of a model to logits in float32; log p are logits of probabilities p.

    Raises:
        ValueError: If an output is not one of classes that exclude each other.
    """
    turns = [_as_logits(output, model) for output in _outputs(model)]
    return lambda outputs: [turn(each) for turn, each in zip(turns, keras.tree.flatten(outputs), strict=True)]


def _outputs(model: keras.Model) -> list[keras.KerasTensor]:
    return keras.tree.flatten(getattr(model, "outputs", None) or [None])


def _as_logits(output: keras.KerasTensor | None, model: keras.Model) -> Callable[[Any], Any]:
    if output is None:  # of a class with code of its own
        return lambda values: ops.cast(values, "float32")
    activation = _activation(output, model)
    if len(output.shape) < 2 or output.shape[-1] == 1 or activation == "sigmoid":
        raise ValueError(
            f"Expected outputs that tell classes, logits or softmax, with a temperature. Received: {model.name!r} "
            f"with an output of shape {output.shape}{activation and f' after {activation}'}. Pass temperature=None, "
            f"and features=[...] with the name of the last layer to compare the outputs as they are."
        )
    if activation == "softmax":
        return lambda values: ops.log(ops.maximum(ops.cast(values, "float32"), keras.backend.epsilon()))
    return lambda values: ops.cast(values, "float32")


def _activation(output: keras.KerasTensor, model: keras.Model) -> str:
    """Return the name of what a graph does last before an output: "softmax", "sigmoid" or another."""
    for operation in getattr(model, "operations", model.layers):
        tensors = operation.outputs if isinstance(operation, keras.Model) else keras.tree.flatten(operation.output)
        index = next((index for index, tensor in enumerate(tensors) if tensor is output), None)
        if index is None:
            continue
        if isinstance(operation, keras.Model) and is_plain(operation):
            return _activation(operation.outputs[index], operation)
        function = getattr(operation, "activation", None)
        return getattr(function, "__name__", "") if function else type(operation).__name__.lower()
    return ""
