"""Masks hold through meta-training: inner steps on functional weights, second order, outer steps."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune

GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((2, 12, 6)).astype(np.float32)  # support and queries
Y = GENERATOR.integers(0, 3, (2, 12))
RATE = 0.3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(units: int = 8) -> keras.Model:
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(units, activation="tanh", name="hidden"), keras.layers.Dense(3, name="out")]
    return keras.Sequential([keras.Input((6,)), *layers])


def pruned(pattern="unstructured"):
    model = tfprune.wrap(network(), pattern=pattern)
    tfprune.update_masks(model, 0.5)
    return model


def masks_of(model):
    """Return a mask for each trainable variable."""
    masks = {id(layer.kernels["kernel"].variable): np.asarray(layer.masks["kernel"]) for layer in model.layers}
    return [masks.get(id(variable), np.ones(variable.shape, bool)) for variable in model.trainable_variables]


def adapted(model, steps, *, training=True):
    """Return the query loss after some inner steps, the adapted weights, and the meta-gradient."""
    with tf.GradientTape() as outer:
        fast = [variable.value for variable in model.trainable_variables]
        others = [variable.value for variable in model.non_trainable_variables]
        outer.watch(fast)
        start = fast
        for _ in range(steps):
            with tf.GradientTape() as inner:
                inner.watch(fast)
                loss = LOSS(Y[0], model.stateless_call(fast, others, X[0], training=training)[0])
            fast = [w - RATE * g for w, g in zip(fast, inner.gradient(loss, fast), strict=True)]
        query = LOSS(Y[1], model.stateless_call(fast, others, X[1], training=training)[0])
    return float(query), [w.numpy() for w in fast], outer.gradient(query, start)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("pattern", ["unstructured", "channel"])
def test_masked_weights_stay_zero_in_adapted_weights_and_get_no_meta_gradient(pattern, training):
    model = pruned(pattern)
    _, fast, gradients = adapted(model, 3, training=training)
    assert sum((~mask).sum() for mask in masks_of(model)) >= 24
    for mask, weight, gradient in zip(masks_of(model), fast, gradients, strict=True):
        assert not weight[~mask].any() and not gradient.numpy()[~mask].any()
        assert weight[mask].any() and gradient.numpy()[mask].any()


def test_adapting_equals_that_of_the_smaller_model():
    """The independent truth: a plain model without the masked units has the same loss and the same meta-gradient."""
    model = pruned("channel")
    plan = tfprune.plan_shrink(model)
    small = tfprune.shrink(model, plan)
    assert small.count_params() < model.count_params()
    (loss, _, gradients), (expected, _, small_gradients) = adapted(model, 3), adapted(small, 3)
    assert loss == pytest.approx(expected, rel=1e-5)
    kept = masks_of(model)[0].any(axis=0)
    np.testing.assert_allclose(gradients[0].numpy()[:, kept], small_gradients[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradients[2].numpy()[kept], small_gradients[2], rtol=1e-4, atol=1e-6)


def test_the_second_order_is_in_the_meta_gradient():
    """One step on a masked linear model with a squared error: d loss / d w = M (I - rate * H M) g, by NumPy."""
    model = tfprune.wrap(keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, use_bias=False, name="out")]))
    tfprune.update_masks(model, 0.5)
    layer = model.layers[0]
    others = [variable.value for variable in model.non_trainable_variables]
    mask = np.asarray(layer.masks["kernel"]).astype(float)
    goals = GENERATOR.standard_normal((2, 12, 1)).astype(np.float32)
    start = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape() as outer:
        outer.watch(start)
        with tf.GradientTape() as inner:
            inner.watch(start)
            loss = tf.reduce_mean((model.stateless_call(start, others, X[0], training=True)[0] - goals[0]) ** 2)
        fast = [w - RATE * g for w, g in zip(start, inner.gradient(loss, start), strict=True)]
        query = tf.reduce_mean((model.stateless_call(fast, others, X[1], training=True)[0] - goals[1]) ** 2)
    gradient = outer.gradient(query, start)[0].numpy()
    w, hessian = start[0].numpy(), 2 * X[0].T @ X[0] / 12
    after = w - RATE * mask * (2 * X[0].T @ (X[0] @ w - goals[0]) / 12)
    first_order = mask * (2 * X[1].T @ (X[1] @ after - goals[1]) / 12)
    expected = mask * (first_order - RATE * hessian @ (mask * first_order))
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5)
    assert np.abs(expected - first_order).max() > 0.01


def test_the_number_of_inner_steps_changes_the_query_loss():
    """The public code of PMP-DACIS does not use the adapted weights: its inner loop does nothing."""
    losses = [adapted(pruned(), steps)[0] for steps in (0, 1, 5)]
    assert len(set(losses)) == 3


@pytest.mark.parametrize("optimizer", ["adam", keras.optimizers.SGD(0.1, momentum=0.9), "adamw"])
def test_zeros_stay_zero_after_every_outer_step(optimizer):
    """The public code applies masks before the step of the optimizer: pruned weights come back."""
    model, optimizer = pruned(), keras.optimizers.get(optimizer)
    before = model.get_weights()
    for _ in range(5):
        _, _, gradients = adapted(model, 2)
        optimizer.apply(gradients, model.trainable_variables)
        for mask, variable in zip(masks_of(model), model.trainable_variables, strict=True):
            assert not variable.numpy()[~mask].any()
    assert any((old != new).any() for old, new in zip(before, model.get_weights(), strict=True))


def test_the_smaller_model_is_a_smaller_file_that_reloads_and_fits_no_other_model(tmp_path):
    """The public code skips what does not fit, and so restores the whole model without a word."""
    model = network(512)
    small = tfprune.shrink(model, tfprune.plan_shrink(model, 0.5))
    for name, each in (("dense", model), ("small", small)):
        each.save_weights(tmp_path / f"{name}.weights.h5")
        each.save(tmp_path / f"{name}.keras")
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes["small.keras"] < sizes["dense.keras"] and sizes["small.weights.h5"] < sizes["dense.weights.h5"]
    again = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(again(X[0]), small(X[0]))
    with pytest.raises(ValueError, match=r"shape"):
        small.load_weights(tmp_path / "dense.weights.h5")
