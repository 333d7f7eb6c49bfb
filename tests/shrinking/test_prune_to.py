"""prune_to: rounds that end within the budget, each judged as the model was compiled."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

import tfprune
from tfprune import budget, prune_to

layers = keras.layers


@pytest.fixture(scope="module")
def data():
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype("float32"), labels


@pytest.fixture(scope="module")
def model(data):
    keras.utils.set_random_seed(1)
    stack = [
        keras.Input((64,)),
        layers.Dense(64, activation="relu", name="first"),
        layers.Dense(48, activation="relu"),
    ]
    trained = keras.Sequential([*stack, layers.Dense(10, name="class")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(keras.optimizers.Adam(0.003), loss, metrics=["accuracy"])
    trained.fit(data[0][:1200], data[1][:1200], epochs=8, verbose=0)
    return trained


@pytest.fixture(scope="module")
def pruned(model, data):
    x, y = data
    settings = {"validation_data": (x[1200:], y[1200:]), "metric": "accuracy", "epochs": 1, "verbose": 0}
    return prune_to(model, budget(flops=0.25), (x[:1200], y[:1200]), rounds=3, **settings)


def test_the_budget_is_approached_by_equal_steps(model, pruned):
    smaller, report = pruned
    total = 2 * (64 * 64 + 64 * 48 + 48 * 10)
    flops = [one.plan.flops_kept for one in report.rounds]
    for kept, part in zip(flops, (0.75, 0.5, 0.25), strict=True):
        assert 0.9 * part * total < kept <= part * total
    assert flops[-1] == tfprune.plan_shrink(smaller, 0.0).flops
    assert [one.plan.parameters for one in report.rounds[1:]] == [
        one.plan.parameters_kept for one in report.rounds[:-1]
    ]


def test_the_figures_are_those_of_evaluate(model, pruned, data):
    smaller, report = pruned
    x, y = (part[1200:] for part in data)
    assert report.before == pytest.approx(model.evaluate(x, y, verbose=0, return_dict=True)["accuracy"])
    after = np.mean(smaller.predict(x, verbose=0).argmax(axis=1) == y)
    assert report.rounds[-1].trained == pytest.approx(after)
    assert after > report.before - 0.03


def test_without_validation_data_all_of_the_first_samples_are_judged(model, data):
    x, y = data[0][:1000], data[1][:1000]
    smaller, report = prune_to(model, budget(flops=0.5), (x, y), rounds=1, epochs=0, samples=512, verbose=0)
    assert report.before == pytest.approx(model.evaluate(x[:512], y[:512], verbose=0)[0], rel=1e-5)
    assert report.rounds[0].trained == pytest.approx(smaller.evaluate(x[:512], y[:512], verbose=0)[0], rel=1e-5)


def test_reconstruction_wins_back_what_removal_lost(pruned):
    _, report = pruned
    last = report.rounds[-1]
    assert last.reconstructed - last.removed > 0.5 * (report.rounds[-2].trained - last.removed) > 0


def test_the_smaller_model_is_compiled_and_the_first_untouched(model, pruned):
    smaller, _ = pruned
    assert smaller.compiled and isinstance(smaller.optimizer, keras.optimizers.Adam)
    assert float(smaller.optimizer.learning_rate) == pytest.approx(0.003)
    assert model.get_layer("first").units == 64 and int(model.optimizer.iterations) == 8 * 38


def test_the_report_is_a_table_and_plain_data(pruned):
    _, report = pruned
    lines = str(report).splitlines()
    assert lines[0].split()[:3] == ["round", "FLOPs", "parameters"]
    assert [line.split()[0] for line in lines[2:]] == ["before", "1", "2", "3"]
    read = json.loads(json.dumps(report.as_dict()))
    assert read["rounds"][2]["trained"] == report.rounds[2].trained


def test_criteria_that_need_data_see_the_first_samples(model, data):
    settings = {"criterion": "wanda", "rounds": 1, "epochs": 0, "samples": 100, "verbose": 0}
    smaller, report = prune_to(model, budget(parameters=0.6), data, reconstruction="parallel", **settings)
    assert smaller.count_params() == report.rounds[0].plan.parameters_kept <= 0.6 * model.count_params()
    assert report.metric == "loss" and report.rounds[0].trained == pytest.approx(
        report.rounds[0].reconstructed, rel=1e-4
    )


def test_a_progress_bar_shows_the_metric(model, data, capsys):
    prune_to(model, budget(flops=0.8), data, rounds=1, epochs=0, samples=64, verbose=1)
    printed = capsys.readouterr().out
    assert "3/3" in printed and "loss" in printed and "FLOPs" in printed


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"budget": 0.5}, TypeError, r"Expected a budget, such as tfprune.budget\(flops=0.5\). Received: budget=0.5"),
        (
            {"budget": (1, 24)},
            TypeError,
            r"budget=\(1, 24\). transformer_budget returns two counts.*pass plan_shrink",
        ),
        ({"budget": budget(flops=2)}, ValueError, "where 2 are allowed"),
        ({"data": np.ones((4, 64))}, TypeError, r"Expected `data` to be a tuple \(x, y\)"),
        ({"data": (np.ones((0, 64)), np.ones(0))}, ValueError, "at least one sample"),
        ({"data": (np.ones((4, 63), "float32"), np.ones(4))}, ValueError, "inputs of shape"),
        ({"data": (np.full((4, 64), np.nan), np.ones(4))}, ValueError, "NaN or infinity"),
        ({"metric": "acc"}, ValueError, "`metric` among 'accuracy', 'loss'. Received: metric='acc'"),
        ({"rounds": 0}, ValueError, "`rounds` to be an integer of at least 1"),
        ({"reconstruction": "magic"}, ValueError, "'magic'"),
        ({"compensation": "parallel"}, TypeError, "unexpected keyword argument 'compensation'"),
        ({"criterion": "loud"}, ValueError, "criterion='loud'"),
        ({"model": keras.Sequential([keras.Input((3,)), layers.Dense(2)])}, ValueError, "Expected a compiled model"),
        ({"model": layers.Dense(2)}, TypeError, "Expected a Keras model"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is(model, data, change, error, text):
    given = {"model": model, "budget": budget(flops=0.5), "data": data, "verbose": 0, **change}
    before = model.get_weights()
    with pytest.raises(error, match=text):
        prune_to(given.pop("model"), given.pop("budget"), given.pop("data"), **given)
    assert all(np.array_equal(one, other) for one, other in zip(model.get_weights(), before, strict=True))


def test_a_plan_is_carried_out_in_one_round(model, data):
    x, y = data
    plan = tfprune.plan_shrink(model, 0.5, criterion="l2")
    smaller, report = prune_to(model, plan, (x[:1200], y[:1200]), metric="accuracy", samples=128, verbose=0)
    assert [one.plan for one in report.rounds] == [plan]
    assert smaller.count_params() == plan.parameters_kept
    assert report.rounds[0].trained > report.rounds[0].removed


def test_a_plan_leaves_no_choice_and_fits_its_model(model, data):
    plan = tfprune.plan_shrink(model, 0.5)
    with pytest.raises(ValueError, match=r"no other choice of channels with a plan.*filters='first', round_to=4"):
        prune_to(model, plan, data, filters="first", round_to=4)
    other = keras.Sequential([keras.Input((64,)), layers.Dense(8, name="first"), layers.Dense(10)])
    other.compile("sgd", "mse")
    with pytest.raises(ValueError, match="Expected the model that the plan was made for"):
        prune_to(other, plan, data)
