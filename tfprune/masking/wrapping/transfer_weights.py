"""Transfer the weights of a model into its wrapped, stripped or plain copy."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfprune.keras_models.copying.by_attributes import own_variables
from tfprune.keras_models.copying.in_place import Replace, copy_layers, lock_models
from tfprune.keras_models.copying.twin import copy_all, copy_variables, layer_inside, layer_pairs
from tfprune.keras_models.models.anatomy import Anatomy, Kind
from tfprune.masking.wrapping.pruned import Pruned


def copy_with(anatomy: Anatomy, replace: Replace | None = None) -> Any:
    """Return what `copy_layers` does, a copy with wrappers in which some layers are replaced, with the weights.

    Raises:
        ValueError: If the model or layer cannot be copied.
    """
    copy = copy_layers(anatomy, replace)
    if anatomy.model.built or isinstance(anatomy.model, keras.Model):
        transfer_weights(anatomy, copy)
    lock_models(Anatomy.of(copy, accepts=keras.layers.Layer))
    return copy


def transfer_weights(anatomy: Anatomy, target: keras.layers.Layer) -> None:
    """Copy every weight of a model or layer into a copy of it, in which layers may be wrapped, or wrappers stripped.

    Where a wrapper was stripped, the entries that its mask hides become zero.

    Raises:
        ValueError: If a layer of the copy has other variables.
    """
    for part, counterpart in layer_pairs(anatomy, target):
        if part.kind is Kind.CODE:  # its layers come by themselves
            copy_all(own_variables(part.model), own_variables(counterpart), source=part.model)
        else:
            _transfer(part.model, counterpart)


def _transfer(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    inside = layer_inside(target)
    if not isinstance(source, Pruned):
        copy_variables(source, inside)
        return
    copy_variables(source.layer, inside)
    if not _copy_state(source, target):
        _write_masked_values(source, inside)


def _copy_state(source: Pruned, target: keras.layers.Layer) -> bool:
    """Copy of masks, latent values and ranges those that both have; tell whether the target has all of them."""
    saved, own = source.saved_variables(), target.saved_variables() if isinstance(target, Pruned) else {}
    for name in saved.keys() & own.keys():
        own[name].assign(ops.copy(saved[name].value))
    return saved.keys() <= own.keys()


def _write_masked_values(source: Pruned, target: keras.layers.Layer) -> None:
    """Give a copy of the layer inside the values that the wrapper lets it read."""
    indices = {id(variable): index for index, variable in enumerate(source.layer.variables)}
    for variable, value in source.settled():
        target.variables[indices[id(variable)]].assign(value)
