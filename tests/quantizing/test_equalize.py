"""Equalized models, against equation 11 by hand and against the outputs before."""

from __future__ import annotations

import logging

import keras
import numpy as np
import pytest
from keras import layers

import tfprune

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, size=(8, 8, 8, 3)).astype("float32")


def wild(model: keras.Model) -> keras.Model:
    """Give the channels of a model very different sizes, and its normalizations statistics."""
    for variable in model.variables:
        if "seed" in variable.path:
            continue
        size = 10 ** RNG.uniform(-1.5, 1.5, variable.shape[-1:])
        noise = RNG.uniform(0.5, 1.5, variable.shape) * np.where(RNG.random(variable.shape) < 0.3, -1, 1)
        positive = variable.name in ("gamma", "moving_variance")
        variable.assign(np.abs(noise) if positive else noise * (size if len(variable.shape) > 1 else 0.2))
    return model


def mobile(activation: type[layers.Layer] = layers.ReLU, **arguments) -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    hidden = inputs
    for number, layer in enumerate(
        [
            layers.Conv2D(6, 3, padding="same", use_bias=False, name="conv"),
            layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise"),
            layers.Conv2D(5, 1, name="pointwise"),
        ]
    ):
        hidden = layers.BatchNormalization(name=f"norm_{number}")(layer(hidden))
        hidden = activation(name=f"relu_{number}", **arguments)(hidden)
    hidden = layers.Flatten()(layers.MaxPooling2D()(layers.Dropout(0.2)(hidden)))
    return keras.Model(inputs, layers.Dense(4, name="dense")(hidden))


def array(variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable)


def test_equation_11_by_hand():
    stack = [layers.Dense(2, activation="relu", name="first"), layers.Dense(2, name="second")]
    model = keras.Sequential([keras.Input((2,)), *stack])
    model.set_weights([np.array(each, "float32") for each in ([[1, 4], [-2, 8]], [1, 1], [[8, 0], [1, -2]], [3, 4])])
    equalized = tfprune.equalize(model).get_weights()
    # s = sqrt(2/8), sqrt(8/2)
    for values, expected in zip(equalized, ([[2, 2], [-4, 4]], [2, 0.5], [[4, 0], [2, -4]], [3, 4]), strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-6)
    np.testing.assert_array_equal(model.get_weights()[0], [[1, 4], [-2, 8]])


def test_sizes_are_equal_on_both_sides_and_outputs_stay():
    model = tfprune.wrap(wild(mobile()))
    tfprune.update_masks(model, 0.5)
    equal = tfprune.equalize(model)
    expected = model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(equal.predict(IMAGES, verbose=0), expected, atol=1e-4 * np.abs(expected).max())
    named = {name: array(equal.get_layer(name).kernel) for name in ("conv", "depthwise", "pointwise", "dense")}
    folded = {}
    for number, name in enumerate(("conv", "depthwise", "pointwise")):
        norm = equal.get_layer(f"norm_{number}")
        scale = np.abs(array(norm.gamma)) / np.sqrt(array(norm.moving_variance) + norm.epsilon)
        folded[name] = np.abs(named[name]).reshape(-1, len(scale)).max(axis=0) * scale
    reader_ranges = [np.abs(named["depthwise"]).max(axis=(0, 1, 3)), np.abs(named["pointwise"]).max(axis=(0, 1, 3))]
    reader_ranges.append(np.abs(named["dense"]).reshape(-1, 5, 4).max(axis=(0, 2)))
    for size, other in zip(folded.values(), reader_ranges, strict=True):
        alive = (size > 0) & (other > 0)
        np.testing.assert_allclose(size[alive], other[alive], rtol=0.01)
    plain = tfprune.strip(model)
    for name, kernel in named.items():
        np.testing.assert_array_equal(kernel == 0, array(plain.get_layer(name).kernel) == 0)


def test_layers_before_a_relu6_are_skipped(caplog):
    model = wild(mobile(layers.ReLU, max_value=6))
    caplog.set_level(logging.INFO, logger="tfprune")
    with pytest.raises(ValueError, match="Received none. conv: relu_0 does not scale with what it gets; depthwise"):
        tfprune.equalize(model)
    assert "dense is not equalized: what dense returns is read in more than one place" in caplog.text


def test_channels_that_others_read_or_that_are_dead_stay():
    inputs = keras.Input((8, 8, 3))
    first = layers.Conv2D(4, 1, name="first")(inputs)
    second = layers.Conv2D(4, 1, activation="relu", name="second")(first)
    third = layers.Conv2D(4, 1, name="third")(second)
    model = wild(keras.Model(inputs, layers.Add()([first, third])))
    kernel = array(model.get_layer("second").kernel)
    kernel[..., 1] = 0
    model.get_layer("second").kernel.assign(kernel)
    equalized = tfprune.equalize(model)
    for name, changes in {"first": False, "second": True, "third": True}.items():
        before, after = (array(each.get_layer(name).kernel) for each in (model, equalized))
        assert np.array_equal(before, after) != changes
    np.testing.assert_array_equal(
        array(equalized.get_layer("second").bias)[1], array(model.get_layer("second").bias)[1]
    )
    expected = model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(equalized.predict(IMAGES, verbose=0), expected, atol=1e-4 * np.abs(expected).max())
