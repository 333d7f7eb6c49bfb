"""The multiply-adds of training, against sums by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import tfprune
from tfprune.masking.callback import _multiply_adds, _uses_by_path
from tfprune.schedules import Alternating, Constant, Polynomial

X = np.random.default_rng(0).normal(size=(40, 10)).astype("float32")


def cost_of(pruning: tfprune.PruningCallback, epochs: int = 1, **arguments) -> list[float]:
    model = tfprune.wrap(keras.Sequential([keras.Input((10,)), layers.Dense(10, name="hidden")]))
    model.compile("sgd", "mse", **arguments)
    callbacks = [pruning, tfprune.research.TrainingCost(pruning)]
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
    expected = (20 * 3 * 20 + 3 * (2 * 20 + 100)) / (20 * 3 * 100)
    assert cost_of(pruning, epochs=2)[-1] == pytest.approx(expected)
    assert cost_of(tfprune.PruningCallback(Constant(0.8), every=4, grow="random"))[-1] == pytest.approx(0.2)


def test_an_update_after_the_last_batch_counts():
    """Of 10 steps at 80 % zeros, updates follow the fifth and the last."""
    pruning = tfprune.PruningCallback(
        Constant(0.8), every=5, grow=tfprune.Grow("gradient", end=15), data=(X[:4], X[:4])
    )
    assert cost_of(pruning) == pytest.approx([(10 * 3 * 20 + 2 * (2 * 20 + 100)) / (10 * 3 * 100)])


def test_several_steps_in_an_execution_cost_what_they_cost_one_by_one():
    """Of 20 steps in executions of 4, 4 and 2, the masks change after the second of each epoch."""
    schedule = Alternating(0.5, begin=8, end=18, cycles=1)  # sparse from 8, dense from 13, sparse from 18
    cost = cost_of(tfprune.PruningCallback(schedule), epochs=2, steps_per_execution=4)
    assert cost == pytest.approx([(8 + 2 / 2) / 10, (8 + 2 / 2 + 4 / 2 + 4 + 2 / 2) / 20])
    growing = tfprune.Grow("gradient", end=15)
    pruning = tfprune.PruningCallback(Constant(0.8), every=8, grow=growing, data=(X[:4], X[:4]))
    once = (10 * 3 * 20 + 2 * 20 + 100) / (10 * 3 * 100)  # an update after 8 of 10 steps
    assert cost_of(pruning, steps_per_execution=4) == pytest.approx([once])


def multiply_adds(model: keras.Model) -> tuple[int, int]:
    return _multiply_adds(model, _uses_by_path(model))


def test_a_layer_that_is_called_several_times_counts_each_time():
    wide, narrow = keras.Input((8, 4)), keras.Input((2, 4))
    shared = layers.Dense(4, name="shared")
    block = keras.Sequential([keras.Input((None, 4)), layers.Dense(4, name="part")], name="block")
    tensors = [block(block(shared(shared(wide)))), block(shared(narrow))]
    model = tfprune.wrap(keras.Model([wide, narrow], layers.Concatenate(axis=1)(tensors)))
    assert multiply_adds(model) == ((8 + 8 + 2) * 16 * 2,) * 2


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
    assert multiply_adds(model) == (expected, expected)
    tfprune.update_masks(model, 0.0, allocation={"out/": 0.4, "": 0.0})
    assert multiply_adds(model) == (expected, expected - 6)


def test_refusals():
    with pytest.raises(TypeError, match="Expected the PruningCallback"):
        tfprune.research.TrainingCost(Constant(0.5))
    inputs = keras.Input((4, 6))
    model = tfprune.wrap(keras.Model(inputs, layers.MultiHeadAttention(2, 3, name="attention")(inputs, inputs)))
    model.compile("sgd", "mse")
    pruning = tfprune.PruningCallback(Constant(0.5))
    x = np.zeros((4, 4, 6))
    with pytest.raises(ValueError, match="whose multiply-adds are known. Received: attention/"):
        model.fit(x, x, callbacks=[pruning, tfprune.research.TrainingCost(pruning)], verbose=0)
    frames = tfprune.wrap(keras.Sequential([keras.Input((5, 8, 8, 2)), layers.ConvLSTM2D(3, 3, name="frames")]))
    with pytest.raises(ValueError, match="whose multiply-adds are known. Received: frames/"):
        _uses_by_path(frames)
