"""HeteroFL's scaler, loss and static normalization, against the formulas in NumPy and the unmasked small network."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfprune
from tfprune.federated import HeteroFL, MaskedModel, OwnClassesLoss, Scaler, measure_statistics

L = keras.layers
X = np.random.default_rng(0).normal(2.0, 3.0, size=(70, 6, 3)).astype("float32")


def network(rate, width=8):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((6, 3)), L.Conv1D(width, 3, name="conv"), Scaler(rate), L.BatchNormalization(name="norm")]
    layers += [L.ReLU(), L.GlobalAveragePooling1D(), L.Dense(width, name="hidden"), Scaler(rate), L.Dense(4)]
    return keras.Sequential(layers)


@pytest.fixture(scope="module")
def masked():
    model = MaskedModel(tfprune.wrap(network(0.5)))
    model.set_masks(HeteroFL(0.5).masks(model.model))
    return model


def test_the_masked_model_trains_as_the_small_one_with_its_scaler(masked):
    """The authors' clients hold small networks; here the large one under masks computes the same."""
    small = network(0.5, width=4)
    small.set_weights(
        [array[tuple(map(slice, shape))] for array, shape in zip(masked.weights, shapes(small), strict=True)]
    )
    for training in (False, True):
        one, other = masked.model(X, training=training), small(X, training=training)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def shapes(model):
    return [array.shape for array in model.get_weights()]


def test_the_scaler_divides_in_training_alone_and_is_saved(tmp_path):
    scaler = Scaler(0.25)
    np.testing.assert_array_equal(scaler(X, training=True), X * 4)
    np.testing.assert_array_equal(scaler(X), X)
    network(0.25).save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").layers[1].model_rate == 0.25


def test_channels_are_followed_through_a_scaler():
    masks = HeteroFL(0.5).masks(tfprune.wrap(network(0.5)))
    assert [None if mask is None else int(mask.sum()) for mask in masks] == [36, 4, 4, 4, 4, 4, 16, 4, 16, None]


def test_the_loss_is_the_formula_and_classes_that_are_not_there_learn_nothing():
    logits, labels = np.random.default_rng(1).normal(size=(5, 4)), np.array([0, 2, 2, 0, 2])
    loss = OwnClassesLoss([2, 0])
    shown = logits * [1, 0, 1, 0]
    wanted = np.mean(np.log(np.exp(shown).sum(axis=1)) - shown[np.arange(5), labels])
    assert float(loss(labels, logits)) == pytest.approx(wanted, rel=1e-6)
    other = logits + [0, 5, 0, -5]
    assert float(loss(labels, other)) == pytest.approx(wanted, rel=1e-6)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.classes == [0, 2]


def test_static_statistics_are_the_mean_over_batches(masked):
    trained = masked.weights
    assert measure_statistics(masked, X, batch_size=35) == 2
    found = masked.weights
    kernel, bias = trained[0].astype("float64"), trained[1]
    windows = np.lib.stride_tricks.sliding_window_view(X, 3, axis=1)  # (samples, positions, channels, taps)
    outputs = (np.einsum("npct,tco->npo", windows, kernel) + bias) / 0.5
    means = [outputs[rows].mean(axis=(0, 1)) for rows in (slice(35), slice(35, 70))]
    variances = [outputs[rows].var(axis=(0, 1)) for rows in (slice(35), slice(35, 70))]
    np.testing.assert_allclose(found[4], np.mean(means, axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[5], np.mean(variances, axis=0), rtol=1e-4, atol=1e-5)
    for index, (before, after) in enumerate(zip(trained, found, strict=True)):
        assert index in (4, 5) or np.array_equal(before, after)
    norm = [layer for layer in masked.model.layers if isinstance(layer, L.BatchNormalization)]
    assert [layer.momentum for layer in norm] == [0.99]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Scaler(0), ValueError, "`model_rate` to be a number in"),
        (lambda: OwnClassesLoss([]), ValueError, "`classes` to name some classes"),
        (lambda: OwnClassesLoss([1, 1]), ValueError, "each once"),
        (lambda: measure_statistics(network(1.0), X), TypeError, "a MaskedModel. Received: Sequential"),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
