"""A Functional subclass whose blocks keep different numbers: itself, equal to the masked model, saved and loaded."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from tiers import first

import tfprune

layers, ops = keras.layers, keras.ops
register = keras.saving.register_keras_serializable(package="exchanged")


@register
class FeedForward(layers.Layer):
    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units
        self.up = layers.Dense(units, "gelu", name="up")

    def build(self, shape):
        self.up.build(shape)
        self.down = layers.Dense(shape[-1], name="down")
        self.down.build((*shape[:-1], self.units))

    def call(self, inputs):
        return inputs + self.down(self.up(inputs))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@register
class Attention(layers.Layer):
    """Attention that looks at its number of heads, with the size of a head derived from it when it is built."""

    def __init__(self, num_heads, **options):
        super().__init__(**options)
        self.num_heads = num_heads

    def build(self, shape):
        size = shape[-1] // self.num_heads
        for name in ("query", "key", "value"):
            setattr(self, name, layers.EinsumDense("btd,dnh->btnh", (None, self.num_heads, size), name=name))
            getattr(self, name).build(shape)
        self.out = layers.EinsumDense("btnh,nhd->btd", (None, shape[-1]), name="out")
        self.out.build((*shape[:-1], self.num_heads, size))

    def call(self, inputs):
        query, key, value = self.query(inputs), self.key(inputs), self.value(inputs)
        scores = ops.softmax(ops.einsum("btnh,bsnh->bnts", query, key))
        found = ops.einsum("bnts,bsnh->btnh", scores, value)
        batch, length, _, size = ops.shape(found)
        joined = ops.reshape(found, (batch, length, self.num_heads * size))  # which reads the attribute
        return inputs + self.out(ops.reshape(joined, (batch, length, self.num_heads, size)))

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads}


@register
class Backbone(keras.Model):
    """A Functional subclass with blocks, and with a method of its own."""

    def __init__(self, num_heads=4, hidden_units=10, **options):
        tokens = keras.Input((None,), dtype="int32", name="tokens")
        x = layers.Embedding(11, 8, name="embedding")(tokens)
        for index in range(2):
            x = layers.LayerNormalization(name=f"norm_{index}")(Attention(num_heads, name=f"attention_{index}")(x))
            x = FeedForward(hidden_units, name=f"feed_forward_{index}")(x)
        super().__init__(tokens, layers.LayerNormalization(name="norm")(x), **options)
        self.num_heads, self.hidden_units = num_heads, hidden_units

    def first(self, tokens):
        return self(tokens)[:, 0]

    def get_config(self):
        return {"num_heads": self.num_heads, "hidden_units": self.hidden_units, "name": self.name}


TOKENS = np.random.default_rng(0).integers(0, 11, (3, 7))
PLANS = {
    "units": {"sparsity": 0.5, "filters": "feed_forward"},
    "uneven": {"sparsity": 0.5, "allocation": {"attention_0/heads": 0.5, "feed_forward_1": 0.5, "": 0.0}},
}


@pytest.mark.parametrize("name", first("uneven", "units"))
def test_the_class_comes_back_smaller(name, tmp_path):
    keras.utils.set_random_seed(2)
    model = Backbone(name="backbone")
    plan = tfprune.plan_shrink(model, **PLANS[name])
    smaller = tfprune.shrink(model, plan, into="class")
    assert isinstance(smaller, Backbone)
    assert smaller.count_params() == plan.parameters_kept < model.count_params()
    masked = tfprune.zero_channels(model, plan)
    np.testing.assert_allclose(smaller.first(TOKENS), masked(TOKENS)[:, 0], atol=1e-5)
    smaller.save(tmp_path / "smaller.keras")
    np.testing.assert_array_equal(
        keras.models.load_model(tmp_path / "smaller.keras").first(TOKENS), smaller.first(TOKENS)
    )


def test_arguments_say_what_all_blocks_keep():
    model = Backbone(name="backbone")
    smaller = tfprune.shrink(model, tfprune.plan_shrink(model, **PLANS["units"]))
    assert type(smaller) is Backbone  # it loads without tfprune
    assert smaller.hidden_units == 5


@pytest.mark.programs
def test_a_smaller_class_gets_smaller_again():
    model = Backbone(name="backbone")
    smaller = tfprune.shrink(model, tfprune.plan_shrink(model, **PLANS["uneven"]))
    plan = tfprune.plan_shrink(smaller, 0.5)
    smallest = tfprune.shrink(smaller, plan, into="class")
    assert smallest.count_params() < smaller.count_params() < model.count_params()
    np.testing.assert_allclose(smallest(TOKENS), tfprune.zero_channels(smaller, plan)(TOKENS), atol=1e-5)


def defined_anew() -> type[keras.Model]:
    """Return a class of which there was no instance yet, as in another process."""

    @register
    class Fresh(keras.Model):
        def __init__(self, width=6, **options):
            x = keras.Input((8,), name="x")
            super().__init__(x, layers.Dense(3, name="out")(FeedForward(width, name="feed_forward")(x)), **options)
            self.width = width

        def first(self, inputs):
            return self(inputs)[:, 0]

        def get_config(self):
            return {"width": self.width, "name": self.name}

    return Fresh


@pytest.mark.parametrize("act", [lambda model: tfprune.shrink(model, tfprune.plan_shrink(model, 0.5)), tfprune.wrap])
def test_a_file_is_loaded_before_there_is_an_instance_of_its_class(act, tmp_path):
    changed = act(defined_anew()(name="fresh"))
    changed.save(tmp_path / "changed.keras")
    loaded_class = defined_anew()
    loaded = keras.models.load_model(tmp_path / "changed.keras")
    assert isinstance(loaded, loaded_class)
    inputs = np.ones((2, 8))
    np.testing.assert_array_equal(loaded.first(inputs), changed.first(inputs))


def test_a_model_that_is_no_class_of_its_own_has_none_to_come_back_as():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(6, name="hidden"), layers.Dense(2)])
    with pytest.raises(ValueError, match="Functional is not a Functional subclass|Sequential is not a Functional"):
        tfprune.shrink(model, tfprune.plan_shrink(model, 0.5), into="class")


@register
class ScaledFeedForward(FeedForward):
    """Its code uses the number of units, so that fewer units are another function."""

    def call(self, inputs):
        return inputs + self.down(self.up(inputs)) * self.units


@register
class Scaled(keras.Model):
    def __init__(self, **options):
        x = keras.Input((8,), name="x")
        hidden = ScaledFeedForward(6, name="first")(x)
        outputs = layers.Dense(3, name="out")(ScaledFeedForward(4, name="second")(hidden))
        super().__init__(x, outputs, **options)

    def first(self, inputs):
        return self(inputs)[:, 0]

    def get_config(self):
        return {"name": self.name}


def test_a_class_that_computes_something_else_with_fewer_units_comes_back_as_a_graph():
    model, x = Scaled(), np.random.default_rng(0).normal(size=(3, 8)).astype("float32")
    plan = tfprune.plan_shrink(model, 0.5)
    smaller = tfprune.shrink(model, plan)
    assert not isinstance(smaller, Scaled) and smaller.count_params() == plan.parameters_kept
    np.testing.assert_allclose(smaller(x), tfprune.zero_channels(model, plan)(x), atol=1e-4)
    with pytest.raises(ValueError, match="its code returns something else where layers are smaller"):
        tfprune.shrink(model, plan, into="class")


class WithoutConfig(layers.Layer):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, inputs):
        return self.factor * inputs


@register
class Holder(keras.Model):
    def __init__(self, **options):
        x = keras.Input((8,), name="x")
        hidden = WithoutConfig(2.0)(layers.Dense(6, name="hidden")(x))
        super().__init__(x, layers.Dense(3, name="out")(hidden), **options)

    def first(self, inputs):
        return self(inputs)[:, 0]

    def get_config(self):
        return {"name": self.name}


def test_a_graph_shares_a_layer_without_a_configuration():
    model, x = Holder(), np.random.default_rng(0).normal(size=(3, 8)).astype("float32")
    plan = tfprune.plan_shrink(model, 0.5)
    expected = tfprune.shrink(model, tfprune.plan_shrink(model, 0.5), into="class")(x)
    for _ in range(2):
        np.testing.assert_allclose(tfprune.shrink(model, plan, into="graph")(x), expected, atol=1e-5)


@register
class Rolled(keras.Model):
    """A Functional subclass whose code counts units, which its argument changes and this code does not."""

    def __init__(self, units=12, **options):
        x = keras.Input((6,), name="x")
        hidden = layers.Dense(units, "tanh", name="hidden")(x)
        super().__init__(x, layers.Dense(3, name="out")(ops.roll(hidden, 5, axis=-1) / units), **options)
        self.units = units

    def first(self, inputs):
        return self(inputs)[:, 0]

    def get_config(self):
        return {"units": self.units, "name": self.name}


def test_a_class_whose_code_counts_units_becomes_a_graph():
    keras.utils.set_random_seed(3)
    model = Rolled()
    plan = tfprune.plan_shrink(model, 0.5)
    x = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    smaller = tfprune.shrink(model, plan)
    assert not isinstance(smaller, Rolled)
    np.testing.assert_allclose(smaller(x), tfprune.zero_channels(model, plan)(x), atol=1e-6)
    with pytest.raises(ValueError, match="its code returns something else where layers are smaller"):
        tfprune.shrink(model, plan, into="class")
