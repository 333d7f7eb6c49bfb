"""Variables that exist before the first step. The truth is how often Keras calls a layer, and training without it."""

import keras
import numpy as np
import pytest

from tfprune.keras_models.models.compiled import create_variables

CALLS = []
RNG = np.random.default_rng(0)
X = {"a": RNG.normal(size=(24, 4)).astype("float32"), "b": RNG.normal(size=(24, 3)).astype("float32")}
Y = {"kind": RNG.integers(0, 3, 24), "size": RNG.normal(size=(24, 1)).astype("float32")}


class Counted(keras.layers.Dense):
    def call(self, inputs):
        CALLS.append(inputs.shape)
        return super().call(inputs)


def build():
    """Return a compiled model with two inputs, two outputs, dropout and a normalization."""
    keras.utils.set_random_seed(1)
    inputs = {name: keras.Input(array.shape[1:], name=name) for name, array in X.items()}
    hidden = keras.layers.BatchNormalization()(Counted(8)(keras.layers.Concatenate()([*inputs.values()])))
    hidden = keras.layers.Dropout(0.5, seed=2)(hidden)
    outputs = {"kind": keras.layers.Dense(3, activation="softmax", name="kind")(hidden)}
    model = keras.Model(inputs, {**outputs, "size": keras.layers.Dense(1, name="size")(hidden)})
    losses = {"kind": "sparse_categorical_crossentropy", "size": "mse"}
    model.compile("adam", losses, metrics={"kind": ["accuracy"], "size": ["mae"]})
    return model


def train(*, is_ready):
    """Return how often the layer was called, the history, and the weights."""
    model = build()
    if is_ready:
        create_variables(model, (X, Y))
    CALLS.clear()
    history = model.fit(X, Y, batch_size=8, epochs=2, verbose=0).history
    return len(CALLS), history, [weight.numpy() for weight in model.weights]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="other backends trace a step in another way")
def test_a_step_is_traced_once_and_training_is_the_same():
    calls, history, weights = train(is_ready=True)
    before, history_before, weights_before = train(is_ready=False)
    assert (calls, before) == (1, 2)
    assert history == history_before
    for weight, other in zip(weights, weights_before, strict=True):
        np.testing.assert_array_equal(weight, other)


def test_a_model_that_trains_in_its_own_way_keeps_its_metrics_for_itself():
    class Own(keras.Sequential):
        def train_step(self, data):
            return super().train_step(data)

    model = Own([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("adam", "mse", metrics=["mae"])
    create_variables(model, (X["a"], X["b"]))
    assert model.optimizer.built
    assert len(model.metrics_variables) == 2, "those of the loss; the metric has none yet"
