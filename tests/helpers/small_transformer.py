"""A small transformer of plain layers, with texts for it."""

from __future__ import annotations

import keras
import numpy as np

layers = keras.layers
WIDTH, HIDDEN, TOKENS = 8, 24, 30


def numpy(value):
    return keras.ops.convert_to_numpy(value).astype(float)


def transformer(blocks=2, attention=None):
    """Token ids -> blocks of attention and feed-forward networks -> an output for each token."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = layers.Embedding(TOKENS, WIDTH)(ids)
    for block in range(blocks):
        layer = attention(block) if attention else layers.MultiHeadAttention(4, 2, name=f"attention_{block}")
        x = layers.Add()([x, layer(x, x)])
        hidden = layers.Dense(HIDDEN, activation="relu", name=f"hidden_{block}")(x)
        x = layers.Add()([x, layers.Dense(WIDTH, name=f"back_{block}")(hidden)])
    model = keras.Model(ids, layers.Dense(3, name="out")(x))
    generator = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) > 1:
            weight.assign(generator.normal(size=weight.shape) / np.sqrt(weight.shape[-1]))
    return model


def texts(count=40, length=6, seed=0):
    return np.random.default_rng(seed).integers(0, TOKENS, (count, length)).astype("int32")
