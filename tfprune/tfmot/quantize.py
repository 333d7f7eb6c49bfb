"""Quantization-aware training under the names of tensorflow-model-optimization."""

from __future__ import annotations

import re
import warnings
from contextlib import AbstractContextManager
from typing import Any

import keras

from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.masking.wrapping.pruned_layers import mask_zeros
from tfprune.masking.wrapping.transfer_weights import copy_with
from tfprune.quantizing.clustered import Clustered, place_centroids
from tfprune.quantizing.quantize_aware import quantization_plan, quantize_aware
from tfprune.quantizing.quantized import Quantized
from tfprune.tfmot.annotate import QuantizeAnnotate, annotated_layers
from tfprune.tfmot.schemes import Default8BitQuantizeScheme


def quantize_model(to_quantize: keras.Model) -> keras.Model:
    """Return an uncompiled copy that computes as its 8-bit file will, for quantization-aware training.

    It is `tfprune.quantize_aware`. Layers that cannot be quantized stay in float; `tfprune.quantization_report` lists
    them with the reason. The zeros of a model with masks are kept. To keep those of a stripped model, use
    `Default8BitPrunePreserveQuantizeScheme`. Write the file with
    `tfprune.export.to_tflite(model, path, quantize="int8")`.

    Args:
        to_quantize: A built Sequential or Functional model. It is left untouched.

    Raises:
        TypeError, ValueError: As `tfprune.quantize_aware` does.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
        >>> quantize_model(model).get_layer("hidden").range_names
        ('input_0', 'output')
    """
    return quantize_aware(to_quantize)


def quantize_apply(model: keras.Model, scheme: Default8BitQuantizeScheme | None = None) -> keras.Model:
    """Return an uncompiled copy whose annotated layers compute as in an 8-bit file; the others stay in float.

    Args:
        model: A built model with layers that `quantize_annotate_layer` or `quantize_annotate_model` marked. It is
            left untouched.
        scheme: Keeps zeros (`Default8BitPrunePreserveQuantizeScheme`) or shared values
            (`Default8BitClusterPreserveQuantizeScheme`) of the weights in training, and warns if there are none. None
            (the default) keeps neither.

    Raises:
        TypeError: If it is not a Keras model, or the scheme is none of these.
        ValueError: If no layer is annotated, or one that is cannot be quantized; as `tfprune.quantize_aware` does.

    Example:
        >>> from tfprune.tfmot import quantize_annotate_model
        >>> model = quantize_annotate_model(keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]))
        >>> type(quantize_apply(model).layers[0]).__name__
        'Quantized'
    """
    scheme = Default8BitQuantizeScheme() if scheme is None else scheme
    if not isinstance(scheme, Default8BitQuantizeScheme):
        raise TypeError(
            f"Expected one of tfprune.tfmot's schemes, such as Default8BitPrunePreserveQuantizeScheme(). Received: "
            f"scheme={scheme!r:.100} of type {type(scheme).__name__}."
        )
    annotated = annotated_layers(model)
    plan = quantization_plan(Anatomy.of(model))
    refused = [f"{entry.layer}: {entry.reason}" for entry in plan.skipped if entry.layer in annotated]
    if refused:
        raise ValueError(
            f"Expected annotated layers that can be computed in 8 bits. Received: {'; '.join(refused)}. Do not "
            f"annotate them, or annotate the model as a whole, which leaves them in float."
        )
    skip = [f"^{re.escape(path)}$" for path in plan.ranges if path not in annotated]
    return quantize_aware(_without_annotations(model, annotated, scheme), skip=skip or None)


def _without_annotations(
    model: keras.Model, annotated: dict[str, QuantizeAnnotate], scheme: Default8BitQuantizeScheme
) -> keras.Model:
    """Return a copy whose annotated layers are plain, or keep their masks and shared values if the scheme says so."""
    arguments = {path: scheme.wrapper_arguments(layer.layer) for path, layer in annotated.items()}
    if type(scheme) is not Default8BitQuantizeScheme and not any(arguments.values()):
        warnings.warn(
            f"Nothing is kept: {type(scheme).__name__} finds no annotated layer in {model.name!r} whose weights hold "
            f"what it is for. Prune or cluster the model first, and strip it.",
            stacklevel=3,
        )

    def replace(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if not isinstance(layer, QuantizeAnnotate):
            return None
        is_kept = arguments[path] or layer.prunes or layer.levels
        return Clustered.of(layer, **arguments[path]) if is_kept else layer.layer

    copy = copy_with(Anatomy.of(model), replace)
    for path, layer in Anatomy.of(copy).leaves:
        if "weights" in arguments.get(path, {}):
            mask_zeros(layer)
    place_centroids(copy, like=model)
    return copy


def quantize_scope(*args: dict[str, Any]) -> AbstractContextManager[Any]:
    """Return a scope to load quantized models in. They load without it too, once tfprune is imported.

    Args:
        *args: Other classes by name, as in `keras.saving.custom_object_scope`.

    Example:
        >>> model = quantize_model(keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]))
        >>> model.save("quantized.keras")
        >>> with quantize_scope():
        ...     model = keras.models.load_model("quantized.keras")
    """
    objects: dict[str, Any] = {}
    for classes in (*args, {"QuantizeAnnotate": QuantizeAnnotate, "Quantized": Quantized}):
        objects |= classes
    return keras.saving.custom_object_scope(objects)
