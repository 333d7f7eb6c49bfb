"""Half precision: which layers compute in it, and a model that computes in float32 while it is exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from tfprune.keras_models.models.layers import walk

HALF_TYPES = ("float16", "bfloat16")


def half_types(model: keras.Model) -> set[str]:
    """Return the half-precision types in which layers of a model compute."""
    return {layer.compute_dtype for layer in _computing(model) if not isinstance(layer, keras.Model)} & set(
        HALF_TYPES
    )


def has_half_weights(model: keras.Model) -> bool:
    """Tell whether weights are stored in half precision, as they are not in mixed precision."""
    return any(variable.dtype in HALF_TYPES for variable in model.variables)


@contextmanager
def in_float32(model: keras.Model) -> Iterator[None]:
    """Let every layer of a model compute in float32, in which it is then traced or saved; put all back afterwards."""
    before = [(layer, layer.dtype_policy) for layer in _computing(model) if layer.compute_dtype in HALF_TYPES]
    try:
        for layer, _ in before:
            _set_policy(layer, "float32")
        yield
    finally:
        for layer, policy in before:
            _set_policy(layer, policy)


def _computing(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for _, layer in walk(model) if not isinstance(layer, keras.layers.InputLayer)]


def _set_policy(layer: keras.layers.Layer, policy: Any) -> None:
    layer.dtype_policy = policy
    if isinstance(layer, keras.layers.Normalization) and layer.built:  # it keeps constants of the type it computes in
        layer.finalize_state()
        if layer.input_mean is not None:  # given, not adapted: `build` makes the constants, and no weights
            layer.build(layer.get_build_config()["input_shape"])
