"""Refuse what would put other weights in the place of those under masks, before anything is changed."""

from __future__ import annotations

import functools

import keras

from tfprune.keras_models.copying.transparent_wrapper import TransparentWrapper
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.layers import walk

_CALLS = {"quantize": "quantize(mode)", "enable_lora": "enable_lora(rank)"}


class RefusedMethod(functools.partial):
    """Stands in the place of a method; no attribute that code of the user's keeps in a model."""


def lock(layer: keras.layers.Layer) -> None:
    """Refuse it on a layer with masks, and on all that is inside of it."""
    for _, part in walk(layer):
        _refuse(part, f"layer {part.name!r}, whose weights are under masks")


def lock_models(anatomy: Anatomy) -> None:
    """Refuse it on models that hold wrappers, too, as they would change the layers that come before the first one.

    A plain Functional or Sequential model that was loaded from a file is not locked: its layers refuse one by one.
    """
    for _, part in anatomy.nodes:
        if isinstance(part.model, keras.Model):
            masked = next((path for path, layer in part.every if isinstance(layer, TransparentWrapper)), None)
            if masked is not None:
                _refuse(part.model, f"model {part.model.name!r}, where weights of {masked!r} are under masks")


def _refuse(part: keras.layers.Layer, received: str) -> None:
    for name, call in _CALLS.items():
        if callable(getattr(part, name, None)):
            setattr(part, name, RefusedMethod(_raise, name, call, received))


def _raise(name: str, call: str, received: str, /, *args: object, **kwargs: object) -> None:
    raise ValueError(
        f"Expected a model without masks for `{name}`. Received: {received}. Strip first: "
        f"tfprune.strip(model).{call}."
    )
