"""Rules of a model's layers: measured as NumPy counts them, on samples that had no part in finding them."""

import json

import keras
import numpy as np
import pytest

import tfprune
from tfprune.methods.rule_mining import draw_parts

layers = keras.layers


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def dense(units=16):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(units, "relu", name="hidden"), layers.Dense(3, name="out")]
    )


def concepts_of(x):
    return {"right": x[:, 0] > 0, "far": np.square(x).sum(axis=1) > 6}


def hidden(model, x):
    return keras.ops.convert_to_numpy(model.get_layer("hidden")(x))


@pytest.fixture(scope="module")
def mined():
    model, x = dense(), normal(1200, 6)
    return model, x, tfprune.concepts.concept_rules(model, x, concepts_of(x), seed=3)


def test_counts_are_those_of_samples_that_neither_mined_nor_chose(mined):
    model, x, rules = mined
    drawn, _ = draw_parts(1200, validation_split=0.5, seed=3)
    activations, there = hidden(model, x[drawn["reporting"]]), concepts_of(x[drawn["reporting"]])["right"]
    assert rules.samples == len(there) == 300
    assert rules.of("right", layer="hidden")
    for rule in rules.rules:
        if rule.concept.endswith("right"):
            holds, own = rule.matches(activations), there if rule.concept == "right" else ~there
            assert (rule.matched, rule.hits) == (holds.sum(), (holds & own).sum())
            assert rule.precision == pytest.approx(own[holds].mean())
            assert rule.recall == pytest.approx(holds[own].mean())
        assert rule.support == rule.matches(hidden(model, x[drawn["mining"]])).sum()


def test_other_samples_give_the_same_rules_other_counts(mined):
    model, _, rules = mined
    new = normal(150, 6, seed=5)
    again = rules.evaluate(model, new, concepts_of(new))
    assert again.samples == 150
    assert again.rules == rules.rules
    assert all(rule.matched == rule.matches(hidden(model, new)).sum() for rule in again.rules)
    assert again.best("right") == rules.best("right")  # by the samples for choosing, which are the same


def test_a_concept_and_its_negation_share_their_trees(mined):
    model, x, rules = mined
    leaves = [rule for rule in rules.rules if rule.is_leaf and rule.concept in ("right", "not right")]
    assert {rule.concept for rule in leaves} == {"right", "not right"}
    assert (np.sum([rule.matches(hidden(model, x)) for rule in leaves], axis=0) == 1).all()
    own = tfprune.concepts.concept_rules(model, x, {"right": x[:, 0] > 0, "not right": x[:, 1] > 0})
    assert own.names == ("right", "not right", "not not right")
    up = own.parts["reporting"].labels["not right"]
    drawn, _ = draw_parts(1200, validation_split=0.5, seed=0)
    np.testing.assert_array_equal(up, x[drawn["reporting"], 1] > 0)  # a concept of that name is what the user says


def test_further_trees_offer_other_rules(mined):
    model, x, rules = mined
    more = tfprune.concepts.concept_rules(model, x, concepts_of(x), seed=3, trees=4)
    assert set(more.rules) > set(rules.rules)
    assert len(set(more.rules)) == len(more.rules)
    assert str(more)


def test_copies_of_a_sample_give_the_intervals_of_the_samples():
    model, x = dense(), normal(500, 6)
    copies = np.repeat(x, 3, axis=0)
    groups = np.repeat(np.arange(500), 3)
    for rules in (
        tfprune.concepts.concept_rules(model, x, {"right": x[:, 0] > 0}),
        tfprune.concepts.concept_rules(model, copies, {"right": copies[:, 0] > 0}, groups=groups),
    ):
        assert rules.samples == 125
        assert max(rule.counts.positives for rule in rules.rules) < 125


def test_reruns_give_the_same_bytes_and_another_seed_others():
    model, x = dense(), normal(500, 6)
    one, other, third = (
        json.dumps(tfprune.concepts.concept_rules(model, x, concepts_of(x), seed=seed).as_dict())
        for seed in (0, 0, 1)
    )
    assert one == other != third
    assert str(tfprune.concepts.concept_rules(model, x, concepts_of(x)))


def test_a_channel_is_seen_behind_its_normalization_and_activation_by_its_mean():
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 2))
    y = layers.ReLU(name="relu")(layers.BatchNormalization()(layers.Conv2D(5, 3, name="conv")(image)))
    model = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(y)))
    x = normal(200, 6, 6, 2)
    seen = keras.Model(image, model.get_layer("relu").output).predict(x, verbose=0).mean(axis=(1, 2))
    there = seen[:, 3] > np.median(seen[:, 3])
    rules = tfprune.concepts.concept_rules(model, (x, np.zeros(200)), {"loud": there}, layers="conv")
    (rule,) = rules.of("loud", layer="conv")
    assert rule.units == (3,)
    np.testing.assert_array_equal(rule.matches(seen), there)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Conv1D(4, 3, name="it"), (8, 2)),
        (layers.SeparableConv2D(4, 3, name="it"), (6, 6, 2)),
        (layers.EinsumDense("abc,cd->abd", (3, 4), name="it"), (3, 5)),
        (layers.LSTM(4, name="it"), (5, 3)),
        (layers.TimeDistributed(layers.Dense(4, name="it")), (5, 3)),
        (layers.Conv2DTranspose(4, 2, name="it"), (3, 3, 2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_of_every_kind_are_looked_at_or_named(layer, shape):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(shape), layer, layers.Flatten(), layers.Dense(4), layers.Dense(2)])
    x = normal(60, *shape)
    rules = tfprune.concepts.concept_rules(model, x, {"c": x.reshape(60, -1)[:, 0] > 0})
    assert layer.name in rules.layers or layer.name in {skipped.layer for skipped in rules.skipped}
    units = {rule.layer: max(rule.units) for rule in rules.rules}
    assert all(unit < rules.layers[name] for name, unit in units.items())


def test_the_model_does_not_change():
    model, x = dense(), normal(100, 6)
    before = model.get_weights()
    tfprune.concepts.concept_rules(model, x, concepts_of(x))
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert "call" not in vars(model.get_layer("hidden"))


X = normal(40, 6)
HALF = np.arange(40) % 2


@pytest.mark.parametrize(
    ("concepts", "more", "message"),
    [
        (
            {"c": np.zeros(40)},
            {},
            r"Expected samples with 'c' and without it among `samples`\. Received: 0 with it of 40\.",
        ),
        ({"c": np.ones(40)}, {}, r"Received: 40 with it of 40\. Pass more samples"),
        (
            {"c": np.zeros((40, 2))},
            {},
            r"for each of the 40 `samples` as concepts\['c'\]\. Received: .* \(40, 2\)\.",
        ),
        ({"c": HALF[:39]}, {}, r"shape \(39,\)"),
        ({"c": HALF * 2}, {}, r"Expected 0 or 1 for each sample as concepts\['c'\]\. Received: \[2\]\."),
        ({"c": HALF.astype(str)}, {}, r"Expected 0 or 1"),
        ({"c": np.where(HALF, np.nan, 1)}, {}, r"Received: \[nan\]"),
        (
            {"c": np.arange(40) == 5},
            {},
            r"among the samples for (mining|choosing|reporting)\. Received: 0",
        ),
        ({}, {}, r"Expected `concepts` with at least one concept\. Received: none\."),
        (
            {"c": HALF},
            {"layers": "none"},
            r"Expected `layers` with units that may be removed: hidden\. Received: 'none'",
        ),
        ({"c": HALF}, {"layers": ["out"]}, r"Received: 'out'; an output of the model\."),
        ({"c": HALF}, {"layers": []}, r"Expected layers with units that may be removed\. Received: none"),
        ({"c": HALF}, {"validation_split": 1.0}, r"Expected `validation_split` to be a number in \(0, 1\)"),
        ({"c": HALF}, {"seed": -1}, r"Expected `seed` to be an integer of at least 0"),
        ({"c": HALF}, {"trees": 0}, r"Expected `trees` to be an integer of at least 1"),
        ({"c": HALF}, {"max_depth": 0}, r"Expected `max_depth` to be an integer of at least 1"),
        ({"c": HALF}, {"groups": HALF[:9]}, r"Expected one group for each of 40 samples .* Received: .*\(9,\)"),
    ],
)
def test_wrong_concepts_are_refused(concepts, more, message):
    with pytest.raises(ValueError, match=message):
        tfprune.concepts.concept_rules(dense(), X, concepts, **more)


def test_wrong_types_are_refused():
    for concepts in (None, [HALF], np.stack([HALF]), {1: HALF}):
        with pytest.raises(TypeError, match="Expected `concepts` to be a dict from names"):
            tfprune.concepts.concept_rules(dense(), X, concepts)
    with pytest.raises(TypeError, match="Expected `layers` to be None or names"):
        tfprune.concepts.concept_rules(dense(), X, {"c": HALF}, layers=3)
    with pytest.raises(ValueError, match="finite"):
        tfprune.concepts.concept_rules(dense(), np.full((40, 6), np.nan), {"c": HALF})


def test_a_bar_counts_the_trees(capsys):
    tfprune.concepts.concept_rules(dense(), X, {"c": HALF, "d": 1 - HALF}, verbose=2)
    assert "2/2" in capsys.readouterr().out


@pytest.mark.programs
def test_rules_of_another_model_are_refused():
    x = normal(400, 6)
    rules = tfprune.concepts.concept_rules(dense(), x, {"c": hidden(dense(), x)[:, 3] > 0.5})
    with pytest.raises(ValueError, match="these layers differ: hidden"):
        rules.evaluate(dense(17), X, {"c": HALF})
    with pytest.raises(ValueError, match=r"for all concepts of the rules\. Received: none for \['.*c'"):
        rules.evaluate(dense(), X, {"d": HALF})
    with pytest.raises(ValueError, match=r"that has rules, of '.*'\. Received: 'd'"):
        rules.best("d")
