"""A growing penalty on the channels of a plan: their norms, the outputs around the cut, and the accuracy after it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from tiers import first

import tfprune

RNG = np.random.default_rng(0)
X = RNG.normal(size=(512, 8)).astype("float32")
Y = (np.abs(X[:, :3]).argmax(axis=1)).astype("int32")


def classifier(kernel: str = "dense") -> keras.Model:
    keras.utils.set_random_seed(0)
    hidden = {
        "dense": [layers.Dense(24, "relu", name="hidden")],
        "conv": [
            layers.Reshape((4, 2, 1)),
            layers.Conv2D(12, 2, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(8, 1, activation="relu"),
            layers.Flatten(),
        ],
    }[kernel]
    model = keras.Sequential([keras.Input((8,)), *hidden, layers.Dense(3, name="out")])
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def trained(kernel: str = "dense", epochs: int = 6) -> keras.Model:
    model = classifier(kernel)
    model.fit(X, Y, epochs=epochs, verbose=0)
    return model


def accuracy(model: keras.Model) -> float:
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model.evaluate(X, Y, verbose=0)[1]


@pytest.mark.parametrize("steps", [1, 4])
def test_without_a_loss_entries_shrink_as_computed_and_the_others_stay(steps):
    model = classifier()
    model.compile(keras.optimizers.SGD(0.0), "mse", steps_per_execution=steps)
    before = {variable.path: variable.numpy() for variable in model.variables}
    plan = tfprune.plan_shrink(model, 0.5)
    model.fit(
        X[:80],
        np.zeros((80, 3)),
        batch_size=8,
        epochs=2,
        verbose=0,
        callbacks=[tfprune.research.GrowingPenalty(plan, remaining=0.01)],
    )
    (row,) = [row for row in plan.rows if row.group == "hidden"]
    assert row.kept == 12
    kept = np.isclose(model.get_layer("hidden").kernel, before[model.get_layer("hidden").kernel.path]).all(axis=0)
    assert kept.sum() == 12
    for name, removed in (("hidden", (slice(None), ~kept)), ("out", (~kept, slice(None)))):
        kernel = model.get_layer(name).kernel
        expected = before[kernel.path].copy()
        expected[removed] *= 0.01
        np.testing.assert_allclose(kernel, expected, rtol=1e-4)
    np.testing.assert_array_equal(model.get_layer("hidden").bias, before[model.get_layer("hidden").bias.path])


@pytest.mark.programs
@pytest.mark.parametrize("kernel", first("dense", "conv"))
def test_the_cut_changes_nothing_and_is_better_than_a_cut_at_once(kernel):
    model, plain = trained(kernel), trained(kernel)
    plan = tfprune.plan_shrink(model, 0.7)
    falling = keras.callbacks.LearningRateScheduler(lambda epoch: 0.01 * (1 - epoch / 10) ** 2)
    model.fit(X, Y, epochs=10, verbose=0, callbacks=[falling, tfprune.research.GrowingPenalty(plan)])
    plain.fit(X, Y, epochs=10, verbose=0, callbacks=[falling])
    small = tfprune.shrink(model, plan)
    np.testing.assert_allclose(small.predict(X, verbose=0), model.predict(X, verbose=0), atol=0.02)
    at_once = tfprune.shrink(plain, tfprune.plan_shrink(plain, 0.7))
    assert small.count_params() == at_once.count_params() < 0.6 * model.count_params()
    assert accuracy(small) > accuracy(at_once) + 0.05


def test_a_wrapped_model_and_a_frozen_layer():
    model = classifier()
    wrapped = tfprune.wrap(model, filters="out/")
    wrapped.get_layer("hidden").trainable = False
    wrapped.compile(keras.optimizers.SGD(0.0), "mse")
    plan = tfprune.plan_shrink(wrapped, 0.5)
    before = wrapped.get_layer("hidden").kernel.numpy()
    wrapped.fit(X, np.zeros((512, 3)), epochs=2, verbose=0, callbacks=[tfprune.research.GrowingPenalty(plan)])
    np.testing.assert_array_equal(wrapped.get_layer("hidden").kernel, before)
    assert (np.abs(wrapped.get_layer("out").layer.kernel).max(axis=1) < 1e-5).sum() == 12


def test_refusals():
    model = classifier()
    plan = tfprune.plan_shrink(model, 0.5)
    with pytest.raises(TypeError, match="Expected a plan"):
        tfprune.research.GrowingPenalty(model)
    with pytest.raises(ValueError, match="remaining=1"):
        tfprune.research.GrowingPenalty(plan, remaining=1)
    with pytest.raises(ValueError, match="that removes channels"):
        tfprune.research.GrowingPenalty(tfprune.plan_shrink(model, 0.0))
    with pytest.raises(ValueError, match="enough steps"):
        model.fit(X[:32], Y[:32], verbose=0, callbacks=[tfprune.research.GrowingPenalty(plan, remaining=1e-300)])
    other = classifier("conv")
    with pytest.raises(ValueError, match="the model that the plan was made for"):
        other.fit(X, Y, verbose=0, callbacks=[tfprune.research.GrowingPenalty(plan)])
