"""Layers as scripts write them, without `get_config` or `**kwargs`: copied, wrapped in place, or refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops
from tiers import first

import tfprune


class Patches(layers.Layer):
    """Cut a row into patches; no weights."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def call(self, x):
        return ops.reshape(x, (-1, x.shape[1] // self.size, self.size))


class Numbers(layers.Layer):
    """Add a vector for each position; its `get_config` forgets an argument."""

    def __init__(self, count, dim):
        super().__init__()
        self.count = count
        self.projection = layers.Dense(dim)
        self.positions = layers.Embedding(count, dim)

    def call(self, x):
        return self.projection(x) + self.positions(ops.arange(self.count))

    def get_config(self):
        return {**super().get_config(), "count": self.count}


class Block(layers.Layer):
    """A transformer block; one layer in it gets its weights when it is called."""

    def __init__(self, dim, heads, rate=0.1):
        super().__init__()
        self.norms, self.spare = [], None
        for _ in range(2):
            self.norms.append(layers.LayerNormalization())
            self.attention = layers.MultiHeadAttention(heads, dim)  # the first one is tracked, and not called
        self.feed_forward = keras.Sequential([layers.Dense(2 * dim, "relu"), layers.Dense(dim)])
        self.dropout = layers.Dropout(rate, seed=1)
        self.gate = Gate()

    def call(self, x, training=None):
        x = self.norms[0](x + self.dropout(self.attention(x, x), training=training))
        return self.gate(self.norms[1](x + self.feed_forward(x)))


class Gate(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, "sigmoid")

    def call(self, x):
        return x * self.dense(x)


class Scaled(layers.Layer):
    """Take a function, and create weights of its own, the frozen one first, and layers in another order."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.first = None
        self.second = layers.Dense(4)
        self.noise = keras.random.SeedGenerator(3)

    def build(self, shape):
        self.offset = self.add_weight(name="offset", shape=(shape[-1],), trainable=False, initializer="ones")
        self.kernel = self.add_weight(
            name="kernel",
            shape=(shape[-1], 4),
            regularizer=keras.regularizers.OrthogonalRegularizer(),
            constraint=keras.constraints.MaxNorm(2.0),
        )
        self.first = layers.Dense(4)
        self.first.build(shape)
        self.second.build(shape)

    def call(self, x):
        return self.function(ops.matmul(x, self.kernel) + self.offset) + self.first(x) - self.second(x)


def by_hand(x):
    return ops.tanh(x)


def transformer() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12,))
    x = Numbers(3, 4)(Patches(4)(inputs))
    x = Scaled(by_hand)(Block(4, 2)(x))
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(x)))


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def trained(model: keras.Model, x: np.ndarray) -> keras.Model:
    model.compile("adam", "mse")
    pruning = tfprune.PruningCallback(tfprune.schedules.Constant(0.5))
    model.fit(x, np.zeros((len(x), *model.output_shape[1:])), epochs=2, verbose=0, callbacks=[pruning])
    return model


@pytest.mark.programs
def test_a_model_of_them_is_wrapped_trained_and_stripped_and_shares_nothing():
    model, x = transformer(), random(16, 12)
    before = model.get_weights()
    wrapped = tfprune.wrap(model)
    np.testing.assert_array_equal(wrapped(x), model(x))
    assert [weight.name for weight in wrapped.trainable_weights] == [w.name for w in model.trainable_weights]
    trained(wrapped, x)
    report = tfprune.sparsity_report(wrapped)
    assert report.sparsity == pytest.approx(0.5, abs=0.02)
    assert len(report.rows) == 13
    stripped = tfprune.strip(wrapped)
    np.testing.assert_allclose(stripped(x), wrapped(x), atol=1e-6)
    assert [type(layer) for layer in stripped.layers] == [type(layer) for layer in model.layers]
    assert tfprune.sparsity_report(stripped).nnz == report.nnz
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    variables = [{id(variable) for variable in candidate.variables} for candidate in (model, wrapped, stripped)]
    assert not variables[0] & variables[1]
    assert not variables[1] & variables[2]
    for weight in stripped.weights:
        weight.assign(ops.zeros_like(weight))
    assert np.abs(wrapped(x)).max() > 0


def test_a_stripped_copy_has_the_constraints_of_the_layer_and_not_those_of_the_masks():
    scaled = Scaled(by_hand)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, scaled(inputs))
    wrapped = tfprune.wrap(model)
    kernel = tfprune.strip(wrapped).layers[-1].kernel
    assert kernel.constraint is scaled.kernel.constraint
    assert kernel.regularizer is scaled.kernel.regularizer
    assert wrapped.layers[-1].layer.kernel.constraint is not scaled.kernel.constraint
    assert not hasattr(kernel, "tfprune_mask")


def test_frozen_layers_stay_frozen_and_train_again_once_they_are_not():
    model, x = transformer(), random(4, 12)
    block, scaled = model.layers[3:5]
    block.trainable, scaled.trainable = False, False
    block.norms[0].trainable = True
    before = [(weight.trainable, weight.path) for weight in model.weights]
    stripped = tfprune.strip(tfprune.wrap(model))
    assert [(weight.trainable, weight.path) for weight in model.weights] == before
    np.testing.assert_array_equal(stripped(x), model(x))
    for candidate in (model, stripped):
        candidate.layers[4].trainable = True
    assert [weight.trainable for weight in stripped.weights] == [weight.trainable for weight in model.weights]
    assert [weight.name for weight in stripped.weights] == [weight.name for weight in model.weights]


@pytest.mark.programs
def test_a_copy_is_exported_by_keras(tmp_path):
    stripped, x = tfprune.strip(tfprune.wrap(transformer(), filters="^head")), random(4, 12)
    stripped(x)
    stripped.export(tmp_path / "exported", verbose=False)
    assert (tmp_path / "exported" / "saved_model.pb").is_file()


def test_filters_may_ask_for_the_head_alone():
    model, x = transformer(), random(4, 12)
    wrapped = tfprune.wrap(model, filters="^head")
    np.testing.assert_array_equal(wrapped(x), model(x))
    assert [row.path for row in tfprune.sparsity_report(wrapped).rows] == ["head/kernel"]
    assert type(wrapped.layers[3]) is Block


class Stepping(keras.Model):
    """A Functional model with a training step of its own."""

    def train_step(self, data):
        return {**super().train_step(data), "mine": 1.0}


@pytest.mark.programs
@pytest.mark.parametrize("make", first(keras.Model, Stepping))
def test_a_functional_model_is_wrapped_in_place(make):
    plain, x = transformer(), random(16, 12)
    nested = keras.Sequential([keras.Input((2,)), layers.Dense(3, name="inside")], name="nested")
    model = make(plain.inputs, nested(plain.outputs[0]))
    model.compile("sgd", "mse")
    before, weights, step = model(x), {id(weight) for weight in model.weights}, model.train_step
    assert tfprune.wrap(model, in_place=True) is model
    assert isinstance(model, make)
    assert not model.compiled
    assert weights <= {id(weight) for weight in model.weights}
    np.testing.assert_array_equal(model(x), before)
    assert isinstance(nested.get_layer("inside"), tfprune.Pruned)
    assert isinstance(nested, keras.Sequential)
    trained(model, x)
    assert step.__func__ is model.train_step.__func__
    assert tfprune.sparsity_report(model).sparsity == pytest.approx(0.5, abs=0.02)
    stripped = tfprune.strip(model)
    np.testing.assert_allclose(stripped(x), model(x), atol=1e-6)
    assert tfprune.sparsity_report(stripped).size == tfprune.sparsity_report(model).size


def test_a_sequential_model_is_wrapped_in_place_and_saved(tmp_path):
    model, x = keras.Sequential([keras.Input((12,)), layers.Dense(5, "relu"), layers.Dense(2)]), random(8, 12)
    before = model(x)
    assert tfprune.wrap(model, in_place=True) is model
    assert type(model) is keras.Sequential
    np.testing.assert_array_equal(model(x), before)
    trained(model, x)
    model.save(tmp_path / "wrapped.keras")
    loaded = keras.models.load_model(tmp_path / "wrapped.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    assert tfprune.sparsity_report(loaded) == tfprune.sparsity_report(model)
    np.testing.assert_allclose(tfprune.strip(model)(x), model(x), atol=1e-6)


def test_a_layer_is_wrapped_in_place():
    x = random(3, 4)
    for layer in (Scaled(by_hand), layers.Dense(4)):
        before = layer(x)
        wrapper = tfprune.wrap(layer, in_place=True)
        assert wrapper.layer is layer
        np.testing.assert_array_equal(wrapper(x), before)
        tfprune.update_masks(wrapper, 0.5)
        np.testing.assert_array_equal(tfprune.strip(wrapper)(x), wrapper(x))
    assert not tfprune.wrap(layers.Dense(4), in_place=True).built


def test_a_graph_in_a_subclassed_model_is_wrapped_in_place_too():
    class Holder(keras.Model):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def call(self, x):
            return self.inner(x)

    inner, x = transformer(), random(2, 12)
    model = Holder(inner)
    before = model(x)
    tfprune.wrap(model, in_place=True)
    assert model.inner is inner
    assert isinstance(inner.get_layer("head"), tfprune.Pruned)
    np.testing.assert_array_equal(model(x), before)
    tfprune.update_masks(model, 0.5)
    np.testing.assert_array_equal(tfprune.strip(inner)(x), model(x))


def test_a_model_that_is_refused_in_place_is_as_it_was():
    model = transformer()
    layers_before = list(model.layers)
    with pytest.raises(ValueError, match="cannot take the pattern"):
        tfprune.wrap(model, in_place=True, pattern=tfprune.patterns.NM(13, 16), filters="kernel")
    assert model.layers == layers_before
    with pytest.raises(ValueError, match="built model"):
        tfprune.wrap(keras.Sequential([layers.Dense(2)]), in_place=True)


class Closed(layers.Layer):
    """Keep a function over one of its layers."""

    def __init__(self, dim):
        super().__init__()
        self.dense = layers.Dense(dim)
        self.twice = lambda x: 2 * self.dense(x)

    def call(self, x):
        return self.twice(x)


class InASet(Closed):
    def __init__(self, dim):
        super().__init__(dim)
        self.twice = {layers.Dense(dim)}

    def call(self, x):
        for part in self.twice:
            x = part(self.dense(x))
        return x


@pytest.mark.parametrize("kind", [Closed, InASet])
@pytest.mark.parametrize("in_place", [False, True])
def test_what_remains_is_refused_with_the_two_edits(kind, in_place):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, kind(4)(inputs))
    message = r"of class (Closed|InASet) .*'trainable'.*'twice'.*\*\*kwargs.*`get_config`"
    with pytest.raises(ValueError, match=message):
        tfprune.wrap(model, in_place=in_place)
    assert type(model.layers[1]) is kind


def test_without_weights_any_code_may_refer_to_anything():
    class Weightless(layers.Layer):
        def __init__(self, size):
            super().__init__()
            self.twice = lambda x: self.scale * x
            self.scale = size

        def call(self, x):
            return self.twice(x)

    inputs = keras.Input((4,))
    model, x = keras.Model(inputs, layers.Dense(2)(Weightless(3)(inputs))), random(2, 4)
    np.testing.assert_array_equal(tfprune.strip(tfprune.wrap(model))(x), model(x))
