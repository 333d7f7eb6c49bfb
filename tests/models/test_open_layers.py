"""Layers opened by tracing: the graph returns what they do, and what cannot be traced is named with its line."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfprune
from tfprune import plan_shrink

layers, ops = keras.layers, keras.ops


class Gated(layers.Layer):
    """A gated feed-forward part with a residual connection."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.norm = layers.LayerNormalization()
        self.gate, self.up = layers.Dense(units, name="gate"), layers.Dense(units, name="up")
        self.units = units

    def build(self, shape):
        self.down = layers.Dense(shape[-1], name="down")
        for part in (self.norm, self.gate, self.up):
            part.build(shape)
        self.down.build((*shape[:-1], self.units))

    def call(self, inputs):
        x = self.norm(inputs)
        return inputs + self.down(ops.silu(self.gate(x)) * self.up(x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Attention(layers.Layer):
    """Grouped attention by einsum equations: four query heads, two for keys and values, and a rotation in a head."""

    keys = 2

    def __init__(self, **options):
        super().__init__(**options)
        self.query = layers.EinsumDense("btd,dqh->btqh", (None, 4, 6), name="query")
        self.key = layers.EinsumDense("btd,dkh->btkh", (None, self.keys, 6), name="key")
        self.value = layers.EinsumDense("btd,dkh->btkh", (None, self.keys, 6), name="value")
        self.out = layers.EinsumDense("btqh,qhd->btd", (None, 8), name="out")

    def build(self, shape):
        for part in (self.query, self.key, self.value):
            part.build(shape)
        self.out.build((*shape[:-1], 4, 6))

    def call(self, inputs):
        query, key, value = (self._rotated(self.query(inputs)), self._rotated(self.key(inputs)), self.value(inputs))
        key, value = ops.repeat(key, 2, axis=2), ops.repeat(value, 2, axis=2)
        scores = ops.softmax(ops.einsum("btqh,bsqh->bqts", query, key) / 6**0.5)
        return self.out(ops.einsum("bqts,bsqh->btqh", scores, value))

    def _rotated(self, x):
        first, second = ops.split(x, 2, axis=-1)
        return ops.concatenate([-second, first], axis=-1) + x


class Block(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.attention, self.feed_forward = Attention(name="attention"), Gated(10, name="feed_forward")

    def build(self, shape):
        self.attention.build(shape)
        self.feed_forward.build(shape)

    def call(self, inputs):
        return self.feed_forward(inputs + self.attention(inputs))


def transformer() -> keras.Model:
    keras.utils.set_random_seed(3)
    tokens = keras.Input((5,), dtype="int32")
    x = layers.Embedding(11, 8, name="embedding")(tokens)
    x = Block(name="second")(Block(name="first")(x))
    return keras.Model(tokens, layers.Dense(3, name="out")(layers.LayerNormalization(name="norm")(x)))


TOKENS = np.random.default_rng(0).integers(0, 11, (4, 5))


def test_blocks_are_opened_down_to_heads_and_units():
    rows = {row.group: (row.kind, row.channels, row.kept) for row in plan_shrink(transformer(), 0.5).rows}
    for block in ("first", "second"):
        assert rows[f"{block}_attention/heads"] == ("heads", 2, 1)  # a group: a key head and its two queries
        assert rows[f"{block}_feed_forward_gate"] == ("channels", 10, 5)
        assert rows[f"{block}_attention_value/h"] == ("channels", 6, 6)  # the size of a head stays


def test_gate_and_up_go_with_the_rows_of_down():
    plan = plan_shrink(transformer(), 0.5)
    members = {row.group: row.members for row in plan.rows}["first_feed_forward_gate"]
    assert members == ("first_feed_forward_gate", "first_feed_forward_up", "first_feed_forward_down")


def test_the_smaller_model_equals_the_masked_one():
    model = transformer()
    plan = plan_shrink(model, 0.5)
    masked, smaller = tfprune.zero_channels(model, plan), tfprune.shrink(model, plan)
    np.testing.assert_allclose(smaller(TOKENS), masked(TOKENS), atol=1e-5)
    assert smaller.count_params() == plan.parameters_kept < model.count_params()


class OneKey(Attention):
    """Four queries that share one key and value, which is repeated for them, or broadcast by the product."""

    keys = 1

    def __init__(self, is_repeated, **options):
        super().__init__(**options)
        self.is_repeated = is_repeated

    def call(self, inputs):
        query, key, value = (self._rotated(self.query(inputs)), self._rotated(self.key(inputs)), self.value(inputs))
        if self.is_repeated:
            key, value = ops.repeat(key, 4, axis=-2), ops.repeat(value, 4, axis=-2)
            scores = ops.softmax(ops.einsum("btqh,bsqh->bqts", query, key) / 6**0.5)
            return self.out(ops.einsum("bqts,bsqh->btqh", scores, value))
        query = ops.reshape(query, (-1, 5, 1, 4, 6))
        scores = ops.softmax(ops.einsum("btkgh,bskh->bkgts", query, key) / 6**0.5)
        results = ops.einsum("bkgts,bskh->btkgh", scores, value)
        return self.out(ops.reshape(results, (-1, 5, 4, 6)))


@pytest.mark.parametrize("is_repeated", [True, False])
def test_queries_that_share_their_only_key_go_one_by_one(is_repeated):
    x = keras.Input((5, 8))
    model = keras.Model(x, layers.Dense(3, name="out")(OneKey(is_repeated, name="block")(x)))
    plan = plan_shrink(model, 0.25)
    rows = {row.group: (row.kind, row.channels, row.kept) for row in plan.rows}
    assert rows["block_query/heads"] == ("heads", 4, 3)
    assert rows["block_value/h"] == ("channels", 6, 6)  # the size of a head stays
    data = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    smaller = tfprune.shrink(model, plan)
    np.testing.assert_allclose(smaller(data), tfprune.zero_channels(model, plan)(data), atol=1e-5)
    assert smaller.count_params() == plan.parameters_kept < model.count_params()


def test_queries_of_a_grouped_layer_with_one_key_go_one_by_one():
    x = keras.Input((5, 8))
    model = keras.Model(x, layers.Dense(3, name="out")(layers.GroupQueryAttention(6, 4, 1, name="attention")(x, x)))
    plan = plan_shrink(model, 0.25)
    data = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    smaller = tfprune.shrink(model, plan)
    assert smaller.get_layer("attention").num_query_heads == 3
    np.testing.assert_allclose(smaller(data), tfprune.zero_channels(model, plan)(data), atol=1e-5)
    scores = tfprune.transformers.rank_heads(model, (data, np.zeros((2, 5, 3))), loss="mse").scores
    assert {name: len(values) for name, values in scores.items()} == {"attention/heads": 4}


class Whole(keras.Model):
    """A subclassed model of three dense layers."""

    def __init__(self, **options):
        super().__init__(**options)
        self.first, self.second = layers.Dense(6, "relu", name="first"), layers.Dense(8, "gelu", name="second")
        self.out = layers.Dense(2, name="out")

    def call(self, inputs):
        return self.out(self.second(self.first(inputs)))

    def get_config(self):
        return {"name": self.name}


def test_a_subclassed_model_is_opened():
    model, x = Whole(name="whole"), np.random.default_rng(1).normal(size=(7, 4)).astype("float32")
    model(x)
    plan = plan_shrink(model, 0.5)
    assert {row.group: row.kept for row in plan.rows} == {"whole_first": 3, "whole_second": 4, "whole_out": 2}
    np.testing.assert_allclose(tfprune.shrink(model, plan)(x), tfprune.zero_channels(model, plan)(x), atol=1e-5)


@pytest.mark.programs
def test_channels_of_layers_inside_are_masked_while_the_model_trains():
    model = transformer()
    wrapped = tfprune.wrap(model, pattern="channel", filters="feed_forward/(gate|up)")
    np.testing.assert_array_equal(wrapped(TOKENS), model(TOKENS))
    tfprune.update_masks(wrapped, 0.5)
    kept = np.asarray(wrapped.get_layer("first").masks["feed_forward/gate/kernel"]).any(axis=0)
    assert kept.sum() == 5
    for name, axis in (("up", 0), ("down", 1)):
        mask = np.asarray(wrapped.get_layer("first").masks[f"feed_forward/{name}/kernel"])
        np.testing.assert_array_equal(mask.any(axis=axis), kept)
    smaller = tfprune.shrink(wrapped, plan_shrink(wrapped))
    np.testing.assert_allclose(smaller(TOKENS), wrapped(TOKENS), atol=1e-5)


class Moody(Whole):
    def build(self, shape):
        self.first.build(shape)
        self.second.build((None, 6))
        self.out.build((None, 8))

    def call(self, inputs):
        hidden = self.first(inputs)
        return self.out(self.second(hidden if ops.sum(hidden) > 0 else -hidden))


def test_code_that_looks_at_values_is_named_with_its_line():
    model = Moody(name="moody")
    model(np.ones((2, 4), "float32"))
    with pytest.raises(ValueError, match="'moody' of class Moody, whose layers cannot be followed") as caught:
        plan_shrink(model, 0.5)
    assert "test_open_layers.py, line" in str(caught.value)
    assert "if ops.sum(hidden) > 0 else -hidden" in str(caught.value)


def test_an_activation_is_judged_by_what_it_returns():
    def shifted(x):
        return ops.relu(x) - 0.1

    def centered(x):
        return x - ops.mean(x, axis=-1, keepdims=True)

    x = keras.Input((4,))
    hidden = layers.Dense(6, centered, name="centered")(layers.Dense(6, shifted, name="shifted")(x))
    model = keras.Model(x, layers.Dense(2, name="out")(hidden))
    network = tfprune.channels.groups.analyze(model)
    free = {group.name: int(group.free.sum()) for group in network.groups}
    assert free == {"shifted": 6, "centered": 0, "out": 0}


class Hoarding(layers.Layer):
    """Adds a symbolic tensor that it keeps, of another graph."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense = layers.Dense(4)
        self.kept = keras.Input((4,))

    def call(self, x):
        return self.dense(x) + (self.kept if isinstance(x, keras.KerasTensor) else 0)


def test_a_trace_that_is_no_graph_is_named_as_one_that_failed():
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2, name="out")(Hoarding(name="hoarding")(layers.Dense(4, name="first")(x))))
    with pytest.raises(ValueError, match="first: hoarding: its code cannot be traced: .* not connected"):
        plan_shrink(model, 0.5)
