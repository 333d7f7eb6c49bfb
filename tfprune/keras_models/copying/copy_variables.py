"""The variables of a layer into a copy of it, which trains as the layer does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfprune.keras_models.copying.rebuild import copy_of
from tfprune.keras_models.models.calls import unbuilt
from tfprune.keras_models.models.layers import paired, quantized_already
from tfprune.keras_models.models.low_rank import train_alike


def copy_variables(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Assign every variable of a layer, seeds included, to its counterpart in a copy of the layer.

    Raises:
        ValueError: If the two do not have the same variables.
    """
    pairs = paired(source, target)
    train_alike(pairs)
    copy_all(source.variables, target.variables, source=source)
    for layer, counterpart in pairs:
        counterpart.name = layer.name  # Keras numbers layers anew in each copy
    _finish(pairs)


def set_values(source: keras.layers.Layer, target: keras.layers.Layer, *, values: Sequence[np.ndarray]) -> None:
    """Give a copy of a layer with other sizes the values of its variables, and let it train as the layer does."""
    pairs = paired(source, target)
    train_alike(pairs)
    for variable, value in zip(target.variables, values, strict=True):
        variable.assign(value)
    _finish(pairs)


def _finish(pairs: Sequence[tuple[Any, Any]]) -> None:
    """Let layers derive what they keep besides their variables, once these have their values."""
    for _, counterpart in pairs:
        if isinstance(counterpart, keras.layers.Normalization):  # which derives constants from its variables
            counterpart.finalize_state()


def check_copy_of(layer: keras.layers.Layer) -> None:
    """Refuse a layer that cannot be copied by its configuration, or whose copy has other variables.

    Raises:
        ValueError: Saying what is wrong with its configuration.
    """
    copy = copy_of(layer)
    if not unbuilt(copy):  # some layers create their weights when they are called
        _check_same_variables(layer.variables, copy.variables, source=layer)


def _check_same_variables(
    variables: Sequence[keras.Variable], counterparts: Sequence[keras.Variable], *, source: keras.layers.Layer
) -> None:
    """Refuse a copy of a layer, `source`, that has other variables.

    Raises:
        ValueError: If their number or shapes differ.
    """
    if [variable.shape for variable in variables] != [counterpart.shape for counterpart in counterparts]:
        raise ValueError(
            f"Expected layer {source.name!r} ({type(source).__name__}) to have the same variables when it is rebuilt "
            f"from its configuration. Received: {len(counterparts)} where it has {len(variables)}. "
            + (
                quantized_already(source)
                or "Create all variables in `__init__` or `build`, and return every argument in `get_config`."
            )
        )


def copy_all(
    variables: Sequence[keras.Variable], counterparts: Sequence[keras.Variable], *, source: keras.layers.Layer
) -> None:
    """Assign variables of a layer, `source`, to as many others of the same shapes."""
    _check_same_variables(variables, counterparts, source=source)
    for variable, counterpart in zip(variables, counterparts, strict=True):
        # On JAX both would hold one buffer, which training gives away.
        counterpart.assign(keras.ops.copy(variable.value))
