"""Ranges that stay as they are for the rest of the training."""

from __future__ import annotations

import keras

from tfprune.quantizing.quantized import quantized_layers


def freeze_ranges(model: keras.Model) -> None:
    """Keep the ranges of a quantized model as they are: training goes on without moving them.

    Weights settle better in the last epochs on a grid that does not move (Krishnamoorthi 2018, arXiv 1806.08342).
    Compile the model again afterwards, as after a change of `trainable`. To let a range move again, set
    `layer.learns_ranges = True`.

    Args:
        model: A model that `quantize_aware` returned, trained for at least a batch. It is changed.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If no layer of it is quantized, or a range has seen no data.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
        >>> from tfprune import quantize_aware
        >>> model = quantize_aware(model)
        >>> outputs = model(keras.ops.ones((2, 8)), training=True)  # as `fit` does
        >>> freeze_ranges(model)
        >>> model.get_layer("hidden").learns_ranges
        False
    """
    layers = quantized_layers(model).values()
    for layer in layers:
        layer.known_ranges()  # refuses one without data, before anything is changed
    for layer in layers:
        layer.learns_ranges = False
