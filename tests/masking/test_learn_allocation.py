"""Learned splits: the soft threshold and its gradient against NumPy, exact zeros, and a layer without effect."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import tfprune
from tfprune.masking.grow import SoftThreshold

RNG = np.random.default_rng(0)
X = RNG.normal(size=(256, 12)).astype("float32")


def test_a_soft_threshold_and_its_gradient_are_those_of_the_paper():
    """dL/dt = -sum of sign(w) dL/dw' over the entries above t; a step of SGD moves the logarithm by 3 t of it."""
    layer = SoftThreshold(layers.Dense(3, use_bias=False), latent="zero")
    model = keras.Sequential([keras.Input((12,)), layer])
    layer.scale(0.2)
    kernel = layer.layer.kernel.numpy()
    soft = np.sign(kernel) * np.maximum(np.abs(kernel) - 0.2, 0)
    np.testing.assert_allclose(model(X), X @ soft, atol=1e-5)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    upstream = 2 * X.T @ (X @ soft) / (256 * 3)
    slope = -(np.sign(kernel) * upstream)[np.abs(kernel) > 0.2].sum()
    model.train_on_batch(X, np.zeros((256, 3)))
    expected = np.exp(3 * (np.log(0.2) / 3 - 0.1 * slope * 0.2 * 3))
    assert float(layer.threshold("kernel")) == pytest.approx(expected, rel=1e-4)
    moved = kernel - 0.1 * upstream * (np.abs(kernel) > 0.2)
    np.testing.assert_allclose(layer.layer.kernel.numpy(), moved, atol=1e-5)


def two_branches() -> keras.Model:
    """Return a model of two layers alike, of which one has no effect on the output."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12,))
    used, unused = (layers.Dense(12, use_bias=False, name=name)(inputs) for name in ("used", "unused"))
    model = keras.Model(inputs, used + 0.0 * unused)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def test_a_layer_without_effect_gets_more_zeros_and_the_sum_is_exact():
    model = two_branches()
    y = X @ model.get_layer("used").kernel.numpy()  # each entry counts as much as its size
    before = [variable.numpy() for variable in model.variables]
    split = tfprune.research.learn_allocation(model, 0.5, (X, y), epochs=8)
    assert set(split) == {"^used/kernel$", "^unused/kernel$"}
    assert split["^used/kernel$"] + 0.2 < split["^unused/kernel$"]
    assert sum(split.values()) * 144 == 144
    for old, after in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, after.numpy())
    wrapped = tfprune.wrap(model)
    assert tfprune.update_masks(wrapped, 0.5, allocation=split).sparsity == 0.5


def test_filters_and_datasets():
    model = two_branches()
    data = keras.utils.PyDataset()
    data.__class__.__getitem__ = lambda self, index: (X[:32], X[:32])
    data.__class__.__len__ = lambda self: 2
    split = tfprune.research.learn_allocation(model, 0.25, data, filters="^used/", epochs=2)
    assert split == {"^used/kernel$": 0.25}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sparsity": 1.0}, ValueError, "sparsity=1.0"),
        ({"epochs": 0}, ValueError, "epochs=0"),
        ({"model": keras.Sequential([keras.Input((2,)), layers.Dense(1)])}, ValueError, "Expected a compiled model"),
        ({"model": "model"}, TypeError, "Expected a Keras model"),
        ({"data": X}, TypeError, "Expected `data` to be a tuple"),
        ({"model": lambda: tfprune.wrap(two_branches())}, ValueError, "that is not wrapped"),
    ],
)
def test_refusals(arguments, error, message):
    arguments = {"model": two_branches, "data": (X, X), "sparsity": 0.5, **arguments}
    if callable(arguments["model"]) and not isinstance(arguments["model"], keras.Model):
        arguments["model"] = arguments["model"]()
    with pytest.raises(error, match=message):
        tfprune.research.learn_allocation(**arguments)
