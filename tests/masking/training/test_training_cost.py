"""The multiply-adds of training, against sums by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import tfprune
from tfprune.masking.training.training_cost import _multiply_adds
from tfprune.schedules import Constant, Polynomial

X = np.random.default_rng(0).normal(size=(40, 10)).astype("float32")


def cost_of(pruning: tfprune.PruningCallback, epochs: int = 1) -> list[float]:
    model = tfprune.wrap(keras.Sequential([keras.Input((10,)), layers.Dense(10, name="hidden")]))
    model.compile("sgd", "mse")
    callbacks = [pruning, tfprune.TrainingCost(pruning)]
    return model.fit(X, X, batch_size=4, epochs=epochs, verbose=0, callbacks=callbacks).history["training_cost"]


def test_gradual_pruning_costs_what_its_steps_cost():
    """Zeros before each of 10 steps: none before the first update, at step 2."""
    schedule = Polynomial(0.5, begin=2, end=8)
    cost = cost_of(tfprune.PruningCallback(schedule, every=2))
    zeros = [0 if step < 2 else round(100 * schedule(min(step - step % 2, 8))) for step in range(10)]
    assert cost == pytest.approx([sum(100 - count for count in zeros) / 1000])


def test_growing_by_gradient_counts_the_dense_gradient():
    """Of 20 steps at 80 % zeros, updates at 4, 8 and 12 add two sparse passes and a dense one."""
    growing = tfprune.Grow("gradient", end=15)
    pruning = tfprune.PruningCallback(Constant(0.8), every=4, grow=growing, data=(X[:4], X[:4]))
    assert cost_of(pruning, epochs=2)[-1] == pytest.approx((20 * 3 * 20 + 3 * (2 * 20 + 100)) / (20 * 3 * 100))
    assert cost_of(tfprune.PruningCallback(Constant(0.8), every=4, grow="random"))[-1] == pytest.approx(0.2)


def test_multiply_adds_of_layers():
    stack = [
        layers.Conv2D(4, 3, name="conv"),  # 6 x 6 positions
        layers.Conv2DTranspose(2, 2, strides=2, name="transposed"),  # 6 x 6 inputs
        layers.Reshape((12, 24)),
        layers.LSTM(5, name="lstm"),  # 12 steps
        layers.Dense(3, name="out"),
    ]
    model = tfprune.wrap(keras.Sequential([keras.Input((8, 8, 1)), *stack]))
    expected = 36 * 9 * 4 + 36 * 4 * 4 * 2 + 12 * (24 * 20 + 5 * 20) + 15
    assert _multiply_adds(model) == (expected, expected)
    tfprune.update_masks(model, 0.0, allocation={"out/": 0.4, "": 0.0})
    assert _multiply_adds(model) == (expected, expected - 6)


def test_refusals():
    with pytest.raises(TypeError, match="Expected the PruningCallback"):
        tfprune.TrainingCost(Constant(0.5))
    inputs = keras.Input((4, 6))
    model = tfprune.wrap(keras.Model(inputs, layers.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)))
    model.compile("sgd", "mse")
    pruning = tfprune.PruningCallback(Constant(0.5))
    x = np.zeros((4, 4, 6))
    with pytest.raises(ValueError, match="whose multiply-adds are known. Received: attention/"):
        model.fit(x, x, callbacks=[pruning, tfprune.TrainingCost(pruning)], verbose=0)
