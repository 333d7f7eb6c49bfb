"""The gradients of outer steps: norms that NumPy finds too, and masks that change with their weight."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest

import tfprune
from tfprune.criteria import DACIS, Evidence
from tfprune.facts import ClassMoments

GENERATOR = np.random.default_rng(1)
X = GENERATOR.standard_normal((40, 8, 8, 1)).astype(np.float32)
LOSS = "sparse_categorical_crossentropy"
Y = GENERATOR.integers(0, 2, 40)


# A channel that DACIS keeps without them gets no gradient.
UPSIDE_DOWN = np.ones((3, 3, 1, 6)) * np.array([5, 0, 4, 3, 2, 1])


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(6, 3, name="conv"), keras.layers.GlobalAveragePooling2D()]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(2, name="out")])


def gradients(model, generator):
    return [generator.standard_normal(variable.shape) for variable in model.trainable_variables]


def recorded(model, steps=3):
    meta, generator = tfprune.few_shot.MetaGradients(model), np.random.default_rng(2)
    given = [gradients(model, generator) for _ in range(steps)]
    for step in given:
        meta.add(step)
    return meta, given


@pytest.mark.parametrize("wrap", [False, True])
def test_norms_are_means_over_steps_of_the_norm_of_an_output(wrap):
    model = tfprune.wrap(network()) if wrap else network()
    meta, given = recorded(model)
    norms = [np.linalg.norm(step[0].reshape(-1, 6), axis=0) for step in given]
    np.testing.assert_allclose(meta.norms()[0], np.mean(norms, axis=0))
    assert [norms is None for norms in meta.norms()] == [False, True, False, True]


def test_a_missing_gradient_counts_as_zero():
    model = network()
    meta = tfprune.few_shot.MetaGradients(model)
    meta.add([np.ones((3, 3, 1, 6)), None, None, None])
    meta.add([None] * 4)
    np.testing.assert_allclose(meta.norms()[0], np.full(6, 1.5))
    np.testing.assert_allclose(meta.norms()[2], np.zeros(2))


def test_dacis_by_hand_with_meta_gradients():
    moments = ClassMoments(3)
    moments.add(np.array([[1.0, 2, 9], [3, 6, 9], [2, 4, 9], [4, 8, 9]]), np.array([0, 0, 1, 1]))
    facts = {"output_moments": moments, "meta_gradient_norms": np.array([3.0, 1.0, 2.0])}
    plain = 0.2 * np.array([0.25, 1, 0]) + 0.5 * np.array([1, 1, 0])
    criterion = DACIS(gradient=0, meta=0.4)
    scores = criterion(Evidence(np.ones((1, 3)), "out/kernel", "io", facts))
    np.testing.assert_allclose(scores[0], plain * (1 + 0.4 * np.array([1, 0, 0.5])), rtol=1e-6)
    assert criterion.needs == ("output_moments", "meta_gradient_norms")


def test_another_gamma_plans_and_masks_other_channels():
    """The public code looks gradients up by names that no score has: gamma changes nothing there."""
    model = network()
    meta = tfprune.few_shot.MetaGradients(model)
    plans = []
    meta.add([UPSIDE_DOWN, None, None, None])
    for gamma in (0.0, 1e6):
        settings = {"criterion": DACIS(gradient=0, meta=gamma), "data": (X, Y), "filters": "conv"}
        plan = tfprune.plan_shrink(model, 0.5, **settings)
        plans.append(plan.keep[plan.network.groups[0].bundles].tolist())
    assert (plans[0][1], plans[1][1]) == (True, False)
    wrapped = tfprune.wrap(network(), criterion=DACIS(gradient=0, meta=1e6), pattern="channel")
    tfprune.few_shot.MetaGradients(wrapped).add([UPSIDE_DOWN, None, None, None])
    tfprune.update_masks(wrapped, 0.5, data=(X, Y))
    assert np.asarray(wrapped.get_layer("conv").masks["kernel"])[0, 0, 0].tolist() == plans[1]


def test_without_a_recorded_step_the_error_says_what_to_do():
    with pytest.raises(ValueError, match="no outer step was recorded: add\\(\\) the gradients of each to a tfprune"):
        tfprune.plan_shrink(network(), 0.5, criterion=DACIS(meta=0.1), data=(X, Y), loss=LOSS, filters="conv")


def test_gradients_of_another_model_are_refused_and_nothing_is_recorded():
    model = network()
    meta = tfprune.few_shot.MetaGradients(model)
    for wrong in ([np.ones((3, 3, 1, 6))], [np.ones((3, 3, 1, 5)), None, None, None]):
        with pytest.raises(ValueError, match="Expected one gradient for each of the 4 trainable variables"):
            meta.add(wrong)
    assert meta.norms() == [None] * 4


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("model", TypeError, "Expected a Keras model. Received: model='model' of type str."),
        (keras.layers.ReLU(name="relu"), ValueError, "Received: 'relu' without any. Build it first."),
    ],
)
def test_refusals(model, error, message):
    with pytest.raises(error, match=re.escape(message)):
        tfprune.few_shot.MetaGradients(model)
