"""Functions with gradients that TFLite has. The truth is TensorFlow's own functions, and their gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfprune.export.keras_side.trainable_forms import register_gradients, trainable_dropout, trainable_forms

# As the converter refuses them: https://github.com/tensorflow/tensorflow/issues/55748, and those of its kin.
REFUSED = {
    *("ReluGrad", "Relu6Grad", "EluGrad", "LeakyReluGrad", "SoftsignGrad", "Conv2DBackpropFilter", "MaxPoolGrad"),
    *("DepthwiseConv2dNativeBackpropFilter", "DepthwiseConv2dNativeBackpropInput", "AvgPoolGrad", "StridedSliceGrad"),
    *("Conv3DBackpropFilterV2", "MaxPool3DGrad", "AvgPool3DGrad", "ResizeBilinearGrad", "StatelessRandomUniformV2"),
}
IMAGE, TEXT, VOLUME = (9, 8, 4), (12, 6), (5, 6, 7, 2)
CASES = {
    "convolution": (IMAGE, lambda: layers.Conv2D(6, 3, activation="relu")),
    "stride": (IMAGE, lambda: layers.Conv2D(6, (3, 2), strides=2, padding="same", activation="relu6")),
    "one entry, stride": (IMAGE, lambda: layers.Conv2D(6, 1, strides=2, activation="elu")),
    "dilation": (IMAGE, lambda: layers.Conv2D(6, 3, dilation_rate=2, padding="same", activation="gelu")),
    "channels first": (IMAGE, lambda: layers.Conv2D(6, 3, data_format="channels_first")),
    "causal": (TEXT, lambda: layers.Conv1D(8, 3, padding="causal", activation="leaky_relu")),
    "volume": (VOLUME, lambda: layers.Conv3D(4, 3, strides=2, padding="same")),
    "depthwise": (IMAGE, lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2, padding="same")),
    "depthwise, 1D": (TEXT, lambda: layers.DepthwiseConv1D(3, activation="softsign")),
    "separable": (IMAGE, lambda: layers.SeparableConv2D(6, 3, dilation_rate=2, padding="same")),
    "transposed": (IMAGE, lambda: layers.Conv2DTranspose(6, 3, strides=2, padding="same")),
    "transposed, valid": (IMAGE, lambda: layers.Conv2DTranspose(6, (2, 3), strides=(2, 3))),
    "transposed, 1D": (TEXT, lambda: layers.Conv1DTranspose(6, 4, strides=2)),
    "max": (IMAGE, lambda: layers.MaxPooling2D(3, strides=2, padding="same")),
    "max, valid": (IMAGE, lambda: layers.MaxPooling2D((2, 3))),
    "mean": (IMAGE, lambda: layers.AveragePooling2D(3, strides=2, padding="same")),
    "mean, volume": (VOLUME, lambda: layers.AveragePooling3D(2)),
    "crop": (IMAGE, lambda: layers.Cropping2D(((1, 2), (0, 3)))),
    "bilinear": (IMAGE, lambda: layers.UpSampling2D((2, 3), interpolation="bilinear")),
    "repeated": (IMAGE, lambda: layers.UpSampling2D((2, 3))),
    "nearest": (IMAGE, lambda: layers.Resizing(5, 11, interpolation="nearest")),
}


def gradients_of(layer, x, *, forms):
    """Return the output, the gradients of a random sum of it, and the operations of the graph."""

    @tf.function
    def run(x):
        weights = [tf.convert_to_tensor(each.value) for each in layer.trainable_variables]
        with trainable_forms(tf) if forms else tf.name_scope("plain"):
            y = layer.stateless_call(weights, [], x)[0]
            loss = tf.reduce_sum(y * np.random.default_rng(1).standard_normal(y.shape).astype(np.float32))
            return y, tf.gradients(loss, [x, *weights])

    traced = run.get_concrete_function(tf.TensorSpec(x.shape, x.dtype))
    return (*traced(tf.constant(x)), {each.type for each in traced.graph.get_operations()})


@pytest.mark.parametrize("name", CASES)
def test_a_layer_and_its_gradients_are_those_of_tensorflow(name):
    register_gradients(tf)
    keras.utils.set_random_seed(0)
    shape, build = CASES[name]
    layer = build()
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    layer.build(x.shape)
    wanted, expected, _ = gradients_of(layer, x, forms=False)
    output, gradients, operations = gradients_of(layer, x, forms=True)
    for one, other in zip([output, *gradients], [wanted, *expected], strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-6 * max(1, np.abs(other).max()))
    assert not operations & REFUSED


def test_a_convolution_in_groups_is_that_of_numpy():
    register_gradients(tf)
    x = np.random.default_rng(0).standard_normal((2, 6, 5, 4)).astype(np.float32)
    kernel = np.random.default_rng(1).standard_normal((3, 2, 2, 6)).astype(np.float32)
    with tf.Graph().as_default(), trainable_forms(tf):
        output = tf.nn.convolution(tf.constant(x), tf.constant(kernel), 1, "VALID")
        with tf.compat.v1.Session() as session:
            given = session.run(output)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 2), axis=(1, 2))
    parts = zip(np.split(windows, 2, axis=3), np.split(kernel, 2, axis=3), strict=True)
    wanted = [np.einsum("nhwcij,ijcf->nhwf", *part) for part in parts]
    np.testing.assert_allclose(given, np.concatenate(wanted, axis=-1), atol=1e-5)


def test_gelu_is_exact_to_six_digits_and_its_gradient_to_five():
    x = np.linspace(-6, 6, 4001, dtype=np.float32)
    for approximate in (False, True):
        with tf.GradientTape() as tape:
            value = tf.constant(x)
            tape.watch(value)
            wanted = tf.nn.gelu(value, approximate)
        expected = tape.gradient(wanted, value)
        with tf.Graph().as_default(), trainable_forms(tf):
            own = tf.constant(x)
            output = tf.nn.gelu(own, approximate)
            with tf.compat.v1.Session() as session:
                given, slope = session.run([output, tf.gradients(output, own)[0]])
        np.testing.assert_allclose(given, wanted, atol=1e-6)
        np.testing.assert_allclose(slope, expected, atol=1e-5)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_dropout_leaves_out_its_share_anew_in_each_step_and_layer(rate):
    x, masks = tf.ones((64, 100)), []
    for seed in range(4):
        with trainable_dropout(tf, tf.constant([seed])):
            for _ in range(2):
                output = tf.nn.experimental.stateless_dropout(x, rate, seed=[0, 0]).numpy()
                assert set(np.unique(output)) <= {np.float32(0), np.float32(1 / (1 - rate))}
                masks.append(output.ravel() > 0)
    shares = np.mean(masks, axis=1)
    limit = 5 * np.sqrt(rate * (1 - rate) / x.shape.num_elements())
    assert np.abs(shares - (1 - rate)).max() < limit
    pairs = np.corrcoef(masks)[np.triu_indices(len(masks), 1)]
    assert np.abs(pairs).max() < 5 / np.sqrt(x.shape.num_elements())


def test_functions_are_put_back():
    before = tf.nn.convolution, tf.nn.relu, tf.image.resize, tf.nn.experimental.stateless_dropout
    with pytest.raises(KeyError), tf.Graph().as_default(), trainable_forms(tf):
        assert tf.nn.relu is not before[1]
        raise KeyError
    assert before == (tf.nn.convolution, tf.nn.relu, tf.image.resize, tf.nn.experimental.stateless_dropout)
