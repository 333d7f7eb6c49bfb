"""tfmot's clustering under its names: values are counted."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from tiers import first

import tfprune
from tfprune import tfmot
from tfprune.tfmot.clustering.keras import CentroidInitialization, cluster_scope, cluster_weights, strip_clustering
from tfprune.tfmot.clustering.keras.experimental import cluster

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 8, 8, 2)).astype("float32")
Y = RNG.integers(0, 4, size=64)


def base(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    stack = [
        *(layers.Conv2D(6, 3, name="conv"), layers.BatchNormalization(name="norm"), layers.ReLU(name="relu")),
        *(layers.DepthwiseConv2D(3, name="depthwise"), layers.Flatten(), layers.Dense(4, "softmax", name="out")),
    ]
    return keras.Sequential([keras.Input((8, 8, 2)), *stack])


def fit(model: keras.Model, *callbacks) -> keras.Model:
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", run_eagerly=True)
    model.fit(X, Y, batch_size=64, callbacks=list(callbacks), verbose=0)
    return model


def kernel(model: keras.Model, name: str) -> np.ndarray:
    return np.array(model.get_layer(name).kernel)


def values(model: keras.Model, name: str) -> list[float]:
    return np.unique(kernel(model, name)).tolist()


@pytest.mark.parametrize("start", first(*CentroidInitialization))
def test_a_trained_model_has_as_many_values_as_were_asked_for(start):
    model = base()
    clustered = cluster_weights(model, number_of_clusters=8, cluster_centroids_init=start)
    assert len(values(model, "conv")) > 100  # the model given stays as it is
    stripped = strip_clustering(fit(clustered))
    for name in ("conv", "out"):
        assert 2 < len(values(stripped, name)) <= 8
    assert type(stripped.get_layer("conv")) is layers.Conv2D
    assert len(values(stripped, "depthwise")) == 54  # each its own: a kernel that is small and matters
    np.testing.assert_allclose(clustered.predict(X, verbose=0), stripped.predict(X, verbose=0), atol=1e-5)


def test_zeros_of_a_pruned_model_stay_and_count_as_one_of_the_values():
    pruned = tfmot.sparsity.keras.prune_low_magnitude(base())
    stripped = tfmot.sparsity.keras.strip_pruning(fit(pruned, tfmot.sparsity.keras.UpdatePruningStep()))
    zeros = kernel(stripped, "out") == 0
    assert zeros.mean() == 0.5
    parameters = {"number_of_clusters": 8, "cluster_centroids_init": CentroidInitialization.KMEANS_PLUS_PLUS}
    for keeps, most in ((True, 8), (False, 9)):
        arguments = {**parameters, "preserve_sparsity": True} if keeps else parameters
        found = strip_clustering(fit(cluster.cluster_weights(stripped, **arguments)))
        assert ((kernel(found, "out") == 0) == zeros).all()
        assert len(values(found, "out")) == most and 0.0 in values(found, "out")


def test_some_layers_by_name_and_where_a_model_is_written():
    def dense_only(layer):
        if isinstance(layer, layers.Dense):
            return cluster_weights(layer, number_of_clusters=4)
        return layer

    stripped = strip_clustering(fit(keras.models.clone_model(base(), clone_function=dense_only)))
    assert len(values(stripped, "out")) == 4 and len(values(stripped, "conv")) > 100
    written = keras.Sequential(
        [keras.Input((8, 8, 2)), layers.Flatten(), cluster_weights(layers.Dense(4, name="d"), 3)]
    )
    assert len(values(strip_clustering(written), "d")) == 3
    first, last = cluster_weights([layers.Dense(4), layers.ReLU()], 3)
    assert first.levels == 4 and type(last) is layers.ReLU


def test_it_is_saved_and_loaded_and_a_model_that_shares_values_stays_as_it_is(tmp_path):
    model = cluster_weights(base(), 5)
    model.save(tmp_path / "clustered.keras")
    with cluster_scope():
        loaded = keras.models.load_model(tmp_path / "clustered.keras")
    loaded.get_layer("out").centroids["kernel"].assign([-0.2, -0.1, 0.05, 0.1, 0.2])
    again = cluster_weights(loaded, 3)
    assert values(strip_clustering(again), "out") == values(strip_clustering(loaded), "out")
    np.testing.assert_allclose(values(strip_clustering(again), "out"), [-0.2, -0.1, 0.05, 0.1, 0.2])


def activation() -> keras.Model:
    return keras.Sequential([keras.Input((3,)), layers.ReLU()])


WRONG = {
    "count": (lambda: cluster_weights(base(), 1), ValueError, "number_of_clusters"),
    "count of zeros": (lambda: cluster_weights(base(), 2, preserve_sparsity=True), ValueError, "number_of_clusters"),
    "start": (lambda: cluster_weights(base(), 8, "somewhere"), TypeError, "cluster_centroids_init='somewhere'"),
    "no kernel": (
        lambda: cluster_weights(keras.Sequential([keras.Input((3,)), layers.ReLU()]), 8),
        ValueError,
        "none",
    ),
    "not built": (lambda: cluster_weights(keras.Sequential([layers.Dense(2)]), 8), ValueError, "built model"),
    "no model": (lambda: cluster_weights("model", 8), TypeError, "to_cluster='model'"),
    "quantized": (lambda: cluster_weights(tfprune.quantize_aware(base()), 8), ValueError, "Cluster first"),
    "by channel": (lambda: cluster_weights(base(), 8, cluster_per_channel=True), TypeError, "cluster_per_channel"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(case):
    call, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        call()
