"""Masks without latent values: what they hide is forgotten, comes back as 0, and costs one byte a weight."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
import pytest

import tfprune
from tfprune import criteria, schedules

KERNEL = np.array([[3.0, -1.0], [0.5, 2.0], [-4.0, 0.25]], "float32")


@keras.saving.register_keras_serializable(package="test_latent")
@dataclass(frozen=True)
class Gradient(criteria.Criterion):
    """The size of the loss' gradient, in masked entries too, so that they may come back (as RigL does)."""

    needs = ("gradient_sizes",)

    def __call__(self, evidence):
        return evidence.fact("gradient_sizes")


def small(**arguments) -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False, name="dense")])
    model.layers[0].kernel.assign(KERNEL)
    return tfprune.wrap(model, **arguments)


def kernel_of(model: keras.Model) -> np.ndarray:
    return np.array(model.get_layer("dense").layer.kernel)


def mask_of(model: keras.Model) -> np.ndarray:
    return np.array(model.get_layer("dense").masks["kernel"])


def bytes_of(variables) -> int:
    return sum(np.asarray(variable).nbytes for variable in variables)


@pytest.mark.parametrize("latent, expected", [("keep", 5), ("zero", 1)])
def test_bytes_beside_a_weight(latent, expected):
    model = small(latent=latent)
    assert bytes_of(model.variables) - KERNEL.nbytes == expected * KERNEL.size


def test_what_comes_back_is_zero():
    model = small(latent="zero")
    tfprune.update_masks(model, 0.5)
    hidden = np.array([[0, 1], [1, 0], [0, 1]], bool)
    np.testing.assert_array_equal(mask_of(model), ~hidden)
    np.testing.assert_array_equal(kernel_of(model), np.where(hidden, 0, KERNEL))
    np.testing.assert_array_equal(model.get_layer("dense").latent("kernel"), np.where(hidden, 0, KERNEL))
    tfprune.update_masks(model, 0.0)
    assert mask_of(model).all()
    np.testing.assert_array_equal(kernel_of(model), np.where(hidden, 0, KERNEL))


def test_under_a_rising_sparsity_nothing_comes_back():
    model = small(latent="zero")
    before = mask_of(model)
    for sparsity in (1 / 6, 1 / 3, 1 / 2):
        tfprune.update_masks(model, sparsity)
        assert not (mask_of(model) & ~before).any()
        before = mask_of(model)
    assert np.count_nonzero(before) == 3


def test_an_error_in_an_update_leaves_the_weights_as_they_were():
    model = small(latent="zero")
    tfprune.update_masks(model, 0.5)
    before, mask = kernel_of(model), mask_of(model)
    with pytest.raises(ValueError):
        tfprune.update_masks(model, 0.5, allocation={"nothing": 0.5})
    np.testing.assert_array_equal(kernel_of(model), before)
    np.testing.assert_array_equal(mask_of(model), mask)


def test_a_criterion_of_gradients_brings_entries_back_and_they_train_from_zero():
    model = small(latent="zero", criterion=Gradient())
    model.get_layer("dense").set_mask("kernel", np.array([[1, 1], [0, 0], [1, 1]]))
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    x, y = np.array([[0.1, 1.0, 0.1]], "float32"), np.ones((1, 2), "float32")
    tfprune.update_masks(model, 2 / 3, data=(x, y))  # the middle input has the largest gradients by far
    np.testing.assert_array_equal(mask_of(model), [[0, 0], [1, 1], [0, 0]])
    np.testing.assert_array_equal(kernel_of(model), np.zeros((3, 2)))
    model.train_on_batch(x, y)
    np.testing.assert_allclose(kernel_of(model), [[0, 0], [0.1, 0.1], [0, 0]], atol=1e-6)  # -0.1 * mean of 2 (0 - 1)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_files_keep_the_choice_and_the_masks(suffix, tmp_path):
    model, path = small(latent="zero"), tmp_path / f"model{suffix}"
    tfprune.update_masks(model, 0.5)
    if suffix == ".keras":
        model.save(path)
        loaded = keras.models.load_model(path)
    else:
        model.save_weights(path)
        loaded = small(latent="zero")
        loaded.load_weights(path)
    assert loaded.get_layer("dense").latent_values == "zero"
    np.testing.assert_array_equal(mask_of(loaded), mask_of(model))
    np.testing.assert_array_equal(kernel_of(loaded), kernel_of(model))


@pytest.mark.parametrize("saved, wrapped", [("keep", "zero"), ("zero", "keep")])
def test_weights_of_the_other_choice_are_refused(saved, wrapped, tmp_path):
    small(latent=saved).save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match=rf"with latent='{wrapped}'. Received: .* latent='{saved}'"):
        small(latent=wrapped).load_weights(tmp_path / "model.weights.h5")


def test_a_schedule_prunes_trains_and_strips():
    model = small(latent="zero")
    model.compile("adam", loss="mse")
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(32, 3)).astype("float32"), generator.normal(size=(32, 2)).astype("float32")
    callback = tfprune.PruningCallback(schedules.Polynomial(0.5, end=0.5))
    model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[callback])
    assert np.count_nonzero(mask_of(model)) == 3
    np.testing.assert_array_equal(kernel_of(model) != 0, mask_of(model))
    stripped = tfprune.strip(model)
    np.testing.assert_array_equal(stripped.get_layer("dense").kernel, kernel_of(model))
    np.testing.assert_allclose(stripped(x), model(x), atol=1e-6)


def test_with_values_kept_nothing_changes():
    model = small()
    tfprune.update_masks(model, 0.5)
    tfprune.update_masks(model, 0.0)
    np.testing.assert_array_equal(kernel_of(model), KERNEL)


def test_wrapping_again_with_another_choice_is_refused():
    with pytest.raises(ValueError, match="wrapped with latent='zero'. Received: dense.* wrapped with latent='keep'"):
        tfprune.wrap(small(), latent="zero")
    assert tfprune.wrap(small(latent="zero"), latent="zero").get_layer("dense").latent_values == "zero"


@pytest.mark.parametrize("value, error", [("none", ValueError), (None, TypeError), (0, TypeError)])
def test_another_value_is_refused(value, error):
    with pytest.raises(error, match="Expected `latent` to be 'keep' or 'zero'"):
        small(latent=value)
    with pytest.raises(error, match="Expected `latent` to be 'keep' or 'zero'"):
        tfprune.Pruned(keras.layers.Dense(2), latent=value)


def test_layers_and_channels_take_the_choice_too():
    layer = keras.layers.Dense(4)
    layer.build((None, 3))
    assert tfprune.wrap(layer, latent="zero").latent_values == "zero"
    inputs = keras.Input((3,))
    outputs = keras.layers.Dense(2, name="out")(keras.layers.Dense(4, activation="relu", name="hidden")(inputs))
    model = tfprune.wrap(keras.Model(inputs, outputs), pattern="channel", filters="hidden", latent="zero")
    tfprune.update_masks(model, 0.5)
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    small_model = tfprune.shrink(model, tfprune.plan_shrink(model))
    assert small_model.get_layer("hidden").units == 2
    np.testing.assert_allclose(small_model(x), model(x), atol=1e-6)
