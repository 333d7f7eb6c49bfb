"""Find which BatchNormalization takes the outputs of which layer."""

from __future__ import annotations

from typing import Any

import keras

from tfprune.keras_models.models.calls import placeholder
from tfprune.keras_models.models.layer_hooks import hooked_calls, read_only_scope
from tfprune.keras_models.models.layers import walk

Normalizers = dict[int, keras.layers.BatchNormalization]


class _Silent(keras.Model):
    """A model called within another, in a graph of its own in which nothing is computed."""

    def __init__(self, model: keras.layers.Layer) -> None:
        super().__init__(dtype="float32", autocast=False)
        self.model = model
        self.built = True

    def call(self, inputs: Any) -> Any:
        with read_only_scope(self.model):
            return self.model(inputs, training=False)


def normalizers(model: keras.layers.Layer) -> Normalizers:
    """Return the BatchNormalization that takes what a layer returns, by the layer's id.

    Raises:
        ValueError: If the inputs of the model are not known, so that it cannot be called without data.
    """
    layers = [layer for _, layer in walk(model)]
    makers: dict[int, tuple[keras.layers.Layer, Any]] = {}
    layers_after: Normalizers = {}

    def on_call(layer: keras.layers.Layer, given: Any, returned: Any) -> None:
        if isinstance(layer, keras.layers.BatchNormalization) and id(given) in makers:
            layers_after[id(makers[id(given)][0])] = layer
        # The innermost layer that returns a tensor made it. The tensor is kept, so that no other one gets its id.
        makers.setdefault(id(returned), (layer, returned))

    with hooked_calls(layers, on_call):
        _Silent(model)(_placeholders(model))
    return layers_after


def _placeholders(model: keras.layers.Layer) -> Any:
    if isinstance(model, keras.Sequential) and model.built:  # its `input` is the tensor that it was called on
        return placeholder(model.inputs[0])
    if getattr(model, "inputs", None):
        return keras.tree.map_structure(placeholder, model.input)
    config = model.get_build_config() or {}
    if not isinstance(config.get("input_shape"), (tuple, list)):
        raise ValueError(
            f"Expected a model with known inputs, to find which layers normalize the outputs of which. Received: "
            f"{model.name!r} of class {type(model).__name__} without them. Build it with model.build(input_shape)."
        )
    return keras.KerasTensor(tuple(config["input_shape"]))
