"""Scale the initial weights of a sparse model to the number of inputs that each unit keeps."""

from __future__ import annotations

import keras
import numpy as np

from tfprune.keras_models.models.kernels import from_matrix, to_matrix
from tfprune.keras_models.models.layers import as_numpy
from tfprune.keras_models.models.optimizers import optimizers_of, updates_of
from tfprune.masking.wrapping.pruned_layers import hidden_share, pruned_layers


def scale_initial_weights(model: keras.layers.Layer) -> None:
    """Scale the initial weights of a sparse model to the number of inputs that each unit keeps.

    Use it before the first training step of a model that is sparse from the start, after its masks are set. Keras
    draws initial weights for units with all their inputs. With most of them masked, activations and gradients shrink
    from layer to layer, and training starts slowly. A unit that keeps k of n inputs gets its weights times
    sqrt(n / k), so that its output keeps the variance of the dense model. Where a normalization follows each layer,
    its effect is small.

    Args:
        model: A model or layer with `Pruned` layers, which is changed. Frozen layers are left as they are.

    Raises:
        TypeError: If `model` is not a Keras model or layer.
        ValueError: If the model has no pruned layers, no mask has a zero, or an optimizer has trained the model.

    Example:
        >>> from tfprune import update_masks, wrap
        >>> model = wrap(keras.Sequential([keras.Input((100,)), keras.layers.Dense(1, kernel_initializer="ones")]))
        >>> report = update_masks(model, 0.96)
        >>> scale_initial_weights(model)
        >>> float(keras.ops.max(model.layers[0].layer.kernel))
        5.0

    Reference:
        Evci et al., 2022, "Gradient Flow in Sparse Neural Networks and How Lottery Tickets Win", arXiv:2010.03533,
        section 3.1.
    """
    layers = pruned_layers(model)
    if not hidden_share(model):
        raise ValueError(
            f"Expected a sparse model. Received: {model.name!r}, whose masks have no zeros. Set its masks first, for "
            f"example with tfprune.update_masks."
        )
    steps = max(map(updates_of, optimizers_of(model)), default=0)
    if steps:
        raise ValueError(
            f"Expected a model before its first training step, as only initial weights are scaled. Received: "
            f"{model.name!r} after {steps} steps. Scale the weights of a new model."
        )
    for _, layer in layers:
        for name in layer.trained():
            kernel = layer.kernels[name]
            kept = to_matrix(as_numpy(layer.masks[name]), kernel)
            inputs = kept.reshape(len(kept), -1)
            factors = np.sqrt(inputs.shape[1] / np.maximum(inputs.sum(axis=1), 1))
            each = from_matrix(np.broadcast_to(factors.reshape(-1, *[1] * (kept.ndim - 1)), kept.shape), kernel)
            kernel.variable.assign(as_numpy(kernel.variable) * each)
