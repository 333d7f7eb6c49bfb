"""The choice of a concept trace, reached gradually while a model trains."""

import json

import keras
import numpy as np
import pytest

import tfprune
from tfprune.criteria import Criterion, Evidence, UnitScores

layers = keras.layers


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


@pytest.fixture(scope="module")
def planned():
    keras.utils.set_random_seed(0)
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(24, "relu", name="first")], name="inner")
    model = keras.Sequential([keras.Input((8,)), inner, layers.Dense(16, "relu", name="second"), layers.Dense(2)])
    x = normal(2000, 8)
    y = (x[:, 0] > 0).astype(int)
    rules = tfprune.concepts.concept_rules(model, x, {"right": x[:, 0] > 0, "up": x[:, 1] > 0})
    plan, trace = tfprune.concepts.plan_concepts(model, rules, require=["right"], min_precision=0.6, min_recall=0.3)
    return model, x, y, plan, trace


def fitted(model, x, y, plan, trace):
    wrapped = tfprune.wrap(model, criterion=trace.criterion(), pattern="channel")
    wrapped.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    schedule = tfprune.schedules.Polynomial(0.5, end=0.8)
    callback = tfprune.PruningCallback(schedule, every=2, allocation=plan.allocation())
    history = wrapped.fit(x, y, batch_size=40, epochs=3, callbacks=[callback], verbose=0)
    return wrapped, history.history["sparsity"]


@pytest.mark.programs
def test_training_ends_with_the_units_that_the_plan_keeps(planned):
    model, x, y, plan, trace = planned
    wrapped, sparsity = fitted(model, x, y, plan, trace)
    assert sparsity == sorted(sparsity) and sparsity[0] < sparsity[-1]
    reached = tfprune.plan_shrink(wrapped)
    np.testing.assert_array_equal(reached.keep, plan.keep)
    small = tfprune.shrink(wrapped, reached)
    assert small.count_params() == plan.parameters_kept < model.count_params()
    np.testing.assert_allclose(small.predict(x, verbose=0), wrapped.predict(x, verbose=0), atol=1e-5)


def test_a_wrapped_model_is_saved_with_the_scores(planned, tmp_path):
    model, *_, trace = planned
    wrapped = tfprune.wrap(model, criterion=trace.criterion(), pattern="channel")
    wrapped.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("second").criterion == trace.criterion() == wrapped.get_layer("second").criterion
    assert hash(trace.criterion()) == hash(loaded.get_layer("second").criterion)
    config = json.loads(json.dumps(trace.criterion().get_config()))
    assert UnitScores.from_config(config) == trace.criterion()


def test_units_rank_by_their_scores_and_then_by_magnitude():
    weight = np.array([[5.0, 0.1, -9.0, 1.0], [1.0, 0.2, 3.0, 1.0]], np.float32)
    scores = UnitScores({"a/kernel": [0, 1, 0, 1]})(Evidence(weight, "a/kernel", "io"))
    assert scores.shape == weight.shape
    assert np.argsort(scores.mean(axis=0)).tolist() == [0, 2, 1, 3]
    others = UnitScores({"a/kernel": [0, 1, 0, 1]})(Evidence(weight, "b/kernel", "io"))
    assert np.array_equal(np.argsort(others, axis=None), np.argsort(np.abs(weight), axis=None))
    assert isinstance(UnitScores({}), Criterion)


@pytest.mark.parametrize("scores", [3, {"a": 1}, {"a": ["x"]}, [1, 2]])
def test_scores_of_other_kinds_are_refused(scores):
    with pytest.raises(TypeError, match="Expected `scores` to be a dict from paths of weights to numbers"):
        UnitScores(scores)
