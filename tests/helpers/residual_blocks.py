"""A small model of residual blocks, and what it returns with its blocks in any order, in NumPy."""

from __future__ import annotations

import keras
import numpy as np

layers = keras.layers
BLOCK = r"block_(\d+)_"


def residual(count=3, *, width=4, hidden=8, bias=0.1):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((width,))
    for index in range(count):
        inner = layers.Dense(hidden, "relu", name=f"block_{index}_hidden")(x)
        x = layers.Add()([x, layers.Dense(width, name=f"block_{index}_out")(inner)])
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    for variable in model.trainable_variables:
        variable.assign(variable + bias)
    return model


def by_hand(model, order, x):
    """Return what the blocks of `residual`, one after the other, make of x, in NumPy."""
    weights = {layer.name: [np.asarray(value) for value in layer.get_weights()] for layer in model.layers}
    for index in order:
        (first, one), (second, other) = weights[f"block_{index}_hidden"], weights[f"block_{index}_out"]
        x = x + np.maximum(x @ first + one, 0) @ second + other
    return x @ weights["head"][0] + weights["head"][1]


X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
