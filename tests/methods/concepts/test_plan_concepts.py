"""Plans that keep what concepts need: planted units are found, equal models come out, every unit has its reason."""

import json

import keras
import numpy as np
import pytest
from refusals import refused

import tfprune
from tfprune.base.spec import ArgumentError, ArgumentTypeError
from tfprune.methods.rule_mining import Counts, lower_bound

layers = keras.layers


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def planted(units=256, inputs=64):
    """A model whose units 7, 100 and 200 are the first three inputs; all others mix the rest."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((inputs,)), layers.Dense(units, name="hidden"), layers.Dense(2, name="out")]
    )
    kernel = normal(inputs, units, seed=1)
    kernel[:3] = 0
    kernel[:, [7, 100, 200]] = np.eye(inputs, 3)
    model.get_layer("hidden").set_weights([kernel, np.zeros(units)])
    return model


def digits_like(count=600):
    x = normal(count, 64)
    return x, {"all three": (x[:, :3] > -0.5).all(axis=1), "two of three": (x[:, :3] > 0).sum(axis=1) >= 2}


@pytest.fixture(scope="module")
def mined():
    model, (x, concepts) = planted(), digits_like(2000)
    return model, x, tfprune.concepts.concept_rules(model, x, concepts | {"noise": normal(2000, seed=9) > 0})


@pytest.mark.parametrize("concept", ["all three", "two of three"])
def test_planted_units_are_kept_and_few_others(mined, concept):
    model, _, rules = mined
    plan, trace = tfprune.concepts.plan_concepts(model, rules, require=[concept])
    kept = {each.unit for each in trace.units}
    assert kept >= {7, 100, 200}
    assert len(kept) <= 23
    assert plan.rows[0].kept == len(kept)


def covered(plan, trace):
    """Return whether every channel that stays has its reason: by the plan's network, not by the trace's layers."""
    whole = {each.layer for each in trace.layers if each.reason}
    units = {(each.layer, each.unit) for each in trace.units}
    kept = set()
    for layer in plan.network.layers.values():
        for weight in layer.weights:
            for axis in weight.makes:
                stay = np.flatnonzero(plan.keep[weight.bundles_along[axis]])
                kept |= {(layer.name, unit) for unit in stay.tolist() if layer.name not in whole}
    for each in trace.units:
        assert each.reason or each.rules
        assert trace.why(each.layer, each.unit)
    return kept == units


def test_the_smaller_model_is_the_masked_one(mined):
    model, x, rules = mined
    plan, trace = tfprune.concepts.plan_concepts(model, rules, require=["all three"])
    assert covered(plan, trace)
    small, masked = tfprune.shrink(model, plan), tfprune.zero_channels(model, plan)
    np.testing.assert_allclose(small.predict(x, verbose=0), masked.predict(x, verbose=0), atol=1e-5)
    assert small.count_params() == plan.parameters_kept < model.count_params() / 8


LOOSE = {"min_precision": 0.7, "min_recall": 0.6}


def residual():
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", name="stem")(image)))
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(12, 3, padding="same", name="inner")(x)))
    y = layers.BatchNormalization()(layers.Conv2D(8, 1, name="back")(y))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Add()([x, y])))
    return keras.Model(image, layers.Dense(2, name="out")(x))


@pytest.fixture(scope="module")
def images():
    x = normal(800, 6, 6, 3)
    x += normal(800, 1, 1, 3, seed=3)
    return x, {"red": x[..., 0].mean(axis=(1, 2)) > 0.2, "blue": x[..., 2].mean(axis=(1, 2)) > 0}


def test_tied_channels_stay_together_and_say_what_they_are_tied_to(images):
    model, (x, concepts) = residual(), images
    for variable in model.weights:  # statistics that a normalization without its channel would show
        if "moving" in variable.path or "gamma" in variable.path:
            variable.assign(np.linspace(0.5, 1.5, variable.shape[0]))
    rules = tfprune.concepts.concept_rules(model, x, concepts, layers=["stem", "inner"])
    plan, trace = tfprune.concepts.plan_concepts(model, rules, require=["red"], **LOOSE)
    assert covered(plan, trace)
    kept = {layer: [each for each in trace.units if each.layer == layer] for layer in ("stem", "inner", "back")}
    assert [each.unit for each in kept["stem"]] == [each.unit for each in kept["back"]]
    assert 0 < len(kept["stem"]) < 8
    assert all(each.rules and not each.tied_to for each in kept["stem"])
    assert all(each.tied_to == (f"stem[{each.unit}]",) for each in kept["back"])
    assert trace.why("back", kept["back"][0].unit).startswith(
        f"tied to stem[{kept['back'][0].unit}]; 'red' is required"
    )
    small, masked = tfprune.shrink(model, plan), tfprune.zero_channels(model, plan)
    np.testing.assert_allclose(small.predict(x, verbose=0), masked.predict(x, verbose=0), atol=1e-5)


def test_a_nested_and_a_wrapped_model_are_planned(images):
    x, concepts = images
    inner = keras.Sequential([keras.Input((6, 6, 3)), layers.Conv2D(32, 3, name="conv"), layers.ReLU()], name="inner")
    model = keras.Sequential([keras.Input((6, 6, 3)), inner, layers.Flatten(), layers.Dense(2)])
    for whole in (model, tfprune.wrap(model)):
        rules = tfprune.concepts.concept_rules(whole, x, concepts)
        plan, trace = tfprune.concepts.plan_concepts(whole, rules, require=["red"], **LOOSE)
        assert covered(plan, trace)
        small, masked = tfprune.shrink(whole, plan), tfprune.zero_channels(whole, plan)
        np.testing.assert_allclose(small.predict(x, verbose=0), masked.predict(x, verbose=0), atol=1e-5)
        assert small.count_params() < model.count_params()


def test_recall_is_reached_and_no_more_rules_are_taken(mined):
    model, _, rules = mined
    everything, every = tfprune.concepts.plan_concepts(model, rules, require=["two of three"], min_recall=None)
    enough, trace = tfprune.concepts.plan_concepts(model, rules, require=["two of three"], min_recall=0.35)
    assert 0 < len(trace.rules) < len(every.rules)
    assert enough.rows[0].kept < everything.rows[0].kept
    for each in (trace, every):
        (evidence,) = each.evidence
        assert evidence.is_met
        assert evidence.counts == rules.parts["reporting"].counts("two of three", each.rules)
        assert evidence.counts.recall > 0.3


def test_fresh_samples_are_taken_in(mined):
    model, _, rules = mined
    _, trace = tfprune.concepts.plan_concepts(model, rules, require=["all three", "not two of three"], min_recall=0.3)
    x, concepts = digits_like(3000)
    fresh = trace.evaluate(model, x, concepts)
    assert fresh.rules == trace.rules and str(fresh) != str(trace)
    hidden = x @ model.get_layer("hidden").kernel.numpy()
    for each in fresh.evidence:
        holds = np.any([fresh.rules[index].matches(hidden) for index in each.rules], axis=0)
        there = concepts["all three"] if each.concept == "all three" else ~concepts["two of three"]
        assert each.counts == Counts(holds.sum(), (holds & there).sum(), there.sum())
    assert all(each.is_met for each in fresh.evidence)
    others = trace.evaluate(model, x, {name: normal(3000, seed=3) > 0 for name in concepts})
    assert not any(each.is_met for each in others.evidence)
    with pytest.raises(ValueError, match=r"none for \['not two of three'\]"):
        trace.evaluate(model, x, {"all three": concepts["all three"]})


def test_samples_for_reporting_decide_nothing(mined):
    model, x, rules = mined
    coins = rules.evaluate(model, x, {name: normal(2000, seed=7) > 0 for name in rules.concepts})
    require = ["all three", "not two of three"]
    (plan, trace), (other, doubtful) = (
        tfprune.concepts.plan_concepts(model, each, require=require, min_recall=0.3, min_units=40)
        for each in (rules, coins)
    )
    np.testing.assert_array_equal(plan.keep, other.keep)
    assert trace.rules == doubtful.rules
    assert [each.is_met for each in (*trace.evidence, *doubtful.evidence)] == [True, True, False, False]


def test_more_units_stay_where_at_least_so_many_are_asked_for(mined):
    model, _, rules = mined
    plan, trace = tfprune.concepts.plan_concepts(model, rules, require=["all three"], min_units=40)
    assert plan.rows[0].kept == 40
    assert covered(plan, trace)
    assert {each.reason for each in trace.units} == {"", "so many units stay at least"}
    plan, _ = tfprune.concepts.plan_concepts(model, rules, require=["all three"], min_units=1000)
    assert plan.rows[0].kept == 256


def test_a_concept_without_precise_rules_is_an_error_that_says_how_close_the_best_comes(mined):
    model, _, rules = mined
    with pytest.raises(ValueError, match="no unit tells 'noise' better than chance would"):
        tfprune.concepts.plan_concepts(model, rules, require=["all three", "noise"])
    with pytest.raises(ValueError, match=r"precision of at least 0\.995 that find 0\.8 of it, with 95%") as raised:
        tfprune.concepts.plan_concepts(model, rules, require=["all three"], min_precision=0.995)
    counts = rules.parts["choosing"].counts("all three", rules.of("all three", layer="hidden")[-1:])
    certified = lower_bound(counts.hits, counts.matched, error=0.05)  # no set of rules is tested but this
    assert f"certify {certified:.3f} and" in str(raised.value)
    assert f"have a precision of {counts.precision:.3f} and a recall of {counts.recall:.3f}" in str(raised.value)


def test_a_layer_in_which_a_concept_has_no_rules_keeps_all_units(images):
    x, concepts = images
    model = residual()
    model.get_layer("inner").set_weights([np.zeros((3, 3, 8, 12)), np.zeros(12)])  # blind
    rules = tfprune.concepts.concept_rules(model, x, concepts)
    plan, trace = tfprune.concepts.plan_concepts(model, rules, require=["red"], **LOOSE)
    kept = {row.group: (row.channels, row.kept) for row in plan.rows}
    assert kept["inner"] == (12, 12)
    assert kept["stem"][1] < 8
    reasons = {skipped.layer: skipped.reason for skipped in plan.skipped}
    assert reasons["inner"] == trace.why("inner", 3) == "no unit tells 'red' better than chance would"
    assert covered(plan, trace)
    only = tfprune.concepts.concept_rules(model, x, concepts, layers="inner")
    with pytest.raises(ValueError, match="no unit tells 'red' better than chance would"):
        tfprune.concepts.plan_concepts(model, only, require=["red"], **LOOSE)


def test_reruns_give_the_same_bytes(mined):
    model, _, rules = mined
    require = {"R1": ["all three", "two of three"], "R2": ["two of three"]}
    plans = [tfprune.concepts.plan_concepts(model, rules, require=require) for _ in range(2)]
    one, other = (json.dumps([plan.as_dict(), trace.as_dict(), str(trace)]) for plan, trace in plans)
    assert one == other
    trace = plans[0][1]
    shared = next(index for index, rule in enumerate(trace.rules) if rule.concept == "two of three")
    unit = next(each for each in trace.units if shared in each.rules)
    assert "'R1', 'R2' need 'two of three': hidden[" in trace.why("hidden", unit.unit)


@pytest.mark.parametrize(
    ("kind", "argument", "arguments"),
    [
        (ArgumentError, "require", {"require": ["missing"]}),
        (ArgumentError, "require", {"require": []}),
        (ArgumentError, "require", {"require": {"R1": []}}),
        (ArgumentTypeError, "require", {"require": "all three"}),
        (ArgumentTypeError, "require", {"require": {"R1": "all three"}}),
        (ArgumentError, "confidence", {"require": ["all three"], "confidence": 1}),
        (ArgumentError, "min_matches", {"require": ["all three"], "min_matches": 0}),
        (ArgumentError, "min_precision", {"require": ["all three"], "min_precision": 0}),
        (ArgumentError, "min_recall", {"require": ["all three"], "min_recall": 2}),
        (ArgumentError, "min_units", {"require": ["all three"], "min_units": 0}),
    ],
)
def test_wrong_arguments_are_refused(mined, kind, argument, arguments):
    model, _, rules = mined
    with refused(kind, argument):
        tfprune.concepts.plan_concepts(model, rules, **arguments)


def test_rules_of_another_model_and_other_things_are_refused(mined):
    _, _, rules = mined
    with pytest.raises(ValueError, match="these layers differ: hidden"):
        tfprune.concepts.plan_concepts(planted(units=255), rules, require=["all three"])
    with pytest.raises(TypeError, match=r"Expected rules\. Received: rules="):
        tfprune.concepts.plan_concepts(planted(), {}, require=["all three"])


def test_a_unit_that_goes_has_no_reason(mined):
    model, _, rules = mined
    _, trace = tfprune.concepts.plan_concepts(model, rules, require=["all three"])
    gone = next(unit for unit in range(256) if unit not in {each.unit for each in trace.units})
    with pytest.raises(ValueError, match=f"Received: unit {gone} of 'hidden'"):
        trace.why("hidden", gone)
