"""The networks whose files the device tests run: small, of many kinds, each with samples for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers

import tfprune

SPARSITY = 0.9
SAMPLES = 4  # an emulated processor is slow


@dataclass(frozen=True)
class Network:
    """A model that was pruned in one go, and samples by the names of its inputs."""

    model: keras.Model
    samples: dict[str, np.ndarray]


def _mlp() -> keras.Model:
    return keras.Sequential(
        [keras.Input((64,), name="pixels"), layers.Dense(128, "relu"), layers.Dense(64, "relu"), layers.Dense(10)]
    )


def _cnn() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((16, 16, 3), name="image"),
            layers.Conv2D(16, 3, activation="relu"),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.SeparableConv2D(32, 3, strides=2, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def _mobilenet() -> keras.Model:
    model = keras.applications.MobileNet(
        (96, 96, 3), alpha=0.25, weights=None, classes=10, classifier_activation=None
    )
    normalizations = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    for layer in normalizations:
        layer.momentum = 0.0
    model(np.random.default_rng(1).random((16, 96, 96, 3), dtype=np.float32), training=True)  # sets the statistics
    return model


def _lstm() -> keras.Model:
    return keras.Sequential(
        [keras.Input((12, 6), name="window"), layers.LSTM(32, return_sequences=True), layers.GRU(16), layers.Dense(4)]
    )


def _attention() -> keras.Model:
    """Two inputs of different kinds and two outputs."""
    tokens, context = keras.Input((8,), dtype="int32", name="tokens"), keras.Input((5, 16), name="context")
    words = layers.Embedding(50, 32)(tokens)
    mixed = layers.MultiHeadAttention(2, 16)(words, layers.Dense(32)(context))
    pooled = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(layers.Add()([words, mixed])))
    return keras.Model(
        [tokens, context], [layers.Dense(7, name="scores")(pooled), layers.Dense(2, name="box")(pooled)]
    )


MODELS: dict[str, Callable[[], keras.Model]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "mobilenet": _mobilenet,
    "lstm": _lstm,
    "attention": _attention,
}


def network(name: str) -> Network:
    """Build a model by its name in MODELS, prune it, and draw samples: the same every time."""
    keras.utils.set_random_seed(0)
    model = tfprune.wrap(MODELS[name]())
    tfprune.update_masks(model, SPARSITY)
    data = np.random.default_rng(0)
    samples = {}
    for tensor in model.inputs:
        shape = (SAMPLES, *tensor.shape[1:])
        whole = tensor.dtype.startswith("int")
        samples[tensor.name] = data.integers(0, 50, shape, "int32") if whole else data.random(shape, "float32")
    return Network(model, samples)
