"""Refuse calls that would replace weights under masks, before anything is changed."""

from __future__ import annotations

import keras

from tfprune.keras_models.copying.held_layers import RefusedMethod
from tfprune.keras_models.copying.transparent_wrapper import TransparentWrapper
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.layers import walk

_CALLS = {"quantize": "quantize(mode)", "enable_lora": "enable_lora(rank)"}


def lock(layer: keras.layers.Layer) -> None:
    """Make `quantize` and `enable_lora` raise on a masked layer and everything inside it."""
    for _, part in walk(layer):
        _refuse(part, f"layer {part.name!r}, whose weights are under masks")


def lock_models(anatomy: Anatomy) -> None:
    """Make them raise on models that hold wrappers, too: these would change the layers before the first wrapper.

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
