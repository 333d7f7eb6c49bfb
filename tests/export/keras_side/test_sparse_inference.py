"""What a user is told about sparse kernels, for a model and for a file."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tfprune
from tfprune.export.file.xnnpack import SPARSE_THRESHOLD
from tfprune.export.keras_side.ask import sparse_inference


def network(strides_padding="valid"):
    """A small MobileNet; with "same" as `keras.applications` writes it, which XNNPACK does not take."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    image = x = keras.Input((12, 12, 3), name="image")
    if strides_padding == "valid":
        x = layers.ZeroPadding2D(1, name="stem_pad")(x)
    x = layers.Conv2D(8, 3, 2, strides_padding, use_bias=False, name="stem")(x)
    x = layers.ReLU(6.0, name="stem_relu")(layers.BatchNormalization(name="stem_bn")(x))
    x = layers.Conv2D(16, 1, use_bias=False, name="expand")(x)
    x = layers.ReLU(6.0, name="expand_relu")(layers.BatchNormalization(name="expand_bn")(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.ReLU(6.0, name="depthwise_relu")(layers.BatchNormalization(name="depthwise_bn")(x))
    x = layers.Conv2D(24, 1, name="project")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(5, activation="softmax", name="classes")(x))


def prune(model, fraction):
    data = np.random.default_rng(2)
    for name in ("expand", "project"):
        kernel = model.get_layer(name).kernel
        order = data.permutation(kernel.numpy().size).reshape(kernel.shape)
        kernel.assign(kernel * (order >= round(fraction * kernel.numpy().size)))
    return model


def convert(model):
    import tensorflow as tf

    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


@pytest.fixture(scope="module")
def untrained():
    return sparse_inference(network())


@pytest.fixture(scope="module")
def refused():
    return sparse_inference(prune(network("same"), 0.9))


def test_zeros_to_come_are_not_held_against_an_untrained_model(untrained):
    assert untrained.eligible
    assert not untrained.active
    assert untrained.sparsity == 0
    assert untrained.needed == SPARSE_THRESHOLD
    assert untrained.reasons == ("more than 66.7% of the 1x1 kernels have to be zero; 0.0% are",)
    assert untrained.hazards == ()


def test_rows_carry_the_names_of_the_layers(untrained):
    assert [(row.name, row.kind, row.sparse) for row in untrained.rows] == [
        ("stem", "CONV_2D", True),
        ("expand", "CONV_2D", True),
        ("depthwise", "DEPTHWISE_CONV_2D", True),
        ("project", "CONV_2D", True),
        ("classes", "FULLY_CONNECTED", False),
    ]


def test_a_wrapped_model_is_judged_by_its_masks():
    model = tfprune.wrap(network())
    tfprune.update_masks(model, 0.8)
    report = sparse_inference(model)
    assert report.active
    assert report.sparsity == pytest.approx(0.8, abs=0.01)
    assert report.reasons == ()


def test_a_layer_in_the_way_is_named_with_what_to_do(refused):
    assert not refused.eligible
    assert not refused.active
    assert len(refused.reasons) == 1
    assert refused.reasons[0].startswith("stem (CONV_2D): padding='same' with strides")
    assert "make_sparse_ready" in refused.reasons[0]
    assert {row.name: row.sparse for row in refused.rows}["expand"] is False


def test_what_depends_on_a_refused_layer_says_on_which(refused):
    reasons = {row.name: row.reason for row in refused.rows}
    assert reasons["expand"].startswith("stem (CONV_2D)")
    assert reasons["stem"].startswith("padding='same'")


def test_a_file_with_dense_weights_is_eligible_but_not_active(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(convert(prune(network(), 0.9)))
    report = sparse_inference(path)
    assert report.eligible
    assert not report.active
    assert [reason.partition(",")[0] for reason in report.reasons] == ["the file holds no sparse weight"]
    assert report == sparse_inference(path.read_bytes())
    assert "expand" in report.rows[1].name


def test_a_sparse_file_is_active():
    from tfprune.export.rewriting.sparsify import sparsify

    # One of 600 kB: small files do not get smaller by sparse weights.
    report = sparse_inference(sparsify(wide()).data)
    assert report.eligible
    assert report.active
    assert report.reasons == ()


def wide():
    import keras
    from keras import layers

    keras.utils.set_random_seed(3)
    image = keras.Input((12, 12, 3))
    x = layers.Conv2D(16, 3, 2)(layers.ZeroPadding2D(1)(image))
    model = keras.Model(image, layers.GlobalAveragePooling2D()(layers.Conv2D(1024, 1, name="wide")(x)))
    kernel = model.get_layer("wide").kernel
    kernel.assign(kernel * (np.random.default_rng(4).random(kernel.shape) > 0.95))
    return convert(model)


def test_wrong_outputs_are_told_before_they_happen():
    import keras
    from keras import layers

    model = prune(network(), 0.9)
    pooled = layers.MaxPooling2D(name="between")(model.get_layer("depthwise_relu").output)
    model = keras.Model(model.input, model.get_layer("pool")(model.get_layer("project")(pooled)))
    report = sparse_inference(model)
    assert not report.eligible
    assert len(report.hazards) == 1
    assert report.hazards[0].startswith("between (MAX_POOL_2D)")
    assert "WRONG OUTPUTS" in str(report)


def test_a_model_without_images_says_so():
    import keras

    report = sparse_inference(keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(2)]))
    assert not report.eligible
    assert report.reasons == ("it has no 1x1 convolution behind a 3x3 convolution with stride 2 on 3 channels",)


def test_the_report_prints_as_a_table_and_turns_into_json(untrained):
    text = str(untrained)
    assert text.splitlines()[0] == "can run sparse   yes"
    assert "stem" in text
    assert "x86" in text
    assert json.loads(json.dumps(untrained.as_dict()))["rows"][0]["name"] == "stem"


@pytest.mark.parametrize("source", [3, None, np.zeros(3)])
def test_other_things_are_refused(source):
    with pytest.raises(TypeError, match="Expected a Keras model"):
        sparse_inference(source)


@pytest.mark.parametrize("source", [b"nonsense", b"\x1c\x00\x00\x00TFL3" + b"\xff" * 64])
def test_nonsense_is_refused(source):
    with pytest.raises(ValueError, match="Expected a"):
        sparse_inference(source)
