"""Mark the layers to quantize, under the names of tensorflow-model-optimization."""

from __future__ import annotations

from typing import Any

import keras

from tfprune.keras_models.models.anatomy import Anatomy, check_keras
from tfprune.masking.wrapping.transfer_weights import copy_with
from tfprune.quantizing.clustered import Clustered
from tfprune.quantizing.quantize_aware import quantization_plan


@keras.saving.register_keras_serializable(package="tfprune")
class QuantizeAnnotate(Clustered):
    """A wrapper that computes as its layer, and marks it for `quantize_apply`."""


def quantize_annotate_layer(to_annotate: keras.layers.Layer, quantize_config: None = None) -> keras.layers.Layer:
    """Mark a layer of a model; `quantize_apply` quantizes the marked layers, and leaves the others in float.

    Args:
        to_annotate: A layer, built or not. It is used as it is, not copied.
        quantize_config: Must be None: the operator decides how a layer is quantized.

    Raises:
        TypeError: If `to_annotate` is not a layer.
        ValueError: If it is a model or wrapped already, or `quantize_config` is given.

    Example:
        >>> layers = [keras.Input((8,)), keras.layers.Dense(4), quantize_annotate_layer(keras.layers.Dense(2))]
        >>> from tfprune.tfmot import quantize_apply
        >>> [type(layer).__name__ for layer in quantize_apply(keras.Sequential(layers)).layers]
        ['Dense', 'Quantized']
    """
    check_keras(to_annotate, keras.layers.Layer, argument="to_annotate")
    if isinstance(to_annotate, keras.Model):
        raise ValueError(
            f"Expected a layer. Received: the model {to_annotate.name!r}; quantize_annotate_model takes models."
        )
    if quantize_config is not None:
        raise ValueError(
            f"Expected no `quantize_config`, because operators of .tflite files round in one way. Received: "
            f"{type(quantize_config).__name__} for layer {to_annotate.name!r}. Leave it out; to keep a layer in "
            f"float, do not annotate it."
        )
    return QuantizeAnnotate(to_annotate)


def quantize_annotate_model(to_annotate: keras.Model) -> keras.Model:
    """Return an uncompiled copy in which the layers that can be quantized are marked.

    Args:
        to_annotate: A built Sequential or Functional model; it is left untouched. Layers that are annotated already
            stay so. `tfprune.quantization_report` lists the layers of the quantized model that stayed in float.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: As `tfprune.quantize_aware` does.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> [type(layer).__name__ for layer in quantize_annotate_model(model).layers]
        ['QuantizeAnnotate']
    """
    anatomy = Anatomy.of(to_annotate)
    skipped = {entry.layer for entry in quantization_plan(anatomy).skipped}

    def replace(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if path in skipped or isinstance(layer, (keras.layers.InputLayer, QuantizeAnnotate)):
            return None
        return QuantizeAnnotate.of(layer)

    return copy_with(anatomy, replace)


def annotated_layers(model: Any) -> dict[str, QuantizeAnnotate]:
    """Return the marked layers of a model, by their paths.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If there are none.
    """
    check_keras(model)
    annotated = {path: layer for path, layer in Anatomy.of(model).leaves if isinstance(layer, QuantizeAnnotate)}
    if not annotated:
        raise ValueError(
            f"Expected layers that quantize_annotate_layer or quantize_annotate_model marked. Received: "
            f"{model.name!r}, which has none. To quantize a whole model, call quantize_model(model)."
        )
    return annotated
