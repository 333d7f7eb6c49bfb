"""Heads and channels ranked on data, and plans made of such ranks."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfprune

layers = keras.layers


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def attentive():
    """Two layers of attention."""
    keras.utils.set_random_seed(0)
    series = keras.Input((5, 6))
    x = layers.Add()([series, layers.MultiHeadAttention(4, 2, name="one")(series, series)])
    x = layers.Add()([x, layers.GroupQueryAttention(2, 4, 2, name="two")(x, x)])
    return keras.Model(series, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling1D()(x)))


def without_head(model, name, head):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    kernel = next(one for one in copy.get_layer(name).weights if one.path.endswith("attention_output/kernel"))
    values = keras.ops.convert_to_numpy(kernel).copy()
    shared = 2 if name == "two" else 1  # queries that share a key
    values[shared * head : shared * (head + 1)] = 0
    kernel.assign(values)
    return copy


@pytest.mark.programs
def test_heads_are_scored_by_the_loss_without_them():
    model, x = attentive(), normal(40, 5, 6)
    y = np.random.default_rng(1).integers(0, 3, 40)
    before = model.get_weights()
    ranks = tfprune.transformers.rank_heads(model, (x, y), loss="sparse_categorical_crossentropy", batch_size=16)
    assert {name: scores.size for name, scores in ranks.scores.items()} == {"one/heads": 4, "two/heads": 2}

    def loss(one):
        predicted = keras.ops.convert_to_numpy(one(x))
        return -np.mean(np.log(predicted[np.arange(40), y]))

    for name, scores in ranks.scores.items():
        layer = name.partition("/")[0]
        expected = [loss(without_head(model, layer, head)) - loss(model) for head in range(scores.size)]
        np.testing.assert_allclose(scores, expected, atol=1e-6)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    plan = tfprune.plan_shrink(model, 0.5, criterion=ranks)
    kept = {row.group: row.kept for row in plan.rows if row.kind == "heads"}
    assert kept == {"one/heads": 2, "two/heads": 1}
    group = next(group for group in plan.network.groups if group.name == "one/heads")
    assert set(np.flatnonzero(plan.keep[group.bundles])) == set(np.argsort(ranks.scores["one/heads"])[2:])
    model.compile(loss="sparse_categorical_crossentropy")
    np.testing.assert_allclose(
        tfprune.transformers.rank_heads(model, (x, y)).scores["one/heads"], ranks.scores["one/heads"], atol=1e-6
    )


def test_heads_that_cannot_be_ranked():
    model, x = attentive(), normal(4, 5, 6)
    with pytest.raises(ValueError, match="one output and a loss"):
        tfprune.transformers.rank_heads(model, (x, np.zeros(4)))
    with pytest.raises(ValueError, match="with targets"):
        tfprune.transformers.rank_heads(model, x, loss="sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="attention heads"):
        tfprune.transformers.rank_heads(keras.Sequential([keras.Input((3,)), layers.Dense(2)]), (x, x), loss="mse")


def chain():
    """A net with a channel that repeats another one, and one that is dead."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(6, 3, activation="relu", name="maps"),
            layers.Conv2D(5, 2, activation="relu", name="more"),
            layers.Flatten(),
            layers.Dense(4, name="units", activation="tanh"),
            layers.Dense(2),
        ]
    )
    kernel, bias = model.get_layer("maps").get_weights()
    kernel[..., 4], kernel[..., 2] = kernel[..., 1], 0
    model.get_layer("maps").set_weights([kernel, bias])
    return model


def test_channels_that_cost_nothing_go_first():
    model, x = chain(), normal(50, 6, 6, 2)
    ranking = tfprune.rank_channels(model, x)
    ranks = ranking.scores
    assert {name: scores.size for name, scores in ranks.items()} == {"maps": 6, "more": 5, "units": 4}
    order = np.argsort(ranks["maps"])
    assert 2 in order[:2] and set(order[:2]) & {1, 4}  # of the two equal ones only one is free
    assert np.sort(ranks["maps"])[1] < 1e-6 < np.sort(ranks["maps"])[2]
    plan = tfprune.plan_shrink(model, 0.3, criterion=ranking, filters="maps")
    same = tfprune.plan_shrink(model, 0.3, criterion=ranks, filters="maps")  # a dict of scores
    np.testing.assert_array_equal(plan.keep, same.keep)
    assert ranking.rows[0].order == tuple(order) and "least important" in str(ranking)
    assert ranking.as_dict()["rows"][1]["scores"] == ranks["more"].tolist()
    zeroed = tfprune.zero_channels(model, plan)
    better, _ = tfprune.reconstruct(zeroed, model, x)
    expected = keras.ops.convert_to_numpy(model(x))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(better(x)), expected, atol=1e-4)
    assert np.abs(keras.ops.convert_to_numpy(zeroed(x)) - expected).max() > 1e-3


def test_the_score_is_the_error_of_what_is_left():
    """The largest scores but one: all channels but one have gone, and the rest of the error is least squares'."""
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4, activation="relu", name="hidden"), layers.Dense(3)])
    x = normal(200, 5)
    scores = tfprune.rank_channels(model, x).scores["hidden"]
    hidden = keras.ops.convert_to_numpy(model.layers[0](x)).astype(float)
    y = keras.ops.convert_to_numpy(model(x)).astype(float)
    order = np.argsort(scores)
    for gone in range(1, 5):
        inputs = np.column_stack([hidden[:, order[gone:]], np.ones(200)])
        left = y - inputs @ np.linalg.lstsq(inputs, y, rcond=None)[0]
        assert scores[order[gone - 1]] == pytest.approx(np.sum(left**2) / np.sum(y**2), rel=1e-3)


def test_permuted_channels_get_permuted_scores():
    model, x = chain(), normal(30, 6, 6, 2)
    other, order = chain(), [3, 0, 5, 2, 1, 4]
    maps, more = other.get_layer("maps"), other.get_layer("more")
    maps.set_weights([values[..., order] for values in maps.get_weights()])
    kernel, bias = more.get_weights()
    more.set_weights([kernel[:, :, order], bias])
    scores, permuted = (tfprune.rank_channels(one, x).scores["maps"] for one in (model, other))
    np.testing.assert_allclose(permuted, scores[order], rtol=1e-4, atol=1e-6)


def test_channels_that_something_unknown_reads_are_left_out():
    series = keras.Input((5, 3))
    hidden = layers.Dense(4, name="read_by_lstm")(series)
    model = keras.Model(series, layers.Dense(2)(layers.Dense(4, name="read")(layers.LSTM(3, name="lstm")(hidden))))
    x = normal(10, 5, 3)
    ranks = tfprune.rank_channels(model, x)
    assert set(ranks.scores) == {"read"}  # the states of the recurrent layer are read by itself, too
    assert [entry.layer for entry in ranks.skipped] == ["read_by_lstm", "lstm"]
    plan = tfprune.plan_shrink(model, 0.5, criterion=ranks)
    assert {row.group: row.kept for row in plan.rows}["read_by_lstm"] == 4
    assert ("read_by_lstm", "it has no scores in `criterion`") in [(one.layer, one.reason) for one in plan.skipped]
    with pytest.raises(ValueError, match="read by layers whose inputs are known"):
        tfprune.rank_channels(keras.Sequential([keras.Input((5, 3)), layers.LSTM(2)]), x)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ({"other": np.ones(6)}, "of groups of this model that may lose channels: 'maps', 'more', 'units'. Received"),
        ({}, "Received: scores of none"),
        ({"maps": np.ones(5)}, r"Expected 6 scores for 'maps'. Received: an array of shape \(5,\)"),
        ({"maps": np.full(6, np.nan)}, "finite values in maps"),
    ],
)
def test_scores_that_do_not_fit_a_plan(scores, reason):
    with pytest.raises(ValueError, match=reason):
        tfprune.plan_shrink(chain(), 0.5, criterion=scores)


LLAMA = {
    "block_count": 32,
    "attention": 2 * 4096 * 4096 + 2 * 4096 * 1024,
    "feed_forward": 3 * 4096 * 14336,
    "width": 14336,
}
QWEN = {
    "block_count": 40,
    "attention": 2 * 5120 * 5120 + 2 * 5120 * 1024,
    "feed_forward": 3 * 5120 * 17408,
    "width": 17408,
}
SPARSITIES = (0.25, 0.375, 0.5, 0.7, 0.8, 0.9, 0.95)


@pytest.mark.parametrize(
    ("transformer", "expected"),
    [(LLAMA, (1, 2, 5, 12, 17, 24, 28)), (QWEN, (1, 2, 6, 15, 21, 30, 35))],
    ids=["Llama-3.1-8B", "Qwen3-14B"],
)
def test_the_budget_of_transformers(transformer, expected):
    found = [tfprune.transformers.transformer_budget(sparsity, **transformer) for sparsity in SPARSITIES]
    assert tuple(removed for removed, _ in found) == expected
    total = transformer["block_count"] * (transformer["attention"] + transformer["feed_forward"])
    unit = transformer["block_count"] * transformer["feed_forward"] / transformer["width"]
    for sparsity, (removed, kept) in zip(SPARSITIES, found, strict=True):
        lost = removed * transformer["attention"] + (transformer["width"] - kept) * unit
        assert abs(lost - sparsity * total) <= unit


def test_budgets_at_the_edges():
    assert tfprune.transformers.transformer_budget(0.0, **LLAMA) == (0, 14336)
    with pytest.raises(ValueError, match="leaves a unit"):
        tfprune.transformers.transformer_budget(0.99, block_count=12, attention=10, feed_forward=1000, width=8)
    with pytest.raises(ValueError, match="block_count"):
        tfprune.transformers.transformer_budget(0.5, **{**LLAMA, "block_count": 0})


def test_the_counts_of_a_transformer_budget_become_a_plan_as_the_docstring_says():
    series = keras.Input((5, 8))
    x = series
    for block in range(2):
        x = layers.Add()([x, layers.MultiHeadAttention(4, 2, name=f"attention_{block}")(x, x)])
        hidden = layers.Dense(32, activation="relu", name=f"hidden_{block}")(x)
        x = layers.Add()([x, layers.Dense(8, name=f"back_{block}")(hidden)])
    model = keras.Model(series, layers.Dense(3, name="out")(x))
    attention, feed_forward = 4 * (8 * 8 + 8), 8 * 32 + 32 + 32 * 8 + 8
    removed, kept = tfprune.transformers.transformer_budget(
        0.5, block_count=2, attention=attention, feed_forward=feed_forward, width=32
    )
    assert (removed, kept) == (1, 16)  # round(2 x 0.5^(552 / 288 / 1.5)); the networks lose 840 - 288 of 2 x 552
    split = {"heads": removed / 2, "hidden": 1 - kept / 32, "": None}
    plan = tfprune.plan_shrink(model, 0.5, allocation=split)
    found = {row.group: row.kept for row in plan.rows if row.kept < row.channels}
    assert found == {"attention_0/heads": 2, "attention_1/heads": 2, "hidden_0": 16, "hidden_1": 16}


class Scaled(layers.Layer):
    """A dense layer and its normalization, which a plan opens."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.dense, self.norm = layers.Dense(units, name="dense"), layers.BatchNormalization(name="norm")

    def call(self, x):
        return self.norm(self.dense(x))


def test_scales_are_those_of_the_users_variables():
    stack = [keras.Input((3,)), Scaled(4, name="inner"), layers.Dense(4, name="mid"), layers.BatchNormalization()]
    model = keras.Sequential([*stack, layers.Dense(2)])
    model.layers[0].norm.gamma.assign([1.0, -4, 3, 2])
    model.layers[2].gamma.assign([3.0, 1, 2, 4])
    plan = tfprune.plan_shrink(model, 0.5, criterion="gamma", allocation="uniform")
    smaller = tfprune.shrink(model, plan)
    scales = [variable.numpy().tolist() for variable in smaller.variables if variable.path.endswith("gamma")]
    assert scales == [[-4, 3], [3, 4]]
