"""Clustering under the names of tensorflow-model-optimization: few values for each weight, without 8 bits."""

from __future__ import annotations

import enum
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import keras

from tfprune.base.spec import check_count
from tfprune.keras_models.models.anatomy import Anatomy, check_keras, check_model
from tfprune.keras_models.models.kernels import kernels
from tfprune.masking.wrapping.strip import plain_copy
from tfprune.masking.wrapping.transfer_weights import copy_with
from tfprune.quantizing.clustered import Clustered, place_centroids, shares_values


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
        raise TypeError(
            f"Expected a CentroidInitialization, such as CentroidInitialization.LINEAR. Received: "
            f"cluster_centroids_init={cluster_centroids_init!r}."
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
