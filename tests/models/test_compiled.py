"""Variables that exist before the first step. The truth is how often Keras calls a layer, and training without it."""

import keras
import numpy as np
import pytest

from tfprune.models.training import create_variables

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
        create_variables(model, (X, Y), batch_size=8)
    CALLS.clear()
    history = model.fit(X, Y, batch_size=8, epochs=2, verbose=0).history
    return len(CALLS), history, [weight.numpy() for weight in model.weights]


@pytest.mark.programs
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
    create_variables(model, (X["a"], X["b"]), batch_size=8)
    assert model.optimizer.built
    assert len(model.metrics_variables) == 2, "those of the loss; the metric has none yet"


def graph(*, batch=None, **settings):
    """Return a compiled model of a list of inputs, in another order than that of their names."""
    second, first = keras.Input((3,), batch, name="b"), keras.Input((4,), batch, name="a")
    hidden = keras.layers.Dense(3)(keras.layers.Concatenate()([second, first]))
    model = keras.Model([second, first], keras.layers.ActivityRegularization(0.1)(hidden))
    model.compile("adam", **settings)
    return model


def flat():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(3)])
    model.compile("adam", "mse", metrics=["mae"])
    return model


def within_a_batch(y, outputs):
    """Fail for anything but eight samples of numbers with a sum."""
    return keras.ops.mean(keras.ops.reshape(outputs, (8, 3)) - keras.ops.cast(y, outputs.dtype), axis=-1)


CASES = {
    "a dict for a list of inputs": (lambda: graph(loss="mse", metrics=["mae"]), X),
    "losses of layers alone": (graph, X),
    "a batch of one size": (lambda: graph(batch=8, loss=within_a_batch), X),
    "inputs without their last axis": (flat, X["a"][:, 0]),
}


@pytest.mark.parametrize("name", CASES)
def test_what_fit_takes_is_taken(name):
    build_model, x = CASES[name]
    model, y = build_model(), np.float64(X["b"])
    create_variables(model, (x, y), batch_size=8)
    assert all(not variable.numpy().any() for variable in model.metrics_variables), "as before the training"
    model.fit(x, y, batch_size=8, verbose=0)


def test_metrics_of_the_models_own_and_states_are_left_alone():
    class Own(keras.Sequential):
        def compute_metrics(self, x, y, y_pred, sample_weight):
            raise AssertionError

    model = Own([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("adam", "mse")
    create_variables(model, (X["a"], X["b"]), batch_size=8)
    model = keras.Sequential([keras.Input((4, 1), 8), keras.layers.LSTM(3, stateful=True)])
    model.compile("adam", "mse")
    create_variables(model, (X["a"][..., None], X["b"]), batch_size=8)
    assert not any(state.numpy().any() for state in model.layers[0].states)
