"""Measure the statistics of BatchNormalization on samples after training, instead of averaging during it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfprune.keras_models.models.batches import batches, check_batch
from tfprune.keras_models.models.layers import as_numpy, walk
from tfprune.methods.federated.arrays import Arrays
from tfprune.methods.federated.masked_model import MaskedModel


def measure_statistics(model: MaskedModel, samples: Any, *, batch_size: int = 32) -> int:
    """Set the statistics of each BatchNormalization to the mean over the batches of some samples.

    Use it for HeteroFL, which calls it static normalization: clients train with the statistics of each batch, and
    measure the statistics for inference once, with the final weights of the server, which averages them. FedMask and
    PruneFL need it as well, because their steps do not update statistics.

    Args:
        model: A wrapped model. Only its statistics change.
        samples: An array, a tuple (x, y), a dataset or an iterable of batches. Labels are ignored.
        batch_size: Samples in a batch of arrays, at least 1. Default 32.

    Returns:
        The number of batches: the weight of this client in the average of the statistics.

    Raises:
        TypeError: If `model` is not a `MaskedModel`.
        ValueError: If the samples are empty or do not fit the model.

    Example:
        >>> import tfprune
        >>> layers = [keras.Input((1,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
        >>> model = MaskedModel(tfprune.wrap(keras.Sequential(layers)))
        >>> measure_statistics(model, np.array([[1.0], [3.0]]))
        1
        >>> [array.item() for array in model.weights[2:4]]
        [2.0, 1.0]

    Reference:
        Diao et al., 2021, "HeteroFL", arXiv:2010.01264: static batch normalization.
    """
    if not isinstance(model, MaskedModel):
        raise TypeError(f"Expected `model` to be a MaskedModel. Received: {type(model).__name__}.")
    layers = [layer for _, layer in walk(model.model) if isinstance(layer, keras.layers.BatchNormalization)]
    momenta, totals, count = [layer.momentum for layer in layers], _zeros(layers), 0
    for layer in layers:
        layer.momentum = 0.0  # so that it has the statistics of the last batch
    try:
        for batch in batches(samples, rows=batch_size, argument="samples"):
            check_batch(batch, model.model, argument="samples")
            model.model(batch.x, training=True)
            totals = [before + added for before, added in zip(totals, _statistics(layers), strict=True)]
            count += 1
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    variables = [variable for layer in layers for variable in (layer.moving_mean, layer.moving_variance)]
    for variable, total in zip(variables, totals, strict=True):
        variable.assign(total / count)
    return count


def _statistics(layers: list[keras.layers.BatchNormalization]) -> Arrays:
    values = [variable for layer in layers for variable in (layer.moving_mean, layer.moving_variance)]
    return [as_numpy(variable).astype(np.float64) for variable in values]


def _zeros(layers: list[keras.layers.BatchNormalization]) -> Arrays:
    return [np.zeros_like(array) for array in _statistics(layers)]
