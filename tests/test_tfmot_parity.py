"""Side by side in one process: tfmot on tf_keras and tfprune on Keras 3, the same weights, the same masks."""

from __future__ import annotations

import os
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfprune
from tfprune.schedules import Constant, Polynomial

SPARSITIES = [0.0, 0.1, 0.333, 0.5, 0.75, 0.9, 0.99]
SHAPES = {"dense": (13, 8), "conv1d": (3, 5, 4), "conv2d": (3, 3, 4, 5), "conv2d_transpose": (3, 3, 5, 4)}
MAKERS = {
    "dense": lambda library: (library.layers.Dense(8), (None, 13)),
    "conv1d": lambda library: (library.layers.Conv1D(4, 3), (None, 9, 5)),
    "conv2d": lambda library: (library.layers.Conv2D(5, 3), (None, 9, 9, 4)),
    "conv2d_transpose": lambda library: (library.layers.Conv2DTranspose(5, 3), (None, 9, 9, 4)),
}


@pytest.fixture(scope="module")
def tfmot():
    """Import tfmot, which turns the process to Keras 2, and turn what it changed back."""
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    pytest.importorskip("tf_keras", reason="tf_keras is not installed: pip install tfprune[tfmot]")
    try:
        import tensorflow_model_optimization
    except ImportError as error:
        pytest.skip(f"tensorflow-model-optimization is not installed or does not load: {error}")
    yield tensorflow_model_optimization
    if before is None:
        os.environ.pop("TF_USE_LEGACY_KERAS", None)


def weights(kind: str) -> np.ndarray:
    """Return weights without ties."""
    size = int(np.prod(SHAPES[kind]))
    values = np.random.default_rng(size).permutation(np.arange(1, size + 1)).astype("float32") / size
    signs = np.random.default_rng(0).choice([-1, 1], size=size)
    return (values * signs).reshape(SHAPES[kind])


def their_mask(tfmot, kind: str, sparsity: float) -> np.ndarray:
    layer, shape = MAKERS[kind](sys.modules["tf_keras"])
    schedule = tfmot.sparsity.keras.ConstantSparsity(sparsity, 0, frequency=1)
    wrapper = tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule)
    wrapper.build(shape)
    layer.kernel.assign(weights(kind))
    wrapper.pruning_step.assign(0)
    wrapper.pruning_obj.conditional_mask_update()
    ((_, mask, _),) = wrapper.pruning_vars
    return mask.numpy()


def our_mask(kind: str, sparsity: float) -> np.ndarray:
    layer, shape = MAKERS[kind](keras)
    layer.build(shape)
    layer.kernel.assign(weights(kind))
    pruned = tfprune.wrap(layer)
    tfprune.update_masks(pruned, sparsity)
    return pruned.masks["kernel"].numpy()


@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("kind", MAKERS)
def test_masks_are_equal_entry_by_entry(tfmot, kind, sparsity):
    theirs, ours = their_mask(tfmot, kind, sparsity), our_mask(kind, sparsity)
    size = ours.size
    kept = max(int(np.rint(size * (1 - sparsity))), 1)
    assert np.count_nonzero(theirs) == kept
    if size - round(sparsity * size) != kept:  # a half rounds to the even number: of zeros here, of survivors there
        pytest.fail(f"choose a sparsity whose counts do not end on a half: {sparsity} of {size}")
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_polynomial_schedules_are_equal(tfmot, power):
    theirs = tfmot.sparsity.keras.PolynomialDecay(0.2, 0.9, 100, 1100, power=power, frequency=50)
    ours = Polynomial(0.9, begin=100, end=1100, initial=0.2, power=power)
    for step in range(100, 1101, 50):
        is_due, sparsity = theirs(tf.constant(step, tf.int64))
        assert bool(is_due)
        assert ours(step) == pytest.approx(float(sparsity), abs=1e-6)
        assert ours.last_update(step - 1, step, 50) == step
    for step in (99, 125, 1099):
        assert not bool(theirs(tf.constant(step, tf.int64))[0])
        assert ours.last_update(step - 1, step, 50) is None


def test_constant_schedules_are_equal(tfmot):
    theirs, ours = tfmot.sparsity.keras.ConstantSparsity(0.6, 10, 40, frequency=10), Constant(0.6, begin=10, end=40)
    for step in range(1, 60):
        is_due, sparsity = theirs(tf.constant(step, tf.int64))
        due = ours.last_update(step - 1, step, 10)
        assert bool(is_due) == (due == step)
        if bool(is_due):
            assert ours(step) == pytest.approx(float(sparsity))


def test_stripped_weights_are_equal(tfmot):
    kernel = weights("dense")
    tf_keras = sys.modules["tf_keras"]
    schedule = tfmot.sparsity.keras.ConstantSparsity(0.75, 0, frequency=1)
    theirs = tf_keras.Sequential([tf_keras.layers.Dense(8, input_shape=(13,))])
    theirs.layers[0].kernel.assign(kernel)
    pruned = tfmot.sparsity.keras.prune_low_magnitude(theirs, pruning_schedule=schedule)
    wrapper = pruned.layers[0]
    wrapper.pruning_step.assign(0)
    wrapper.pruning_obj.conditional_mask_update()
    wrapper.pruning_obj.weight_mask_op()
    stripped = tfmot.sparsity.keras.strip_pruning(pruned)
    ours = keras.Sequential([keras.Input((13,)), layers.Dense(8)])
    ours.layers[0].kernel.assign(kernel)
    ours = tfprune.wrap(ours)
    tfprune.update_masks(ours, 0.75)
    np.testing.assert_array_equal(tfprune.strip(ours).layers[0].kernel, stripped.layers[0].kernel.numpy())
