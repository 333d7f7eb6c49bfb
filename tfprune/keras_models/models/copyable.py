"""Readers of an `Anatomy` for callers that do not hand it on yet."""

from __future__ import annotations

import keras

from tfprune.keras_models.models import anatomy


def check_model(model: keras.Model) -> None:
    """Refuse a model that cannot be copied with its weights: see `anatomy.check_model`."""
    anatomy.check_model(anatomy.Anatomy.of(model))


def check_layers(model: keras.Model) -> None:
    """Refuse a model whose layers cannot be copied: see `anatomy.check_layers`."""
    anatomy.check_layers(anatomy.Anatomy.of(model))
