"""Gradients of a wrapped model at all entries, those under its masks included."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfprune.keras_models.models.batches import batches, check_batch
from tfprune.methods.federated.arrays import Arrays
from tfprune.methods.federated.masked_model import MaskedModel


def dense_gradients(model: MaskedModel, data: Any, *, loss: Any = None) -> Arrays:
    """Differentiate the loss of one batch with respect to all entries of a wrapped model.

    Use it for methods such as FedMask and PruneFL, which need gradients of masked entries to bring them back; Keras'
    training gives these none. The gradients are with respect to mask * weight, with layers in training mode. The
    model does not change, apart from the random state of its dropout.

    Args:
        model: A wrapped model.
        data: (x, y) or (x, y, sample weights), as one batch.
        loss: The name of a loss, a function or a `keras.losses.Loss`; None takes the loss that the model was compiled
            with, and the losses that layers add.

    Returns:
        One array of float64 for each weight, in the order of `MaskedModel.weights`; zeros for a weight that is not
        trained, such as statistics.

    Raises:
        TypeError: If `model` is not a `MaskedModel`, or `data` is not a batch.
        ValueError: If `data` does not fit the model or has no targets, or there is no loss.

    Example:
        >>> import keras, tfprune
        >>> layers = [keras.Input((2,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")]
        >>> model = MaskedModel(tfprune.wrap(keras.Sequential(layers)))
        >>> model.set_masks([np.array([[1], [0]])])
        >>> [gradient] = dense_gradients(model, (np.array([[1.0, 3.0]]), np.array([[0.0]])), loss="mse")
        >>> gradient.ravel().tolist()
        [2.0, 6.0]
    """
    if not isinstance(model, MaskedModel):
        raise TypeError(f"Expected `model` to be a MaskedModel. Received: {type(model).__name__}.")
    [whole] = batches(data, rows=None)
    if whole.y is None:
        raise ValueError("Expected `data` to be (x, y), to compute a loss. Received: inputs only.")
    check_batch(whole, model.model)
    gradients = model.gradients_of(loss).of(whole)
    return [
        gradients[id(variable)] if id(variable) in gradients else np.zeros(tuple(variable.shape))
        for variable in model.variables
    ]
