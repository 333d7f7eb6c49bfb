"""Quantization-aware training and clustering under tfmot's names."""

from __future__ import annotations

import enum
import re
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_count
from tfprune.masking.pruned import Clustered, place_centroids, shares_values
from tfprune.masking.strip import copy_with, mask_zeros, plain_copy
from tfprune.models.anatomy import Anatomy, as_numpy, check_keras, check_model, kernels
from tfprune.quantizing.quantize_aware import quantization_plan, quantize_aware
from tfprune.quantizing.quantized import Quantized

# Mark the layers to quantize, under the names of tensorflow-model-optimization.


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
        raise ArgumentError(
            "quantize_config",
            "no `quantize_config`, because operators of .tflite files round in one way",
            found=f"{type(quantize_config).__name__} for layer {to_annotate.name!r}",
            advice="Leave it out; to keep a layer in float, do not annotate it.",
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


def _annotated_layers(model: Any) -> dict[str, QuantizeAnnotate]:
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


# Schemes of tfmot: the zeros and shared values of weights that quantization-aware training keeps.

_MOST_VALUES = 256  # of an 8-bit weight


@dataclass(frozen=True)
class Default8BitQuantizeScheme:
    """Quantize to 8 bits, and let training move all weights: the scheme of `quantize_apply` if you name none.

    Example:
        >>> Default8BitQuantizeScheme()
        Default8BitQuantizeScheme()
    """

    def wrapper_arguments(self, layer: keras.layers.Layer) -> dict[str, Any]:
        """Return the arguments of `Clustered` that keep zeros and shared values of a layer; empty for none."""
        return {}


@dataclass(frozen=True)
class Default8BitPrunePreserveQuantizeScheme(Default8BitQuantizeScheme):
    """Keep the zeros of a pruned model (PQAT): where a kernel is zero, it gets a mask.

    Example:
        >>> from tfprune.tfmot import quantize_annotate_model, quantize_apply
        >>> hidden = keras.layers.Dense(4, name="hidden", kernel_initializer="identity")
        >>> model = quantize_annotate_model(keras.Sequential([keras.Input((8,)), hidden]))
        >>> model = quantize_apply(model, Default8BitPrunePreserveQuantizeScheme())
        >>> int(np.sum(model.get_layer("hidden").masks["kernel"]))
        4
    """

    def wrapper_arguments(self, layer: keras.layers.Layer) -> dict[str, Any]:
        names = [kernel.path for kernel in kernels(layer) if (as_numpy(kernel.variable) == 0).any()]
        return {"weights": names, "latent": "zero"} if names else {}


@dataclass(frozen=True)
class Default8BitClusterPreserveQuantizeScheme(Default8BitPrunePreserveQuantizeScheme):
    """Keep the number of values that the entries of each kernel of a clustered model share (CQAT); they are trained.

    Args:
        preserve_sparsity: Whether zeros get a mask too (PCQAT). They stay zeros without a mask as well, because 0 is
            never moved to one of the other values.

    Example:
        >>> Default8BitClusterPreserveQuantizeScheme().preserve_sparsity
        True
    """

    preserve_sparsity: bool = True

    def wrapper_arguments(self, layer: keras.layers.Layer) -> dict[str, Any]:
        counts = [_shared_values(as_numpy(kernel.variable)) for kernel in kernels(layer)]
        shared = {"levels": 1 + max(counts)} if counts and all(counts) else {}
        return {**(super().wrapper_arguments(layer) if self.preserve_sparsity else {}), **shared}


def _shared_values(weight: np.ndarray) -> int:
    """Count the values that the non-zero entries share; 0 if there are too many, or each entry has its own."""
    entries = weight[weight != 0]
    count = len(np.unique(entries))
    return count if count < min(len(entries), _MOST_VALUES) else 0


# Quantization-aware training under the names of tensorflow-model-optimization.


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
        raise ArgumentTypeError(
            "scheme",
            "one of tfprune.tfmot's schemes, such as Default8BitPrunePreserveQuantizeScheme()",
            f"{scheme!r:.100} of type {type(scheme).__name__}",
        )
    annotated = _annotated_layers(model)
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


# Clustering under the names of tensorflow-model-optimization: few values for each weight, without 8 bits.


class CentroidInitialization(str, enum.Enum):
    """The initialization of the values that the entries of a weight share, before they are trained.

    `LINEAR` spaces them evenly from the smallest to the largest entry, `RANDOM` draws them from there,
    `DENSITY_BASED` gives each as many entries, and `KMEANS_PLUS_PLUS` leaves little squared error.

    Example:
        >>> CentroidInitialization("linear")
        <CentroidInitialization.LINEAR: 'linear'>
    """

    LINEAR = "linear"
    RANDOM = "random"
    DENSITY_BASED = "density"
    KMEANS_PLUS_PLUS = "k-means"


def cluster_weights(
    to_cluster: Any,
    number_of_clusters: int,
    cluster_centroids_init: CentroidInitialization = CentroidInitialization.KMEANS_PLUS_PLUS,
    *,
    preserve_sparsity: bool = False,
) -> Any:
    """Wrap a model, a layer or a list of layers so that the entries of each weight share a few values.

    The values are trained: each moves with the gradients of its entries, and an entry that gets nearer to another
    value takes that one. Zeros stay zeros.

    Args:
        to_cluster: A built model, of which an uncompiled copy is returned, or a layer or a list of layers, which are
            wrapped as they are. Of a model those with a kernel that mixes inputs are wrapped. Layers that share
            values already, or have no kernel, are left as they are.
        number_of_clusters: The number of values, at least 2; zeros of a weight are not counted.
        cluster_centroids_init: The initialization of the values.
        preserve_sparsity: Whether 0 is one of the `number_of_clusters`, which must then be at least 3.

    Returns:
        The wrapped copy, layer or list. A wrapper has its layer's name.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a number is out of range, a model cannot be copied or has no kernel, or a layer is quantized.

    Example:
        >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, name="hidden")])
        >>> clustered = cluster_weights(model, 8)
        >>> len(set(keras.ops.convert_to_numpy(strip_clustering(clustered).get_layer("hidden").kernel).flat))
        8

    Reference:
        Han et al., 2016, "Deep Compression", arXiv:1510.00149.
    """
    count = check_count(number_of_clusters, "number_of_clusters", least=3 if preserve_sparsity else 2)
    if not isinstance(cluster_centroids_init, CentroidInitialization):
        raise ArgumentTypeError(
            "cluster_centroids_init",
            "a CentroidInitialization, such as CentroidInitialization.LINEAR",
            repr(cluster_centroids_init),
        )
    levels = count if preserve_sparsity else count + 1

    def wrap(layer: keras.layers.Layer) -> keras.layers.Layer:
        return _wrap_layer(layer, levels=levels, start=cluster_centroids_init)

    if isinstance(to_cluster, (list, tuple)):
        return list(map(wrap, to_cluster))
    check_keras(to_cluster, keras.layers.Layer, argument="to_cluster")
    return _wrap_model(to_cluster, wrap) if isinstance(to_cluster, keras.Model) else wrap(to_cluster)


def _wrap_layer(layer: keras.layers.Layer, *, levels: int, start: CentroidInitialization) -> keras.layers.Layer:
    if shares_values(layer) or isinstance(layer, keras.layers.InputLayer) or (layer.built and not kernels(layer)):
        return layer
    if isinstance(layer, Clustered):
        raise ValueError(
            f"Expected layers that are not quantized yet. Received: {layer.name!r}, a {type(layer).__name__}. "
            f"Cluster first, strip, and quantize then."
        )
    return Clustered.of(layer, levels=levels, start=start.value)


def _wrap_model(model: keras.Model, wrap: Callable[[keras.layers.Layer], keras.layers.Layer]) -> keras.Model:
    anatomy = Anatomy.of(model)
    check_model(anatomy)
    with_kernels = {path for path, layer in anatomy.leaves if any(kernel.mixes_inputs for kernel in kernels(layer))}
    if not with_kernels:
        raise ValueError(
            f"Expected a model with kernels. Received: {model.name!r}, which has none. Name the weights of your "
            f"layers with tfprune.register_prunable."
        )
    copy = copy_with(anatomy, lambda path, layer: wrap(layer) if path in with_kernels else None)
    place_centroids(copy, like=model)
    return copy


def strip_clustering(model: keras.Model) -> keras.Model:
    """Return a plain, uncompiled copy of a model without wrappers, whose weights hold the shared values.

    Args:
        model: A model that `cluster_weights` returned, or that has layers which it wrapped.

    Raises:
        ValueError, TypeError: As `tfprune.strip` does.

    Example:
        >>> model = cluster_weights(keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]), 3)
        >>> type(strip_clustering(model).layers[0]).__name__
        'Dense'
    """
    return plain_copy(Anatomy.of(model))


def strip_clustering_cqat(to_strip: keras.Model) -> keras.Model:
    """Return the model itself: `tfprune.export.to_tflite` takes what `quantize_apply` returned as it is.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> strip_clustering_cqat(model) is model
        True
    """
    return to_strip


def cluster_scope() -> AbstractContextManager[Any]:
    """Return a scope to load clustered models in. They load without it too, once tfprune is imported.

    Example:
        >>> model = cluster_weights(keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]), 3)
        >>> model.save("clustered.keras")
        >>> with cluster_scope():
        ...     model = keras.models.load_model("clustered.keras")
    """
    return keras.saving.custom_object_scope({"Clustered": Clustered})
