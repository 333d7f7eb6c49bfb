"""Initial weights of sparse models: factors by hand, the outputs of a deep model, and what is refused."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
from keras import layers

import tfprune

RNG = np.random.default_rng(0)


def masked(layer: keras.layers.Layer, shape: tuple[int, ...], masks: dict[str, np.ndarray], **arguments):
    """Return a model of one layer under given masks, and the wrapper."""
    model = tfprune.wrap(keras.Sequential([keras.Input(shape), layer]), **arguments)
    wrapper = model.layers[-1]
    for name, mask in masks.items():
        wrapper.set_mask(name, mask)
    return model, wrapper


def test_each_unit_is_scaled_by_the_inputs_that_it_keeps():
    mask = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]])  # one, four and none of four inputs
    ones = {"kernel_initializer": "ones", "bias_initializer": "ones"}
    model, wrapper = masked(layers.Dense(3, **ones), (4,), {"kernel": mask})
    assert tfprune.research.scale_initial_weights(model) is None
    np.testing.assert_array_equal(wrapper.layer.kernel, mask * [[2.0, 1.0, 1.0]])
    np.testing.assert_array_equal(wrapper.layer.bias, np.ones(3))


def test_kernel_positions_and_gates_count_as_inputs():
    mask = RNG.random((3, 3, 2, 4)) < 0.3
    model, wrapper = masked(layers.Conv2D(4, 3, kernel_initializer="ones"), (8, 8, 2), {"kernel": mask})
    tfprune.research.scale_initial_weights(model)
    np.testing.assert_allclose(wrapper.layer.kernel, mask * np.sqrt(18 / mask.sum(axis=(0, 1, 2))), rtol=1e-6)

    mask = RNG.random((3, 3, 4, 1)) < 0.5
    depthwise = layers.DepthwiseConv2D(3, depthwise_initializer="ones")
    model, wrapper = masked(depthwise, (8, 8, 4), {"kernel": mask}, filters=".*")
    tfprune.research.scale_initial_weights(model)
    expected = mask * np.sqrt(9 / mask.sum(axis=(0, 1), keepdims=True))
    np.testing.assert_allclose(wrapper.layer.kernel, expected, rtol=1e-6)

    names = ("kernel", "recurrent_kernel")
    masks = {name: RNG.random((size, 20)) < 0.4 for name, size in zip(names, (6, 5), strict=True)}
    model, wrapper = masked(layers.LSTM(5), (7, 6), masks)
    before = {name: np.array(wrapper.kernels[name].variable) for name in names}
    tfprune.research.scale_initial_weights(model)
    for name, mask in masks.items():
        expected = before[name] * np.sqrt(len(mask) / np.maximum(mask.sum(axis=0), 1))
        np.testing.assert_allclose(wrapper.kernels[name].variable, expected, rtol=1e-6)


def test_a_deep_model_keeps_the_size_of_its_outputs():
    keras.utils.set_random_seed(0)
    x = RNG.normal(size=(200, 256)).astype("float32")
    stack = [layers.Dense(256, "relu", kernel_initializer="he_normal", use_bias=False) for _ in range(4)]
    dense = keras.Sequential([keras.Input((256,)), *stack])
    sparse = tfprune.wrap(dense)
    tfprune.update_masks(sparse, 0.9, grow=tfprune.Grow("random", fraction=1.0))
    size = np.sqrt(np.mean(np.square(dense(x))))
    assert np.sqrt(np.mean(np.square(sparse(x)))) < 0.05 * size  # four layers, each by sqrt(0.1)
    tfprune.research.scale_initial_weights(sparse)
    assert np.sqrt(np.mean(np.square(sparse(x)))) == pytest.approx(size, rel=0.25)


def test_frozen_layers_and_hidden_values_stay():
    mask = np.array([[1], [0], [0], [0]])
    model, wrapper = masked(layers.Dense(1), (4,), {"kernel": mask})
    before = wrapper.latent("kernel")
    wrapper.trainable = False
    tfprune.research.scale_initial_weights(model)
    np.testing.assert_array_equal(wrapper.latent("kernel"), before)
    wrapper.trainable = True
    tfprune.research.scale_initial_weights(model)
    np.testing.assert_allclose(wrapper.latent("kernel"), before * [[2], [1], [1], [1]], rtol=1e-6)


def test_masks_that_a_fit_starts_from_stay():
    model, wrapper = masked(layers.Dense(3), (8,), {})
    model.compile("adam", "mse")
    tfprune.update_masks(model, 0.5, grow=tfprune.Grow("random", fraction=1.0))
    tfprune.research.scale_initial_weights(model)
    mask = np.array(wrapper.masks["kernel"])
    growing = tfprune.PruningCallback(tfprune.schedules.Constant(0.5), grow="random", every=100)
    x = RNG.normal(size=(8, 8)).astype("float32")
    model.fit(x, x[:, :3], verbose=0, callbacks=[growing])
    np.testing.assert_array_equal(wrapper.masks["kernel"], mask)
    with pytest.raises(ValueError, match=re.escape("after 1 steps. Scale the weights of a new model.")):
        tfprune.research.scale_initial_weights(model)


def test_refusals():
    model, _ = masked(layers.Dense(3), (8,), {})
    with pytest.raises(ValueError, match=re.escape("whose masks have no zeros. Set its masks first, for example")):
        tfprune.research.scale_initial_weights(model)
    with pytest.raises(ValueError, match="Expected a model with pruned layers"):
        tfprune.research.scale_initial_weights(keras.Sequential([keras.Input((8,)), layers.Dense(3)]))
    with pytest.raises(TypeError, match="Expected a Keras"):
        tfprune.research.scale_initial_weights("model")
