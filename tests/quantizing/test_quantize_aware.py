"""Models that round while they train: against the float model, by hand, and through saving, wrapping, stripping."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from tiers import first

import tfprune
from tfprune.patterns import NM, Block
from tfprune.schedules import Constant

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(96, 8, 8, 2)).astype("float32")
Y = RNG.integers(0, 4, size=96)


def plain(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    stack = [
        *(layers.Conv2D(8, 3, use_bias=False, name="conv"), layers.BatchNormalization(momentum=0.9, name="norm")),
        *(layers.ReLU(name="relu"), layers.DepthwiseConv2D(3, name="depthwise"), layers.Flatten()),
        *(layers.Dense(16, "relu", name="hidden"), layers.Dense(4, "softmax", name="out")),
    ]
    return keras.Sequential([keras.Input((8, 8, 2)), *stack])


def trained(model: keras.Model, epochs: int = 1, **arguments) -> keras.Model:
    """Return the model after a few steps, eagerly: tracing takes longer."""
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", run_eagerly=True)
    model.fit(X, Y, epochs=epochs, verbose=0, shuffle=False, **arguments)
    return model


@pytest.fixture(scope="module")
def quantized() -> keras.Model:
    return trained(tfprune.quantize_aware(plain()))


def test_before_training_only_the_weights_are_rounded():
    model = plain()
    copy = tfprune.quantize_aware(model)
    rounded = plain()
    for layer, source in zip(rounded.layers, model.layers, strict=True):
        for variable, value in zip(layer.weights, source.get_weights(), strict=True):
            if variable.name == "kernel":
                axes = {"conv": (0, 1, 2), "depthwise": (0, 1)}.get(layer.name, (0,))
                scale = np.abs(value).max(axis=axes, keepdims=True) / 127
                value = np.rint(value / scale) * scale
            variable.assign(value)
    expected = rounded.predict(X, verbose=0)
    # Scores have 256 values, whatever the data: the range of a softmax is known.
    np.testing.assert_allclose(copy.predict(X, verbose=0), np.rint(expected * 256) / 256, atol=1 / 256 + 1e-6)
    assert not copy.compiled and model.get_layer("conv").__class__ is layers.Conv2D


def test_the_model_given_is_untouched_and_names_stay():
    model = plain()
    before = model.get_weights()
    copy = trained(tfprune.quantize_aware(model))
    assert all(map(np.array_equal, before, model.get_weights()))
    assert [layer.name for layer in copy.layers] == [layer.name for layer in model.layers]


def test_a_range_is_a_moving_average_that_starts_with_the_first_batch():
    layer = tfprune.Quantized(layers.Activation("linear"), ranges=["output"])
    batches = [np.float32([[-1.0, 2.0]]), np.float32([[-3.0, 1.0]]), np.float32([[0.5, 0.7]])]
    for batch in batches:
        layer(batch, training=True)
    low, high = 0.99 * (0.99 * -1 + 0.01 * -3) + 0.01 * 0, 0.99 * (0.99 * 2 + 0.01 * 1) + 0.01 * 0.7
    np.testing.assert_allclose(layer.ranges["output"].numpy(), [low, high], rtol=1e-6)


def test_silu_is_a_product_with_a_rounded_sigmoid_within_a_layer_and_as_one():
    values = np.linspace(-4, 4, 97, dtype="float32")[None]
    layer = tfprune.Quantized(layers.Activation("silu"), ranges=["output"])
    layer.build(values.shape)
    gate = np.clip(np.rint(256 / (1 + np.exp(-values))), 0, 255) / 256
    np.testing.assert_allclose(layer(values), values * gate, atol=1e-6)
    dense = tfprune.Quantized(layers.Dense(97, "silu", kernel_initializer="identity"), ranges=["activation"])
    np.testing.assert_allclose(dense(values), values * gate, atol=1e-6)


def test_inference_changes_nothing_and_frozen_ranges_stay(quantized):
    before = quantized.get_weights()
    quantized.predict(9 * X, verbose=0)
    quantized(9 * X)
    assert all(map(np.array_equal, before, quantized.get_weights()))
    copy = keras.models.clone_model(quantized)
    copy.set_weights(before)
    tfprune.freeze_ranges(copy)
    ranges = [variable.numpy() for layer in copy.layers for variable in getattr(layer, "ranges", {}).values()]
    trained(copy)
    after = [variable.numpy() for layer in copy.layers for variable in getattr(layer, "ranges", {}).values()]
    assert len(ranges) > 3 and all(map(np.array_equal, ranges, after))
    assert any((old != new).any() for old, new in zip(before, copy.get_weights(), strict=True))


def test_it_is_saved_and_loaded(quantized, tmp_path):
    quantized.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded.predict(X, verbose=0), quantized.predict(X, verbose=0))
    assert str(tfprune.quantization_report(loaded)) == str(tfprune.quantization_report(quantized))
    quantized.save_weights(tmp_path / "model.weights.h5")
    other = tfprune.quantize_aware(plain(3))
    other.load_weights(tmp_path / "model.weights.h5")
    assert np.array_equal(other.predict(X, verbose=0), quantized.predict(X, verbose=0))


@pytest.mark.parametrize("pattern", first("unstructured", "channel", NM(2, 4), Block(2, 2)), ids=str)
def test_masks_come_before_or_after(pattern):
    masks_after = tfprune.wrap(tfprune.quantize_aware(plain()), pattern=pattern)
    masks_before = tfprune.quantize_aware(tfprune.wrap(plain(), pattern=pattern))
    for model in (masks_after, masks_before):
        tfprune.update_masks(model, 0.5)
        trained(model)
        report = tfprune.sparsity_report(tfprune.strip(model))
        assert tfprune.sparsity_report(model).total_nnz == report.total_nnz
    for weight, twin in zip(masks_after.get_weights(), masks_before.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, twin)


def test_a_schedule_raises_the_sparsity_and_zeros_stay():
    model = tfprune.quantize_aware(tfprune.wrap(plain()))
    trained(model, epochs=2, callbacks=[tfprune.PruningCallback(Constant(0.9), every=1)])
    assert tfprune.sparsity_report(model).sparsity == pytest.approx(0.9, abs=2e-3)
    for layer in model.layers:
        for name, mask in getattr(layer, "masks", {}).items():
            values = np.array(layer._value(layer.kernels[name].variable, False))
            assert (values[~mask.numpy()] == 0).all() and (values[mask.numpy()] != 0).any()


def test_strip_returns_the_float_model(quantized):
    stripped = tfprune.strip(quantized)
    assert [type(layer) for layer in stripped.layers] == [type(layer) for layer in plain().layers]
    np.testing.assert_array_equal(stripped.get_layer("conv").kernel, quantized.get_layer("conv").layer.kernel)
    np.testing.assert_allclose(stripped.predict(X, verbose=0), quantized.predict(X, verbose=0), atol=0.1)


def test_the_report_shows_ranges_and_what_is_left():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, name="c"),
            layers.LayerNormalization(name="s"),
            layers.ReLU(name="r"),
        ]
    )
    report = tfprune.quantization_report(tfprune.quantize_aware(model, levels=16))
    assert [row.layer for row in report.rows] == ["c", "s", "r"]
    assert report.rows[0].weights == ("kernel",) and report.rows[0].levels == 16 and report.rows[1].levels is None
    assert [entry.layer for entry in report.skipped] == ["s"]
    assert "no data yet" in str(report) and report.as_dict()["rows"][0]["kind"] == "Conv2D"
    left = tfprune.quantization_report(tfprune.quantize_aware(plain(), skip="^out$"))
    assert [(entry.layer, entry.reason) for entry in left.skipped] == [("out", "left out by `filters` or `skip`")]


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


def own() -> keras.Model:
    model = Own()
    model(np.ones((1, 3)))
    return model


def integers() -> keras.Model:
    model = plain()
    model.quantize("int8")
    return model


WRONG = {
    "again": (lambda: tfprune.quantize_aware(plain()), {}, "not quantized yet"),
    "integers": (integers, {}, "keras.Model.quantize"),
    "own code": (own, {}, "Sequential or Functional"),
    "unbuilt": (lambda: keras.Sequential([layers.Dense(2)]), {}, "built model"),
    "nothing": (lambda: keras.Sequential([keras.Input((3,)), layers.UnitNormalization()]), {}, "no rule for Unit"),
    "skip": (plain, {"skip": "nothing"}, "found in none"),
    "filters": (plain, {"filters": "nothing"}, "found in none"),
    "levels": (plain, {"levels": 300}, "2 to 256"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(case):
    build, arguments, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        tfprune.quantize_aware(build(), **arguments)


def test_reports_and_freezing_want_a_quantized_model_that_has_seen_data():
    for function in (tfprune.quantization_report, tfprune.freeze_ranges):
        with pytest.raises(ValueError, match="no layer of which is quantized"):
            function(plain())
        with pytest.raises(TypeError, match="Expected a Keras model"):
            function("model")
    with pytest.raises(ValueError, match="ranges that have seen data"):
        tfprune.freeze_ranges(tfprune.quantize_aware(plain()))


def test_a_mask_that_a_lambda_calls_a_float_needs_no_range():
    ids = keras.Input((4,), dtype="int32")
    kept = keras.layers.Lambda(lambda ids: keras.ops.not_equal(ids, 0)[:, None], name="kept")(ids)
    x = keras.layers.Embedding(9, 8)(ids)
    y = keras.layers.MultiHeadAttention(1, 8, name="attention")(x, x, attention_mask=kept)
    aware = tfprune.quantize_aware(keras.Model(ids, keras.layers.Dense(2)(y)))
    layer = aware.get_layer("attention")
    with pytest.raises(ValueError, match="which has seen none"):
        layer.known_ranges()
    aware(np.array([[1, 2, 0, 0], [3, 4, 5, 0]]), training=True)
    assert "input_2" in layer.range_names and "input_2" not in layer.known_ranges()
    assert layer.known_ranges()
