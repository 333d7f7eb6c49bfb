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

    It is `tfprune.quantize_aware`. A layer that cannot be quantized stays in float; `tfprune.quantization_report`
    says which and why. Of a model with masks the zeros are kept; of a stripped one they are not, which is what
    `Default8BitPrunePreserveQuantizeScheme` is for. Write the file with
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
        scheme: What training has to keep of the weights: nothing, zeros (`Default8BitPrunePreserveQuantizeScheme`),
            or shared values (`Default8BitClusterPreserveQuantizeScheme`). It warns if there are none to keep.

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
    left = [f"^{re.escape(path)}$" for path in plan.ranges if path not in annotated]
    return quantize_aware(_without_annotations(model, annotated, scheme), skip=left or None)


def _without_annotations(
    model: keras.Model, annotated: dict[str, QuantizeAnnotate], scheme: Default8BitQuantizeScheme
) -> keras.Model:
    """Return a copy whose annotated layers are plain, or have masks and shared values where these are to be kept."""
    kept = {path: scheme.kept(layer.layer) for path, layer in annotated.items()}
    if type(scheme) is not Default8BitQuantizeScheme and not any(kept.values()):
        warnings.warn(
            f"Nothing is kept: {type(scheme).__name__} finds no annotated layer in {model.name!r} whose weights hold "
            f"what it is for. Prune or cluster the model first, and strip it.",
            stacklevel=3,
        )

    def replace(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if not isinstance(layer, QuantizeAnnotate):
            return None
        return Clustered.of(layer, **kept[path]) if kept[path] or layer.prunes or layer.levels else layer.layer

    copy = copy_with(Anatomy.of(model), replace)
    for path, layer in Anatomy.of(copy).leaves:
        if "weights" in kept.get(path, {}):
            mask_zeros(layer)
    place_centroids(copy, like=model)
    return copy


def quantize_scope(*args: dict[str, Any]) -> AbstractContextManager[Any]:
    """Return a scope to load quantized models in. They load without it too, once tfprune is imported.

    Args:
        *args: Classes of your own by name, as in `keras.saving.custom_object_scope`.

    Example:
        >>> model = quantize_model(keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]))
        >>> model.save("quantized.keras")
        >>> with quantize_scope():
        ...     model = keras.models.load_model("quantized.keras")
    """
    ours: dict[str, Any] = {"QuantizeAnnotate": QuantizeAnnotate, "Quantized": Quantized}
    return keras.saving.custom_object_scope({name: thing for given in (*args, ours) for name, thing in given.items()})
