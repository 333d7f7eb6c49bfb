"""What a wrapper has to know of how Keras calls the layer inside: arguments, states, parts not built yet."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras

from tfprune.keras_models.models.layers import walk


def with_signature_of(layer: keras.layers.Layer, call: Callable) -> Callable:
    """Give a function the signature of the layer's `call`, `training` added: Keras reads argument names off it."""
    parameters = dict(inspect.signature(layer.call).parameters)
    if "training" not in parameters:
        training = inspect.Parameter("training", inspect.Parameter.KEYWORD_ONLY, default=None)
        parameters = {**parameters, "training": training}

    @functools.wraps(call)
    def like_it(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    ordered = sorted(parameters.values(), key=lambda parameter: parameter.kind)
    like_it.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    return like_it


def recurrent_states(layer: keras.layers.Layer) -> Iterator[keras.Variable]:
    """Yield the states that stateful recurrent layers carry from batch to batch; Keras leaves them untracked."""
    for _, part in walk(layer):
        if getattr(part, "stateful", False):
            yield from (state for state in keras.tree.flatten(part.states) if isinstance(state, keras.Variable))


def unbuilt(layer: keras.layers.Layer) -> list[str]:
    """Return the paths of the parts of a layer that have not been built."""
    return [path or layer.name for path, part in walk(layer) if not part.built]


def placeholder(value: Any) -> Any:
    """Return a placeholder for an array or tensor; let anything else through."""
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        return value
    return keras.KerasTensor(value.shape, dtype=keras.backend.standardize_dtype(value.dtype))
