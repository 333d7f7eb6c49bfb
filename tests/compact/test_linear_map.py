"""A layer seen as a linear map gives what the layer gives."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest

from tfprune.compact.linear_map import NotLinear, linear_map

layers = keras.layers
MAPS = np.random.default_rng(0).normal(size=(2, 7, 6, 4)).astype("float32")
SERIES = MAPS[:, 0]

CONVOLUTIONS = [
    {"padding": padding, "strides": strides, "dilation_rate": rate, "groups": groups, "use_bias": use_bias}
    for padding, (strides, rate), groups, use_bias in itertools.product(
        ["same", "valid"], [(1, 1), (2, 1), (3, 1), (1, 2)], [1, 2], [True, False]
    )
]


def assert_gives_what_the_layer_gives(layer, *inputs, **arguments):
    layer(*inputs, **arguments)
    generator = np.random.default_rng(1)
    for weight in layer.weights:
        weight.assign(generator.normal(size=weight.shape))
    expected = keras.ops.convert_to_numpy(layer(*inputs, **arguments))
    view = linear_map(layer)
    found = np.einsum("gri,goi->rgo", view.inputs(*inputs, **arguments), view.weights())
    np.testing.assert_allclose(found.ravel(), expected.ravel(), atol=1e-5)
    before = [keras.ops.convert_to_numpy(weight) for weight in layer.weights]
    view.assign(view.weights())
    for weight, values in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(weight, values)


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_convolutions(options):
    assert_gives_what_the_layer_gives(layers.Conv2D(4, (3, 2), **options), MAPS)


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (layers.Dense(5), MAPS),
        (layers.Dense(5, use_bias=False), SERIES[:, 0]),
        (layers.Conv1D(3, 3, padding="causal", dilation_rate=2), SERIES),
        (layers.Conv3D(3, 2, strides=2, padding="same"), MAPS[..., np.newaxis]),
        (layers.DepthwiseConv1D(3), SERIES),
        (layers.DepthwiseConv2D(3, padding="same", strides=2, depth_multiplier=2), MAPS),
        (layers.DepthwiseConv2D(2, dilation_rate=2, use_bias=False), MAPS),
        (layers.EinsumDense("abcd,de->abce", (None, 6, 3), bias_axes="e"), MAPS),
        (layers.EinsumDense("abcd,cde->abe", (None, 3), bias_axes="e"), MAPS),
        (layers.EinsumDense("...cd,cde->...e", (3,)), MAPS),
        (layers.EinsumDense("abcd,def->abcef", (None, 6, 3, 2), bias_axes="ef"), MAPS),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_other_layers(layer, inputs):
    assert_gives_what_the_layer_gives(layer, inputs)


@pytest.mark.parametrize(
    "layer",
    [
        layers.MultiHeadAttention(3, 2, output_shape=2),  # fewer outputs than heads return
        layers.MultiHeadAttention(1, 2, use_bias=False),  # more
        layers.MultiHeadAttention(2, 3, value_dim=2, attention_axes=(1,)),
        layers.GroupQueryAttention(3, 4, 2),
    ],
)
def test_the_projection_of_attention(layer):
    assert_gives_what_the_layer_gives(layer, SERIES, SERIES, use_causal_mask=True)


def test_zeros_are_not_free_and_a_bias_is_where_anything_is():
    layer = layers.Dense(3)
    layer.build((None, 2))
    layer.set_weights([np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), np.zeros(3)])
    expected = [[[True, False, True], [False, True, True], [False, False, False]]]
    np.testing.assert_array_equal(linear_map(layer).free(), expected)


class Doubled(layers.Dense):
    def call(self, inputs):
        return 2 * super().call(inputs)


@pytest.mark.parametrize(
    ("layer", "shape", "reason"),
    [
        (Doubled(2), (None, 3), "Doubled computes something else than Dense"),
        (layers.LSTM(2), (None, 3, 3), "what the kernels of LSTM multiply"),
        (layers.EinsumDense("abc,bcd->abd", (2, 3)), (None, 2, 3), "more than a product"),
        (layers.EinsumDense("abc,cd->ad", (3,)), (None, 2, 3), "more than a product"),
        (layers.EinsumDense("abc,cd->abd", (2, 3), bias_axes="b"), (None, 2, 3), "bias_axes 'b'"),
    ],
)
def test_what_is_no_linear_map_says_why(layer, shape, reason):
    layer.build(shape)
    with pytest.raises(NotLinear, match=reason):
        linear_map(layer)


def test_lora_beside_the_kernel():
    layer = layers.Dense(4)
    layer.build((None, 4))
    layer.enable_lora(1)
    with pytest.raises(NotLinear, match="LoRA"):
        linear_map(layer)
