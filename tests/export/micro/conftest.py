"""Small pruned networks for microcontrollers, as dense files with a batch of 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

MISSING = "tflite-micro is not installed (extra `micro`)"


@dataclass(frozen=True)
class Network:
    """A Keras model with zeros, samples, and its dense files by number format."""

    model: object
    samples: np.ndarray
    files: dict[str, bytes]


@pytest.fixture(scope="session")
def network(converting_here) -> Network:
    """Return a network with a convolution, a depthwise one and two fully connected layers, 90 % of them zeros."""
    pytest.importorskip("tflite_micro", reason=MISSING)
    import keras

    from tfprune.export.keras_side.convert import convert

    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((10, 10, 3), name="image"),
            layers.Conv2D(24, 3, activation="relu", bias_initializer="random_normal"),
            layers.DepthwiseConv2D(3, activation="relu", bias_initializer="random_normal"),
            layers.Flatten(),
            layers.Dense(20, activation="relu", bias_initializer="random_normal"),
            layers.Dense(4, bias_initializer="random_normal"),
        ]
    )
    for weight in model.weights:
        if len(weight.shape) > 1:
            values = weight.numpy()
            weight.assign(3 * values * (np.abs(values) >= np.quantile(np.abs(values), 0.9)))
    samples = np.random.default_rng(0).normal(size=(12, 10, 10, 3)).astype(np.float32)
    with converting_here():
        files = {
            "int8": convert(model, quantize="int8", calibration=samples, io_dtype="int8", batch=1),
            "float32": convert(model, batch=1),
        }
    return Network(model, samples, files)
