"""Rules read off decision trees: equal to scikit-learn's own answers, and measured as NumPy counts."""

import json
import sys

import keras
import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

import tfprune
from tfprune.methods.concepts.check_concepts import held_out
from tfprune.methods.concepts.mine_rules import mine_rules
from tfprune.methods.concepts.rule import ConceptRule, Threshold

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


def any_of(rules, activations):
    return np.any([rule.matches(activations) for rule in rules], axis=0)


def test_rules_say_what_the_tree_says_on_every_sample():
    model, x, others = dense(), normal(400, 6), normal(300, 6, seed=1)
    rules = tfprune.concept_rules(model, x, concepts_of(x), seed=3)
    held = held_out(400, validation=0.25, seed=3)
    assert held.sum() == rules.samples == 100
    for name, there in concepts_of(x).items():
        tree = DecisionTreeClassifier(random_state=3).fit(hidden(model, x[~held]), there[~held])
        found = rules.of(name, layer="hidden")
        for activations in (hidden(model, x), hidden(model, others)):
            np.testing.assert_array_equal(any_of(found, activations), tree.predict(activations))
            assert np.sum([rule.matches(activations) for rule in found], axis=0).max() == 1  # one leaf each
        leaves = tree.apply(hidden(model, x[~held]))
        assert sorted(rule.support for rule in found) == sorted(
            np.bincount(leaves[there[~held]])[np.unique(leaves[there[~held]])]
        )


def test_a_rule_is_a_leaf_of_the_tree():
    values, there = normal(200, 5), normal(200, 1, seed=2)[:, 0] > 0.3
    tree = DecisionTreeClassifier(random_state=0).fit(values, there)
    leaves, others = tree.apply(values), normal(500, 5, seed=4)
    paths = mine_rules(values, there, seed=0)
    assert len(paths) == len(np.unique(leaves[there]))
    for thresholds, support in paths:
        rule = ConceptRule("c", "l", thresholds, support)
        (leaf,) = np.unique(leaves[rule.matches(values)])
        np.testing.assert_array_equal(rule.matches(others), tree.apply(others) == leaf)
        assert len({(each.unit, each.is_above) for each in thresholds}) == len(thresholds)


def test_bounds_are_inclusive_below_and_kept_in_float64():
    low = np.float32(16)
    high = np.nextafter(low, np.float32(17))  # float32 has nothing between: a threshold in float32 is one of them
    values = np.array([[low], [low], [high], [high]], np.float32)
    tree = DecisionTreeClassifier(random_state=0).fit(values, [0, 0, 1, 1])
    ((thresholds, support),) = mine_rules(values, np.array([False, False, True, True]), seed=0)
    assert support == 2
    rule = ConceptRule("c", "l", thresholds, support)
    np.testing.assert_array_equal(rule.matches(values), tree.predict(values) == 1)
    whole = ConceptRule("c", "l", (Threshold(0, False, 0.5), Threshold(1, True, 0.25)), 1)
    at = np.array([[0.5, 0.26], [0.5, 0.25], [0.51, 0.26]], np.float32)
    assert whole.matches(at).tolist() == [True, False, False]


def test_leaves_of_both_kinds_make_no_rule():
    values = np.array([[0.0], [1.0], [1.0], [2.0]], np.float32)
    there = np.array([False, True, False, True])
    assert [(str(path[0]), support) for path, support in mine_rules(values, there, seed=0)] == [("[0] > 1.5", 1)]


def test_precision_and_recall_are_those_of_held_out_samples():
    model, x = dense(), normal(400, 6)
    rules = tfprune.concept_rules(model, x, concepts_of(x), validation=0.5)
    held = held_out(400, validation=0.5, seed=0)
    activations, there = hidden(model, x)[held], concepts_of(x)["far"][held]
    for rule in rules.of("far", layer="hidden"):
        matched = rule.matches(activations)
        assert rule.matched == matched.sum()
        assert rule.precision == pytest.approx(there[matched].mean() if matched.any() else 0)
        assert rule.recall == pytest.approx(matched[there].mean())
    new = normal(150, 6, seed=5)
    again = rules.evaluate(model, new, concepts_of(new))
    assert again.samples == 150
    first = again.of("right", layer="hidden")[0]
    assert first.thresholds == rules.of("right", layer="hidden")[0].thresholds
    assert first.matched == first.matches(hidden(model, new)).sum()


def test_reruns_give_the_same_bytes_and_another_seed_others():
    model, x = dense(), normal(300, 6)
    one, other, third = (
        json.dumps(tfprune.concept_rules(model, x, concepts_of(x), seed=seed).as_dict()) for seed in (0, 0, 1)
    )
    assert one == other != third
    assert str(tfprune.concept_rules(model, x, concepts_of(x)))


def test_a_channel_is_seen_behind_its_normalization_and_activation_by_its_mean():
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 2))
    y = layers.ReLU(name="relu")(layers.BatchNormalization()(layers.Conv2D(5, 3, name="conv")(image)))
    model = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(y)))
    x = normal(200, 6, 6, 2)
    seen = keras.Model(image, model.get_layer("relu").output).predict(x, verbose=0).mean(axis=(1, 2))
    there = seen[:, 3] > np.median(seen[:, 3])
    rules = tfprune.concept_rules(model, (x, np.zeros(200)), {"loud": there}, layers="conv")
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
    rules = tfprune.concept_rules(model, x, {"c": x.reshape(60, -1)[:, 0] > 0})
    assert layer.name in rules.layers or layer.name in {skipped.layer for skipped in rules.skipped}
    units = {rule.layer: max(rule.units) for rule in rules.rules}
    assert all(unit < rules.layers[name] for name, unit in units.items())


def test_the_model_does_not_change():
    model, x = dense(), normal(100, 6)
    before = model.get_weights()
    tfprune.concept_rules(model, x, concepts_of(x))
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
            r"Expected samples with 'c' and without it among `data`\. Received: 0 with it of 40\.",
        ),
        ({"c": np.ones(40)}, {}, r"Received: 40 with it of 40\. Pass more samples"),
        (
            {"c": np.zeros((40, 2))},
            {},
            r"for each of 40 samples of `data` as concepts\['c'\]\. Received: .* \(40, 2\)\.",
        ),
        ({"c": HALF[:39]}, {}, r"shape \(39,\)"),
        ({"c": HALF * 2}, {}, r"Expected 0 or 1 for each sample as concepts\['c'\]\. Received: \[2\]\."),
        ({"c": HALF.astype(str)}, {}, r"Expected 0 or 1"),
        ({"c": np.where(HALF, np.nan, 1)}, {}, r"Received: \[nan\]"),
        (
            {"c": np.arange(40) == 5},
            {},
            r"among the (held-out samples|samples that rules are mined from)\. Received: 0",
        ),
        ({}, {}, r"Expected `concepts` with at least one concept\. Received: none\."),
        (
            {"c": HALF},
            {"layers": "none"},
            r"Expected `layers` with units that may be removed: hidden\. Received: 'none'",
        ),
        ({"c": HALF}, {"layers": ["out"]}, r"Received: 'out'; an output of the model\."),
        ({"c": HALF}, {"layers": []}, r"Expected layers with units that may be removed\. Received: none"),
        ({"c": HALF}, {"validation": 1.0}, r"Expected `validation` to be a number in \(0, 1\)"),
        ({"c": HALF}, {"seed": -1}, r"Expected `seed` to be an integer of at least 0"),
    ],
)
def test_wrong_concepts_are_refused(concepts, more, message):
    with pytest.raises(ValueError, match=message):
        tfprune.concept_rules(dense(), X, concepts, **more)


def test_wrong_types_are_refused():
    for concepts in (None, [HALF], np.stack([HALF]), {1: HALF}):
        with pytest.raises(TypeError, match="Expected `concepts` to be a dict from names"):
            tfprune.concept_rules(dense(), X, concepts)
    with pytest.raises(TypeError, match="Expected `layers` to be None or names"):
        tfprune.concept_rules(dense(), X, {"c": HALF}, layers=3)
    with pytest.raises(ValueError, match="finite"):
        tfprune.concept_rules(dense(), np.full((40, 6), np.nan), {"c": HALF})


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.tree", None)
    with pytest.raises(ValueError, match=r'Run pip install "tfprune\[concepts\]"\.'):
        tfprune.concept_rules(dense(), X, {"c": HALF})


def test_a_bar_counts_the_trees(capsys):
    tfprune.concept_rules(dense(), X, {"c": HALF, "d": 1 - HALF}, verbose=2)
    assert "2/2" in capsys.readouterr().out


def test_rules_of_another_model_are_refused():
    rules = tfprune.concept_rules(dense(), X, {"c": HALF})
    with pytest.raises(ValueError, match="these layers differ: hidden"):
        rules.evaluate(dense(17), X, {"c": HALF})
    with pytest.raises(ValueError, match=r"for all concepts of the rules\. Received: none for \['c'\]"):
        rules.evaluate(dense(), X, {"d": HALF})
    with pytest.raises(ValueError, match=r"of 'c'\. Received: 'd'"):
        rules.best("d")
