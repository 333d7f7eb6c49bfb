"""The policy for XNNPACK: what it takes, what it names, and models in models."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import tfprune
from tfprune import tfmot
from tfprune.tfmot.prune import PruneLowMagnitude

pytestmark = pytest.mark.programs

sparsity = tfmot.sparsity.keras


def wrapped_in(model: keras.Model) -> list[str]:
    """Return the paths of the wrappers, also in nested models."""
    return [row.layer for row in tfprune.sparsity_report(model).rows]


def mobile(*middle, top: tuple = ()) -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2, name="stem")(layers.ZeroPadding2D(1)(inputs))
    for layer in (*middle, layers.GlobalAveragePooling2D(), *top):
        x = layer(x)
    return keras.Model(inputs, x)


def pointwise(*others) -> list:
    return [layers.Conv2D(8, 1, name="pointwise"), *others]


def functional(*stack) -> keras.Model:
    inputs = x = keras.Input((4, 4, 4))
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, x, name="block")


@pytest.mark.parametrize("nest", [lambda *stack: keras.Sequential(stack, name="block"), functional])
def test_the_policy_follows_nested_models(nest):
    policy = tfmot.PruneForLatencyOnXNNPack()
    pruned = sparsity.prune_low_magnitude(mobile(nest(*pointwise(layers.ReLU()))), pruning_policy=policy)
    assert wrapped_in(pruned) == ["block/pointwise"]
    policy.ensure_model_supports_pruning(pruned)
    for inside, after in (([layers.MaxPooling2D(name="pool")], []), ([], [layers.MaxPooling2D(name="pool")])):
        with pytest.raises(ValueError, match="'pool' of type MaxPooling2D"):
            sparsity.prune_low_magnitude(mobile(nest(*pointwise(*inside)), *after), pruning_policy=policy)


def test_stem_and_pool_may_stand_in_nested_models():
    stem = keras.Sequential([keras.Input((8, 8, 3)), layers.ZeroPadding2D(1), layers.Conv2D(4, 3, strides=2)])
    head = keras.Sequential([layers.GlobalAveragePooling2D(), layers.Dense(2)])
    model = keras.Sequential([keras.Input((8, 8, 3)), stem, *pointwise(), head])
    pruned = sparsity.prune_low_magnitude(model, pruning_policy=tfmot.PruneForLatencyOnXNNPack())
    assert wrapped_in(pruned) == ["pointwise"]


def test_a_model_of_which_the_policy_leaves_nothing_comes_back_plain_with_a_warning():
    model = mobile(layers.ReLU())
    with pytest.warns(
        UserWarning, match="PruneForLatencyOnXNNPack and the pattern leave none of its layers"
    ) as caught:
        copy = sparsity.prune_low_magnitude(model, pruning_policy=tfmot.PruneForLatencyOnXNNPack())
    assert caught[0].filename == __file__
    assert not any(isinstance(layer, PruneLowMagnitude) for layer in copy.layers)
    images = np.ones((1, 8, 8, 3), "float32")
    np.testing.assert_array_equal(copy(images), model(images))


DEPTHWISE = layers.DepthwiseConv2D
SUPPORTED = [
    [layers.ReLU(6.0)],
    [layers.LeakyReLU()],
    [layers.ELU()],
    [layers.Dropout(0.1)],
    [layers.BatchNormalization()],
    [layers.Activation("sigmoid")],
    [layers.UpSampling2D(interpolation="bilinear")],
    [DEPTHWISE(3, padding="same")],
    [DEPTHWISE(5, padding="same")],
    [layers.ZeroPadding2D(1), DEPTHWISE(3, strides=2)],
    [layers.ZeroPadding2D(2), DEPTHWISE(5)],
    [layers.Conv2D(4, 1)],
]
NOT_SUPPORTED = [
    [layers.Activation("tanh", name="fault")],
    [layers.UpSampling2D(name="fault")],
    [DEPTHWISE(3, padding="same", strides=2, name="fault")],
    [DEPTHWISE(3, name="fault")],
    [layers.ZeroPadding2D(2), DEPTHWISE(3, name="fault")],
    [DEPTHWISE(3, padding="same", depth_multiplier=2, name="fault")],
    [DEPTHWISE(3, padding="same", dilation_rate=2, name="fault")],
    [DEPTHWISE((1, 3), padding="same", name="fault")],
    [layers.Conv2D(4, 1, strides=2, name="fault")],
    [layers.Conv2D(4, 1, groups=2, name="fault")],
    [layers.Conv2D(4, 3, padding="same", name="fault")],
    [layers.LayerNormalization(name="fault")],
]


@pytest.mark.parametrize("middle", SUPPORTED, ids=lambda stack: stack[-1].name)
def test_the_policy_takes_what_xnnpack_runs(middle):
    tfmot.PruneForLatencyOnXNNPack().ensure_model_supports_pruning(mobile(*middle, top=[layers.Dense(2)]))


@pytest.mark.parametrize("middle", NOT_SUPPORTED, ids=range(len(NOT_SUPPORTED)))
def test_the_policy_names_what_it_does_not_run(middle):
    with pytest.raises(ValueError, match=f"'fault' of type {type(middle[-1]).__name__}"):
        tfmot.PruneForLatencyOnXNNPack().ensure_model_supports_pruning(mobile(*middle))


def test_branches_are_followed_and_sums_are_taken():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2)(layers.ZeroPadding2D(1)(inputs))
    x = layers.Multiply()([x + layers.Conv2D(4, 1, name="left")(x), layers.Conv2D(4, 1, name="right")(x)])
    outputs = [layers.Dense(2)(layers.GlobalAveragePooling2D()(x)), layers.GlobalAveragePooling2D()(layers.ReLU()(x))]
    policy = tfmot.PruneForLatencyOnXNNPack()
    pruned = sparsity.prune_low_magnitude(keras.Model(inputs, outputs), pruning_policy=policy)
    assert wrapped_in(pruned) == ["left", "right"]
    with pytest.raises(ValueError, match="every output"):
        policy.ensure_model_supports_pruning(keras.Model(inputs, [outputs[0], x]))


@pytest.mark.parametrize("thing", [None, "model", layers.Dense(3)])
def test_what_is_not_a_model_is_refused_by_the_policy(thing):
    with pytest.raises(TypeError, match="Expected a Keras model"):
        tfmot.PruneForLatencyOnXNNPack().ensure_model_supports_pruning(thing)
