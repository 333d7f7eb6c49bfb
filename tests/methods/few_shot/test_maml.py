"""MAML: inner steps that NumPy takes, too, and an outer gradient that flows through them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune

GENERATOR = np.random.default_rng(0)
X, Y = GENERATOR.normal(size=(12, 3)).astype("float32"), np.arange(12) % 2
TASKS = tfprune.few_shot.Episodes(X, Y, ways=2, shots=2, queries=2, episodes=1)
TASK = next(iter(TASKS))
RATE, STEPS = 0.5, 3


def classifier():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False)])


def adapted(weight):
    """Take gradient steps of softmax regression on the support set in NumPy; return the queries' logits."""
    x, y = TASK.x[:4].astype(float), np.eye(2)[TASK.y[:4]]
    for _ in range(STEPS):
        scores = np.exp(x @ weight)
        weight = weight - RATE * x.T @ (scores / scores.sum(axis=1, keepdims=True) - y) / len(x)
    return TASK.x[4:] @ weight


def outer_loss(weight):
    logits = adapted(weight)
    return np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(4), TASK.y[4:]])


def test_inner_steps_are_those_of_numpy_and_the_model_stays():
    learner, model = tfprune.few_shot.MAML(learning_rate=RATE, steps=1, test_steps=STEPS), classifier()
    before = model.get_weights()[0]
    logits = learner.logits(learner.headed(model, TASKS), TASKS)(TASK.x, TASK.y, False)
    np.testing.assert_allclose(logits, adapted(before.astype(float)), rtol=1e-4)
    assert np.abs(logits - TASK.x[4:] @ before).max() > 0.1
    np.testing.assert_array_equal(model.get_weights()[0], before)


def test_the_outer_gradient_flows_through_the_inner_steps():
    learner, model = tfprune.few_shot.MAML(learning_rate=RATE, steps=STEPS), classifier()
    of_queries = learner.logits(learner.headed(model, TASKS), TASKS)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as tape:
        value = loss(TASK.y[4:], of_queries(TASK.x, TASK.y, True))
    (gradient,) = tape.gradient(value, model.trainable_variables)
    weight, numeric = model.get_weights()[0].astype(float), np.zeros((3, 2))
    for index in np.ndindex(3, 2):
        step = np.zeros((3, 2))
        step[index] = 1e-5
        numeric[index] = (outer_loss(weight + step) - outer_loss(weight - step)) / 2e-5
    np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=1e-5)


def test_a_classifier_is_pruned_and_trained():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    stages = [tfprune.few_shot.FewShotStage(tfprune.budget(parameters=0.5), episodes=2, learning_rate=0.01)]
    learner = tfprune.few_shot.MAML(learning_rate=RATE, steps=1)
    smaller, report = tfprune.few_shot.prune_few_shot(model, TASKS, stages=stages, learner=learner, verbose=0)
    assert smaller.output_shape == (None, 2) and smaller.count_params() <= model.count_params() / 2
    assert len(report.accuracies) == 1


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="`steps` to be an integer of at least 1"):
        tfprune.few_shot.MAML(steps=0)
