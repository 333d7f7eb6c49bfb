"""Concepts of real digits: what is required stays, what is not may go."""

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

import tfprune

layers = keras.layers
TRAINED = 1300
LOOPS = (0, 6, 8, 9)


@pytest.fixture(scope="module")
def data():
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype("float32"), labels


@pytest.fixture(scope="module")
def model(data):
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(256, "relu", name="first"), layers.Dense(128, "relu", name="second")]
    trained = keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10, name="class")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(keras.optimizers.Adam(0.002), loss, metrics=["accuracy"])
    trained.fit(data[0][:TRAINED], data[1][:TRAINED], epochs=12, verbose=0)
    return trained


def concepts_of(labels):
    return {f"is {digit}": labels == digit for digit in range(10)} | {"loop": np.isin(labels, LOOPS)}


def accuracies(model, data):
    """Return the accuracy on test images of each digit."""
    x, y = (part[TRAINED:] for part in data)
    right = model.predict(x, verbose=0).argmax(axis=1) == y
    return np.array([right[y == digit].mean() for digit in range(10)])


@pytest.mark.programs
def test_a_digit_that_is_not_required_may_be_lost_but_no_other(model, data):
    x, y = (part[:TRAINED] for part in data)
    rules = tfprune.concepts.concept_rules(model, x, concepts_of(y))
    require = [f"is {digit}" for digit in range(10) if digit != 7]
    plan, trace = tfprune.concepts.plan_concepts(
        model, rules, require=require, min_precision=0.5, min_recall=0.3, min_units=32
    )
    assert plan.parameters_kept < plan.parameters / 2
    assert not [rule for rule in trace.rules if rule.concept == "is 7"]
    smaller, _ = tfprune.prune_to(
        model, plan, (x, y), epochs=4, fine_tuning=tfprune.FineTuning(max_samples=128), verbose=0
    )
    fall = accuracies(model, data) - accuracies(smaller, data)
    counts = np.bincount(data[1][TRAINED:])
    assert np.average(np.delete(fall, 7), weights=np.delete(counts, 7)) <= 0.02
