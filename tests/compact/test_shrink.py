"""The smaller model against the one of the same size with zeros, over random graphs and known families."""

from __future__ import annotations

import zipfile

import keras
import numpy as np
import pytest
from graphs import RandomGraph, small_vit
from tiers import first

import tfprune
from tfprune import plan_shrink, shrink, zero_channels
from tfprune.export import Runner, to_tflite
from tfprune.report import Skipped

layers = keras.layers
SEEDS = first(*range(9), count=3)  # of each kind; bench/shrinking.py takes 70


def data_for(model, rows=3):
    generator = np.random.default_rng(1)
    return generator.normal(size=(rows, *model.input_shape[1:])).astype("float32")


def check_equal(model, plan, *, tolerance=1e-5):
    """Check the smaller model against the masked one, and its size against the plan's figures."""
    smaller, masked, data = shrink(model, plan), zero_channels(model, plan), data_for(model)
    expected = np.asarray(masked(data, training=False))
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(smaller(data, training=False), expected, atol=tolerance * scale, rtol=0)
    assert smaller.count_params() == plan.parameters_kept
    return smaller


@pytest.mark.parametrize("kind", ["vectors", "images", "sequences"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_graph_shrinks_to_what_it_computes_with_zeros(kind, seed):
    model = getattr(RandomGraph(seed), kind)()
    plan = plan_shrink(model, 0.4, allocation=["uniform", "global", "lamp"][seed % 3], round_to=1 + seed % 2)
    check_equal(model, plan)


SERIES, VOLUME = (8, 3), (4, 4, 4, 2)
KINDS = {
    "Conv1D": (SERIES, lambda: layers.Conv1D(6, 3, dilation_rate=2)),
    "Conv1DTranspose": (SERIES, lambda: layers.Conv1DTranspose(6, 3, strides=2)),
    "DepthwiseConv1D": (SERIES, lambda: layers.DepthwiseConv1D(3, depth_multiplier=2)),
    "SeparableConv1D": (SERIES, lambda: layers.SeparableConv1D(6, 3, depth_multiplier=2)),
    "Conv3D": (VOLUME, lambda: layers.Conv3D(6, 2)),
    "Conv3DTranspose": (VOLUME, lambda: layers.Conv3DTranspose(6, 2)),
    "BatchNormalization3D": (VOLUME, lambda: layers.BatchNormalization()),
    "MaxPooling3D": (VOLUME, lambda: layers.MaxPooling3D(2)),
    "ZeroPadding3D": (VOLUME, lambda: layers.ZeroPadding3D(1)),
    "PReLU": (SERIES, lambda: layers.PReLU(shared_axes=[1])),
    "GRU": (SERIES, lambda: layers.GRU(5, return_sequences=True, reset_after=False)),
}


@pytest.mark.parametrize("name", KINDS)
def test_layers_between_others(name):
    shape, make = KINDS[name]
    rank = len(shape) - 1
    first, pool = (
        (layers.Conv1D, layers.GlobalMaxPooling1D) if rank == 1 else (layers.Conv3D, layers.GlobalMaxPooling3D)
    )
    stack = [
        keras.Input(shape),
        first(6, 1, name="first"),
        make(),
        first(4, 1, name="after"),
        pool(),
        layers.Dense(2),
    ]
    model = RandomGraph(1).trained(keras.Sequential(stack))
    plan = plan_shrink(model, 0.5)
    kept = {row.group: row.kept for row in plan.rows}
    assert kept["first"] == 3 and kept["after"] == 2
    check_equal(model, plan)


def test_an_embedding_loses_the_entries_that_its_reader_does_not_read():
    words = keras.Input((5,), dtype="int32")
    x = layers.LSTM(4, name="lstm")(layers.Embedding(20, 6, name="words")(words))
    model = RandomGraph(1).trained(keras.Model(words, layers.Dense(2)(x)))
    plan = plan_shrink(model, 0.5)
    smaller, masked = shrink(model, plan), zero_channels(model, plan)
    tokens = np.arange(15).reshape(3, 5)
    np.testing.assert_allclose(smaller(tokens), masked(tokens), atol=1e-6)
    assert smaller.get_layer("words").output_dim == 3 and smaller.get_layer("lstm").units == 2


def enlivened(model):
    """Give scales, shifts and statistics values that a lost one would show."""
    generator = np.random.default_rng(2)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(np.abs(weight + generator.normal(0, 0.2, weight.shape)) + 0.1)
    return model


@pytest.mark.programs
def test_a_mobilenet_with_gates():
    model = enlivened(keras.applications.MobileNetV3Small((32, 32, 3), weights=None, classes=5))
    smaller = check_equal(model, plan_shrink(model, 0.5, round_to=2))
    assert smaller.count_params() < 0.35 * model.count_params()  # a quarter of most kernels


def test_a_vision_transformer_loses_heads_and_hidden_units():
    model = enlivened(small_vit())
    plan = plan_shrink(model, 0.5)
    kept = {row.group: row.kept for row in plan.rows}
    assert kept == {
        "patches": 16,
        "attention_0/heads": 2,
        "wide_0": 16,
        "attention_1/heads": 2,
        "wide_1": 16,
        "out": 5,
    }
    assert plan.skipped[0] == Skipped("patches", "norm_0: it normalizes all channels together")
    smaller = check_equal(model, plan)
    assert smaller.get_layer("attention_0").num_heads == 2


def test_what_goes_is_sliced_out_of_every_weight():
    stack = [keras.Input((3,)), layers.Dense(4, activation="relu", name="hidden"), layers.Dense(2, name="out")]
    model = keras.Sequential(stack)
    kernel = np.array([[5.0, 1, 4, 2]] * 3)
    model.get_layer("hidden").set_weights([kernel, np.arange(4.0)])
    out, shift = np.arange(8.0).reshape(4, 2), np.ones(2)
    model.get_layer("out").set_weights([out, shift])
    smaller = shrink(model, plan_shrink(model, 0.5))
    expected = [kernel[:, [0, 2]], [0, 2], out[[0, 2]], shift]
    assert all(np.array_equal(one, other) for one, other in zip(smaller.get_weights(), expected, strict=True))


def effective(layer):
    """Return what a dense layer with LoRA multiplies by."""
    kernel, first, second = (np.asarray(weight) for weight in layer.weights if len(weight.shape) == 2)
    return kernel + layer.lora_alpha / layer.lora_rank * first @ second


def test_factors_of_lora_lose_what_their_kernel_loses():
    stack = [keras.Input((3,)), layers.Dense(4, name="hidden"), layers.Dense(2, name="out")]
    model = keras.Sequential(stack)
    hidden, out = model.layers
    hidden.kernel.assign([[5.0, 1, 4, 2]] * 3)
    generator = np.random.default_rng(0)
    for layer, alpha in ((hidden, 2), (out, 8)):
        layer.enable_lora(2, lora_alpha=alpha)
        for factor in (layer.lora_kernel_a, layer.lora_kernel_b):
            factor.assign(generator.normal(size=factor.shape))
    first, second = effective(hidden)[:, [0, 2]], effective(out)[[0, 2]]  # the larger two of the kernel's
    data, plan = generator.normal(size=(5, 3)).astype("float32"), plan_shrink(model, 0.5)
    for changed in (shrink(model, plan), zero_channels(model, plan)):
        np.testing.assert_allclose(changed(data), data @ first @ second, atol=1e-4)
        assert len(changed.trainable_variables) == len(model.trainable_variables) == 6
    assert [factor.shape for factor in shrink(model, plan).get_layer("hidden").weights] == [
        (3, 2),
        (2,),
        (3, 2),
        (2, 2),
    ]


def test_a_channel_that_only_a_factor_of_lora_reads_stays():
    stack = [keras.Input((3,)), layers.Dense(4, name="hidden"), layers.Dense(2, name="out")]
    model = keras.Sequential(stack)
    out = model.get_layer("out")
    out.kernel.assign([[1, 1], [0, 0], [0, 0], [0, 0]])
    out.enable_lora(1)
    out.lora_kernel_a.assign([[0], [1], [0], [0]])
    assert [row.kept for row in plan_shrink(model).rows] == [2, 2]


def test_statistics_of_normalization_go_with_their_channels():
    image = keras.Input((4, 4, 1))
    x = layers.Conv2D(3, 1, name="conv")(image)
    model = keras.Model(image, layers.Conv2D(1, 1)(layers.BatchNormalization(name="norm")(x)))
    model.get_layer("conv").kernel.assign(np.array([3.0, 1, 2]).reshape(1, 1, 1, 3))
    model.get_layer("norm").set_weights([np.arange(3.0) + shift for shift in (0, 10, 20, 30)])
    smaller = shrink(model, plan_shrink(model, 1 / 3))
    assert [weight.tolist() for weight in smaller.get_layer("norm").get_weights()] == [
        *([0, 2], [10, 12]),
        *([20, 22], [30, 32]),
    ]


def test_the_smaller_model_is_saved_and_loaded_without_tfprune(tmp_path):
    model = RandomGraph(7).images()
    smaller = shrink(model, plan_shrink(model, 0.5))
    smaller.save(tmp_path / "small.keras")
    assert b"tfprune" not in zipfile.ZipFile(tmp_path / "small.keras").read("config.json")  # which names all classes
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(loaded(data_for(model)), smaller(data_for(model)), atol=1e-6)


@pytest.mark.programs
def test_the_smaller_model_is_exported(tmp_path):
    model = RandomGraph(7).images()
    smaller = shrink(model, plan_shrink(model, 0.5))
    to_tflite(smaller, tmp_path / "small.tflite", optimize="dense")
    images = data_for(model)
    np.testing.assert_allclose(Runner(tmp_path / "small.tflite").predict(images), smaller(images), atol=1e-5)


def test_a_wrapped_model_shrinks_with_its_masks_applied():
    model = RandomGraph(2).vectors()
    wrapped = tfprune.wrap(model)
    tfprune.update_masks(wrapped, 0.3)
    plan = plan_shrink(wrapped, 0.3)
    smaller = check_equal(tfprune.strip(wrapped), plan)
    np.testing.assert_allclose(smaller(data_for(model)), shrink(wrapped, plan)(data_for(model)), atol=1e-6)


def test_the_model_is_left_untouched_and_the_copy_trains():
    model = RandomGraph(5).images()
    before = model.get_weights()
    smaller = shrink(model, plan_shrink(model, 0.5))
    smaller.compile("sgd", "mse")
    data = data_for(model, 8)
    assert np.isfinite(smaller.fit(data, np.zeros((8, 3)), verbose=0).history["loss"][0])
    assert all(np.array_equal(one, other) for one, other in zip(model.get_weights(), before, strict=True))
    assert [layer.name for layer in smaller.layers] == [layer.name for layer in model.layers]


def test_layers_keep_what_they_were_made_with():
    stack = [
        keras.Input((8,)),
        layers.Dense(6, activation="relu", kernel_regularizer="l2", name="hidden", dtype="mixed_bfloat16"),
        layers.Dense(2, name="out"),
    ]
    model = keras.Sequential(stack)
    model.get_layer("hidden").trainable = False
    hidden = shrink(model, plan_shrink(model, 0.5)).get_layer("hidden")
    assert (hidden.units, hidden.trainable, hidden.dtype_policy.name) == (3, False, "mixed_bfloat16")
    assert isinstance(hidden.kernel_regularizer, keras.regularizers.L2)


@pytest.mark.parametrize("act", [shrink, zero_channels])
def test_what_is_no_plan_is_refused(act):
    message = r"Received: plan=0.5 of type float\. Make one with tfprune\.plan_shrink\(model, 0\.5\)\."
    with pytest.raises(TypeError, match=message):
        act(RandomGraph(1).vectors(), 0.5)


def test_a_plan_for_another_model_is_refused():
    model, other = RandomGraph(1).vectors(), RandomGraph(4).vectors()
    plan = plan_shrink(model, 0.5)
    for act in (shrink, zero_channels):
        with pytest.raises(ValueError, match="Expected the model that the plan was made for.*these layers differ: "):
            act(other, plan)
    smaller = shrink(model, plan)
    with pytest.raises(ValueError, match="Make a plan for this model"):
        shrink(smaller, plan)
