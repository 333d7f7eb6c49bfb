"""The quantized layers of a model."""

from __future__ import annotations

import keras

from tfprune.keras_models.models.kinds import check_keras, leaf_layers
from tfprune.quantizing.quantized import Quantized


def quantized_layers(model: keras.Model) -> dict[str, Quantized]:
    """Return the wrappers of a model that round, by their paths.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If there are none.
    """
    check_keras(model)
    found = {path: layer for path, layer in leaf_layers(model) if isinstance(layer, Quantized)}
    if not found:
        raise ValueError(
            f"Expected a model that tfprune.quantize_aware returned. Received: {model.name!r}, no layer of which is "
            f"quantized."
        )
    return found
