"""Models that compute in half precision: their files are those of a twin that never did."""

import keras
import numpy as np
import pytest
from tiers import in_test_all, in_test_ci

import tfprune
from tfprune.export.device.runner import Runner
from tfprune.export.keras_side.prepare import half_types, in_float32
from tfprune.export.keras_side.to_tflite import to_tflite

layers = keras.layers
IMAGES = np.random.default_rng(0).normal(size=(20, 8, 8, 3)).astype("float32")


class Doubled(layers.Layer):
    """A layer that no other process knows."""

    def call(self, inputs):
        return 2 * inputs


def build(policy, *custom):
    """Return a network of layers with a policy: statistics, a convolution, a recurrent layer, one inside another."""
    keras.utils.set_random_seed(1)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return keras.Sequential(
            [
                keras.Input((8, 8, 3), name="image"),
                layers.Normalization(mean=0.5, variance=2.0),
                layers.Conv2D(8, 3, name="conv"),
                layers.BatchNormalization(moving_mean_initializer="normal"),
                *custom,
                layers.Reshape((6, 48)),
                layers.TimeDistributed(layers.Dense(8, activation="relu")),
                layers.GRU(6, recurrent_initializer="glorot_uniform"),
                layers.Dense(4, name="out"),
            ]
        )
    finally:
        keras.config.set_dtype_policy(before)


def pruned(policy, *custom):
    model = tfprune.wrap(build(policy, *custom))
    tfprune.update_masks(model, 0.5)
    return model


@pytest.mark.parametrize(
    ("policy", "half", "tolerance"),
    [
        ("mixed_float16", "float16", 0.01),
        in_test_all(("mixed_bfloat16", "bfloat16", 0.1)),
        in_test_all(("float16", "float16", 0.01)),
        in_test_ci(("bfloat16", "bfloat16", 0.1)),
    ],
)
def test_the_file_gives_what_a_twin_in_float32_gives(tmp_path, policy, half, tolerance):
    model = pruned(policy)
    report = to_tflite(model, tmp_path / "file", optimize="dense", check_on=IMAGES)
    twin = build("float32")
    twin.set_weights([keras.ops.cast(weight, "float32") for weight in tfprune.strip(model).weights])
    expected, outputs = twin.predict(IMAGES, verbose=0), Runner(tmp_path / "file").predict(IMAGES)
    np.testing.assert_allclose(outputs, expected, atol=1e-5 * np.abs(expected).max())
    assert (report.tolerance, report.sparsity) == (tolerance, pytest.approx(0.5, abs=0.01))
    assert 1e-5 < report.max_abs_diff / np.abs(expected).max() < tolerance  # compared with Keras in half precision
    assert half_types(model) == {half}


@pytest.mark.programs
def test_quantized_files_keep_the_wider_tolerance_of_the_two(tmp_path):
    model = build("mixed_float16")
    report = to_tflite(
        model, tmp_path / "file", quantize="int8", optimize="dense", calibration=IMAGES, check_on=IMAGES
    )
    assert report.tolerance == 0.35
    expected = model.predict(IMAGES, verbose=0)
    assert np.abs(Runner(tmp_path / "file").predict(IMAGES) - expected).max() < 0.2 * np.abs(expected).max()


@pytest.mark.programs
def test_mixed_precision_does_without_another_process_that_knows_the_classes(tmp_path):
    model = build("mixed_float16", Doubled(dtype="mixed_float16"), layers.Lambda(lambda x: x - 1))
    to_tflite(model, tmp_path / "file", optimize="dense", check_on=IMAGES)
    expected = model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(
        Runner(tmp_path / "file").predict(IMAGES), expected, atol=0.01 * np.abs(expected).max()
    )


def test_weights_of_half_precision_and_classes_of_this_program_are_refused_together(tmp_path):
    class Local(Doubled):
        pass

    with pytest.raises(ValueError, match=r"can import: .* Received: \S*<locals>\.Local\. Define it in a module"):
        to_tflite(build("float16", Local(dtype="float16")), tmp_path / "file")
    assert not list(tmp_path.iterdir())


@pytest.mark.programs
def test_for_latency_a_model_in_mixed_precision_reaches_sparse_kernels(tmp_path):
    keras.utils.set_random_seed(0)
    mixed = {"dtype": "mixed_float16"}
    image = keras.Input((16, 16, 3))
    maps = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", **mixed)(image)
    maps = layers.Conv2D(64, 1, activation="relu", name="pointwise", **mixed)(maps)
    outputs = layers.Dense(3, **mixed)(layers.GlobalAveragePooling2D(**mixed)(maps))
    model = tfprune.wrap(keras.Model(image, outputs), filters="kernel")
    tfprune.update_masks(model, 0.9)
    report = to_tflite(model, tmp_path / "fast", optimize="latency")
    assert report.sparse_inference.active
    assert "sparse" in next(row.name for row in report.candidates if not row.reason)


def test_a_model_is_in_float32_for_the_time_being():
    model = build("mixed_bfloat16")
    before = [layer.dtype_policy.name for layer in model.layers]
    expected = keras.ops.convert_to_numpy(keras.ops.cast(model(IMAGES), "float32"))
    twin = build("float32")
    twin.set_weights(model.get_weights())
    with in_float32(model):
        assert not half_types(model)
        np.testing.assert_allclose(model(IMAGES), twin(IMAGES), atol=1e-6)
    assert [layer.dtype_policy.name for layer in model.layers] == before
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(keras.ops.cast(model(IMAGES), "float32")), expected)


def test_inputs_of_half_precision_are_float32_in_the_file(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,), dtype="float16", name="x")
    model = keras.Model(inputs, layers.Dense(3, dtype="mixed_float16")(inputs))
    x = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
    to_tflite(model, tmp_path / "file", check_on=x)
    assert [str(np.dtype(entry.dtype)) for entry in Runner(tmp_path / "file").inputs] == ["float32"]
