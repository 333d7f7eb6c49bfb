"""Values that entries share, against scikit-learn's k-means and gradients by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from sklearn.cluster import KMeans

import tfprune
from tfprune.quantizing.levels import share, starting_centroids

RNG = np.random.default_rng(0)


def test_entries_take_the_nearest_value_and_zeros_stay():
    weight = np.float32([[0.0, 0.4, -0.9], [2.0, 1.2, 0.0]])
    shared = ops.convert_to_numpy(share(weight, np.float32([1.0, -1.0, 0.5])))
    assert shared.tolist() == [[0, 0.5, -1], [1, 1, 0]]


def test_a_centroid_gets_the_sum_of_the_gradients_of_its_entries_and_an_entry_its_own():
    import tensorflow as tf

    weight, centroids = tf.constant([0.0, 0.4, -0.9, 1.2, 0.9]), tf.constant([1.0, -1.0, 0.5])
    with tf.GradientTape() as tape:
        tape.watch([weight, centroids])
        total = ops.sum(share(weight, centroids) * [100.0, 1.0, 2.0, 4.0, 8.0])
    of_weight, of_centroids = tape.gradient(total, [weight, centroids])
    assert of_centroids.numpy().tolist() == [12, 2, 1]
    assert of_weight.numpy().tolist() == [0, 1, 2, 4, 8]


@pytest.mark.parametrize("count", [3, 15])
def test_centroids_start_about_as_well_as_those_of_scikit_learn(count):
    weight = RNG.normal(size=3000)
    weight[::3] = 0
    entries = weight[weight != 0]

    def error(centroids):
        return np.square(entries[:, None] - centroids).min(axis=1).sum()

    best = KMeans(count, n_init=2, random_state=0).fit(entries[:, None]).inertia_
    assert error(starting_centroids(weight, count)) <= 1.1 * best


def test_more_values_than_entries_and_a_weight_of_zeros():
    assert np.isfinite(starting_centroids(np.float32([0, 1, 1]), 5)).all()
    assert np.isfinite(starting_centroids(np.zeros(4), 3)).all()


def test_a_trained_model_has_that_many_values():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(20, "relu"), keras.layers.Dense(3)])
    model = tfprune.quantize_aware(tfprune.wrap(model), levels=4)
    tfprune.update_masks(model, 0.5)
    before = [layer.centroids["kernel"].numpy().copy() for layer in model.layers]
    model.compile("adam", "mse")
    model.fit(RNG.normal(size=(64, 6)), RNG.normal(size=(64, 3)), epochs=3, verbose=0)
    for layer, centroids in zip(model.layers, before, strict=True):
        assert (layer.centroids["kernel"].numpy() != centroids).any()  # trained
    stripped = tfprune.strip(model)
    for layer in stripped.layers:
        values = np.unique(layer.kernel.numpy())
        assert 0 in values and len(values) <= 4
    assert tfprune.sparsity_report(stripped).sparsity == tfprune.sparsity_report(model).sparsity == 0.5
