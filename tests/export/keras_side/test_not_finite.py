"""NaN and infinity never count as equal. Files are compared with what `model.predict` gives."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfprune import Limit
from tfprune.export import Runner, rewrite, to_tflite, verify
from tfprune.export.keras_side.convert import predict
from tfprune.export.keras_side.prepare import signature

layers = keras.layers
CONVERT = "tfprune.export.keras_side.to_tflite.convert_prepared"
X = np.random.default_rng(0).normal(size=(20, 8, 8, 3)).astype("float32")
PLACES = {
    "kernel": ("conv", "kernel"),
    "bias": ("head", "bias"),
    "variance": ("norm", "moving_variance"),
    "scale": ("norm", "gamma"),
}


def build():
    keras.utils.set_random_seed(0)
    parts = [layers.Conv2D(4, 3, activation="relu", name="conv"), layers.BatchNormalization(name="norm")]
    return keras.Sequential([keras.Input((8, 8, 3)), *parts, layers.Flatten(), layers.Dense(3, name="head")])


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("place", PLACES)
def test_a_weight_that_is_not_finite_is_refused_by_name(tmp_path, monkeypatch, place, wrong):
    monkeypatch.setattr(CONVERT, lambda *args, **kwargs: pytest.fail("converted all the same"))
    model, (layer, name) = build(), PLACES[place]
    weight = getattr(model.get_layer(layer), name)
    values = np.array(weight)
    values.flat[0] = wrong
    weight.assign(values)
    for options in (
        {},
        {"max_drop": Limit(0.01, data=(X, np.zeros(len(X), int)))},
        {"quantize": "int8", "calibration": X},
    ):
        with pytest.raises(ValueError, match=rf"Expected finite values in \S*{layer}/{name}\. Received: NaN or inf"):
            to_tflite(model, tmp_path / "n.tflite", check_on=X, **options)
    assert not [*tmp_path.iterdir()]


def logarithm():
    """NaN for samples below zero, numbers for the others."""
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.ops.log(layers.Dense(4, kernel_initializer="identity")(inputs)))


def test_samples_without_a_finite_expected_value_prove_nothing(tmp_path, monkeypatch):
    model, above = logarithm(), np.linspace(0.5, 2, 40, dtype="float32").reshape(10, 4)
    to_tflite(model, tmp_path / "m.tflite", check_on=above)
    content = (tmp_path / "m.tflite").read_bytes()
    monkeypatch.setattr(CONVERT, lambda *args, **kwargs: pytest.fail("converted all the same"))
    with pytest.raises(ValueError, match=r"Expected `check_on` to give finite outputs.*all values of output 0"):
        to_tflite(model, tmp_path / "n.tflite", check_on=-above)
    with pytest.raises(ValueError, match=r"Expected `max_drop.data` to give finite outputs.*all values of output 0"):
        to_tflite(
            model, tmp_path / "n.tflite", check_on=above, max_drop=Limit(0.01, metric="mae", data=(-above, -above))
        )
    with pytest.raises(ValueError, match="no finite value is expected of output 'output_0'"):
        rewrite(content, tmp_path / "n.tflite", check_on=-above)
    report = verify(content, samples=-above, expected=Runner(content).predict(-above))
    assert not report.passed and "nothing to compare it with" in report.reason
    assert [path.name for path in tmp_path.iterdir()] == ["m.tflite"]


def test_the_check_compares_with_what_predict_gives():
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})  # as users have it
    model = build()
    kernel = np.array(model.layers[0].kernel)
    kernel.flat[0] = np.nan
    model.layers[0].kernel.assign(kernel)
    expected = model.predict(X, verbose=0)
    assert np.isfinite(expected).all() and not np.isfinite(model(X)).any()  # compiled, the ReLU makes zeros of NaN
    inputs = signature(model)
    (found,) = predict(model, {inputs.names[0]: X}, inputs=inputs, argument="check_on")
    np.testing.assert_array_equal(found, expected)


def test_weights_too_large_for_integers_are_named_and_not_the_file(tmp_path):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, name="large"), keras.layers.Dense(2)])
    model.layers[0].kernel.assign(keras.ops.full((6, 8), 1e38))
    x = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
    with pytest.raises(ValueError, match=r"whose largest weight is 1e\+38 in '.*large/kernel': in the file"):
        to_tflite(model, tmp_path / "x.tflite", quantize="int8", calibration=x)
    assert not [*tmp_path.iterdir()]
