"""The flat copy that a plan was made of, kept so that the plan can be carried out without another one."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import keras

from tfprune.keras_models.copying.twin import config_of, layer_states, plain_parts
from tfprune.keras_models.models.anatomy import Kind, kind_of
from tfprune.keras_models.models.layers import walk
from tfprune.masking.wrapping.flat_copy import FlatCopy


class PlannedCopy:
    """A flat copy with what the model was when it was copied; the model itself is not kept alive.

    Args:
        model: The model.
        copy: Its flat copy.
    """

    def __init__(self, model: keras.Model, copy: FlatCopy) -> None:
        self._model = weakref.ref(model)
        self._settings = _settings(model)
        self._copy = replace(copy, sources={})  # which hold the layers of the model

    def of(self, model: keras.Model) -> FlatCopy | None:
        """Return the copy with the weights that a model has now; None for another model, or one that was changed."""
        is_fitting = self._settings is not None and self._model() is model and _settings(model) == self._settings
        if self._copy.is_used_up or not is_fitting:
            return None
        self._copy.read_weights(model)
        return self._copy


def _settings(model: keras.Model) -> dict[str, Any] | None:
    """Return the settings that decide how a model is copied, weights aside; None if they cannot be known."""
    parts = [part for _, part in walk(model)]
    if any(kind_of(part) is Kind.CODE or hasattr(part, "get_vocabulary") for part in parts):
        return None
    try:
        config = config_of(model)
    except ValueError:
        return None
    return {**config, "compile_config": None, "states": layer_states(plain_parts(model))}
