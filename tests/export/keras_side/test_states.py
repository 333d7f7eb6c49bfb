"""Recurrent layers that keep their states: the file does as well, from the start. The truth is Keras, reset."""

import keras
import numpy as np
import pytest
from tiers import first

from tfprune.export import Runner, to_tflite

layers = keras.layers
X = np.random.default_rng(0).normal(size=(6, 5, 2)).astype("float32")


def build(layer):
    keras.utils.set_random_seed(0)
    recurrent = [layer(4, stateful=True, return_sequences=True, name="first"), layer(3, stateful=True, name="last")]
    return keras.Sequential([keras.Input((5, 2), batch_size=1), *recurrent, layers.Dense(1)])


@pytest.mark.parametrize("layer", first(layers.LSTM, layers.GRU))
def test_a_file_begins_with_states_of_zero_and_goes_on_as_keras_does(tmp_path, layer):
    model = build(layer)
    fresh = np.concatenate([model(row[None]) for row in X])
    states = [np.array(state) for state in keras.tree.flatten([part.states for part in model.layers[:2]])]
    assert all(state.any() for state in states)  # of the run above
    report = to_tflite(model, tmp_path / "m.tflite", check_on=X)
    assert report.max_abs_diff < 1e-5
    np.testing.assert_allclose(Runner(tmp_path / "m.tflite").predict(X), fresh, atol=1e-5)
    for state, before in zip(keras.tree.flatten([part.states for part in model.layers[:2]]), states, strict=True):
        np.testing.assert_array_equal(state, before)  # the user's own are left alone
