"""Values that entries share, against scikit-learn's k-means and gradients by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from sklearn.cluster import KMeans

import tfprune
from tfprune.masking.pruned import Clustered, _share, _starting_centroids
from tfprune.masking.strip import mask_zeros

RNG = np.random.default_rng(0)


def test_entries_take_the_nearest_value_and_zeros_stay():
    weight = np.float32([[0.0, 0.4, -0.9], [2.0, 1.2, 0.0]])
    shared = ops.convert_to_numpy(_share(weight, np.float32([1.0, -1.0, 0.5])))
    assert shared.tolist() == [[0, 0.5, -1], [1, 1, 0]]


def test_a_centroid_gets_the_sum_of_the_gradients_of_its_entries_and_an_entry_its_own():
    import tensorflow as tf

    weight, centroids = tf.constant([0.0, 0.4, -0.9, 1.2, 0.9]), tf.constant([1.0, -1.0, 0.5])
    with tf.GradientTape() as tape:
        tape.watch([weight, centroids])
        total = ops.sum(_share(weight, centroids) * [100.0, 1.0, 2.0, 4.0, 8.0])
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
    assert error(_starting_centroids(weight, count)) <= 1.1 * best


def test_more_values_than_entries_and_a_weight_of_zeros():
    assert np.isfinite(_starting_centroids(np.float32([0, 1, 1]), 5)).all()
    assert np.isfinite(_starting_centroids(np.zeros(4), 3)).all()


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


def test_a_weight_of_few_values_keeps_them():
    values = np.float32([-1.7, -0.2, 0.1, 0.1001, 3.0])
    weight = RNG.permutation(np.concatenate([np.repeat(values, [1, 50, 400, 3, 20]), np.zeros(99)]))
    for count in (5, 8):
        assert np.unique(_starting_centroids(weight, count)).tolist() == sorted(values.astype(float))


def test_where_values_may_start_instead():
    weight = RNG.permutation(np.concatenate([np.linspace(-2, 1, 600), np.linspace(1, 6, 200), np.zeros(200)]))
    entries = np.sort(weight[weight != 0])
    np.testing.assert_allclose(_starting_centroids(weight, 5, start="linear"), [-2, 0, 2, 4, 6])
    density = _starting_centroids(weight, 4, start="density")
    ends = [0, *np.searchsorted(entries, (density[1:] + density[:-1]) / 2), len(entries)]
    assert (np.abs(np.diff(ends)[:-2] / len(entries) - 0.25) < 0.01).all()  # of the even part
    keras.utils.set_random_seed(0)
    centroids = _starting_centroids(weight, 9, start="random")
    assert len(set(centroids)) == 9 and centroids.min() >= -2 and centroids.max() <= 6


def test_a_clustered_layer_is_saved_with_its_values_and_its_stripped_copy_has_no_more(tmp_path):
    keras.utils.set_random_seed(0)
    stack = [keras.Input((6, 3)), keras.layers.LSTM(5, name="memory"), keras.layers.Dense(3, name="out")]
    model = keras.Sequential(stack)
    model = keras.models.clone_model(model, clone_function=lambda layer: Clustered(layer, levels=5))
    model.compile("adam", "mse", run_eagerly=True)
    model.fit(RNG.normal(size=(8, 6, 3)), RNG.normal(size=(8, 3)), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for own_layer, loaded_layer in zip(model.layers, loaded.layers, strict=True):
        assert type(loaded_layer) is Clustered and loaded_layer.centroids.keys() == own_layer.centroids.keys()
    data = RNG.normal(size=(4, 6, 3))
    np.testing.assert_array_equal(model.predict(data, verbose=0), loaded.predict(data, verbose=0))
    stripped = tfprune.strip(loaded)
    np.testing.assert_allclose(model.predict(data, verbose=0), stripped.predict(data, verbose=0), atol=1e-6)
    for layer in stripped.layers:
        assert all(len(np.unique(weight)) == 4 for weight in layer.get_weights() if weight.ndim > 1)


def test_shared_values_and_masks_go_along_into_8_bits():
    keras.utils.set_random_seed(0)
    model = tfprune.wrap(keras.Sequential([keras.Input((9,)), keras.layers.Dense(20, name="hidden")]))
    tfprune.update_masks(model, 0.5)
    stripped = tfprune.strip(model)
    assert np.mean(stripped.get_weights()[0] == 0) == 0.5

    def cluster(layer):
        return Clustered(layer, levels=4, weights=["kernel"])

    clustered = keras.models.clone_model(stripped, clone_function=cluster)
    mask_zeros(clustered)
    clustered.get_layer("hidden").centroids["kernel"].assign([-0.5, 0.25, 0.5])
    quantized = tfprune.quantize_aware(clustered, levels=200)
    layer = quantized.get_layer("hidden")
    assert layer.levels == 4 and layer.centroids["kernel"].numpy().tolist() == [-0.5, 0.25, 0.5]
    np.testing.assert_array_equal(layer.masks["kernel"], clustered.get_layer("hidden").masks["kernel"])
    np.testing.assert_array_equal(
        tfprune.strip(quantized).get_weights()[0], tfprune.strip(clustered).get_weights()[0]
    )
    np.testing.assert_array_equal(layer.layer.kernel, clustered.get_layer("hidden").layer.kernel)  # not settled
