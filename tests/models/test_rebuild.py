"""Copies of models: everything that is not a wrapper stays what it was."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfprune
from tfprune.models.anatomy import Anatomy, Kind, kind_of
from tfprune.models.in_place import copy_layers
from tfprune.models.twin import copy_of, copy_variables, twin


def copy_model(model: keras.Model) -> keras.Model:
    anatomy = Anatomy.of(model)
    copy = twin(anatomy)
    copies = dict(Anatomy.of(copy).leaves)
    for path, layer in anatomy.leaves:
        copy_variables(layer, copies[path])
    return copy


def test_units_are_the_layers_of_the_graph_and_of_nested_graphs():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a")], name="inner")
    inputs = keras.Input((4,), name="in")
    part = layers.TimeDistributed(keras.Sequential([layers.Dense(2)]), name="time")(
        layers.Reshape((1, 3))(inner(inputs))
    )
    model = keras.Model(inputs, part)
    assert [path for path, _ in Anatomy.of(model).leaves] == ["in", "inner/a", model.layers[2].name, "time"]
    dense = layers.Dense(3)
    assert Anatomy.of(dense, accepts=layers.Layer).leaves == [("", dense)]


@pytest.mark.parametrize("shared", [False, True])
def test_a_layer_shared_between_levels_is_refused(shared):
    dense, inputs = layers.Dense(4, name="tied"), keras.Input((4,))
    inner = keras.Model(inputs, (dense if shared else layers.Dense(4))(inputs), name="inner")
    outer = keras.Input((4,))
    model = keras.Model(outer, dense(inner(outer)), name="outer")
    if shared:
        with pytest.raises(ValueError, match="'tied', which both 'outer' and 'inner' hold"):
            tfprune.wrap(model)
    else:
        assert tfprune.sparsity_report(tfprune.wrap(model)).size == 32


def test_only_replaced_layers_change():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="a"), layers.Dense(2, name="b")])
    other = layers.Dense(2, activation="relu", name="b")
    copy = copy_layers(Anatomy.of(model), lambda path, layer: other if path == "b" else None)
    assert [layer.activation.__name__ for layer in copy.layers] == ["linear", "relu"]
    assert [layer.activation.__name__ for layer in model.layers] == ["linear", "linear"]


class Functional(keras.Model):
    """A subclass whose constructor takes arguments of its own and builds a graph."""

    def __init__(self, units=3, **kwargs):
        inputs = keras.Input((4,))
        super().__init__(inputs, layers.Dense(units, name="dense")(inputs), **kwargs)


class Twice(keras.Model):
    """A functional model whose class changes the call."""

    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs)


def test_the_kind_tells_lists_of_layers_from_code():
    inputs = keras.Input((4,))
    functional = keras.Model(inputs, layers.Dense(2)(inputs))
    for model in (functional, keras.Sequential(), Twice(inputs, layers.Dense(1)(inputs))):
        assert kind_of(model) is Kind.GRAPH
    assert kind_of(Functional()) is Kind.PLAIN_SUBCLASS
    assert kind_of(layers.Dense(2)) is Kind.LAYER


def test_a_subclass_of_a_functional_model_stays_one():
    inputs = keras.Input((4,))
    model = Twice(inputs, layers.Dense(2, name="dense")(inputs))
    wrapped = tfprune.wrap(model)
    x = np.ones((1, 4), "float32")
    assert type(wrapped) is Twice and type(tfprune.strip(wrapped)) is Twice
    np.testing.assert_allclose(wrapped(x), model(x), rtol=1e-6)


def test_arguments_of_calls_are_kept():
    inputs = keras.Input((6, 4))
    x = layers.Dropout(0.9, seed=1)(inputs, training=True)
    mask = layers.Lambda(lambda t: keras.ops.any(t != 0, axis=-1))(inputs)
    x = layers.GRU(3, return_sequences=True, name="gru")(x, mask=mask)
    x = layers.MultiHeadAttention(1, 2, name="mha")(x, x, use_causal_mask=True, return_attention_scores=True)[0]
    model = keras.Model(inputs, x)
    data = np.random.default_rng(0).normal(size=(2, 6, 4)).astype("float32")
    data[:, 4:] = 0
    wrapped = tfprune.wrap(model)
    np.testing.assert_array_equal(wrapped(data), model(data))
    np.testing.assert_allclose(tfprune.strip(wrapped)(data), model(data), atol=1e-7)


def test_adapted_layers_keep_what_they_learnt():
    values = np.random.default_rng(0).normal(3, 2, size=(200, 1)).astype("float32")
    words = keras.Input((1,), dtype="string", name="words")
    number = keras.Input((1,), name="number")
    lookup, bins, norm = (
        layers.StringLookup(output_mode="multi_hot"),
        layers.Discretization(num_bins=4),
        layers.Normalization(),
    )
    lookup.adapt(np.array([["cat"], ["dog"], ["dog"]]))
    bins.adapt(values), norm.adapt(values)
    embedded = layers.Flatten()(layers.Embedding(5, 2, name="embedding")(bins(number)))
    joined = layers.Concatenate()([lookup(words), embedded, norm(number)])
    model = keras.Model([words, number], layers.Dense(2, name="dense")(joined))
    batch = [tf.constant([["dog"], ["cat"], ["cow"]]), tf.constant(values[:3])]
    wrapped = tfprune.wrap(model)
    np.testing.assert_allclose(wrapped(batch), model(batch), atol=1e-6)
    np.testing.assert_allclose(tfprune.strip(wrapped)(batch), model(batch), atol=1e-6)


def test_two_classes_of_one_name_are_not_mixed_up():
    def make(factor):
        class Scale(layers.Layer):
            def call(self, inputs):
                return factor * inputs

        return Scale()

    model = keras.Sequential([keras.Input((4,)), make(2.0), make(3.0), layers.Dense(2)])
    x = np.ones((1, 4), "float32")
    with pytest.raises(ValueError, match="two called 'Scale' in .* Rename one"):
        tfprune.wrap(model)
    single = keras.Sequential([keras.Input((4,)), make(2.0), layers.Dense(2)])
    np.testing.assert_allclose(tfprune.wrap(single)(x), single(x), rtol=1e-6)


def test_functions_classes_and_initialisers_of_ones_own_are_found():
    class Ones(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None):
            return keras.ops.ones(shape, dtype)

        def get_config(self):
            return {}

    class Halve(keras.constraints.Constraint):
        def __call__(self, w):
            return w / 2

    def cube(x):
        return x**3

    dense = layers.Dense(3, activation=cube, kernel_initializer=Ones(), kernel_constraint=Halve())
    cell = layers.RNN(layers.SimpleRNNCell(3, activation=cube, kernel_initializer=Ones()))
    model = keras.Sequential([keras.Input((5, 2)), layers.TimeDistributed(dense), cell])
    x = np.full((1, 5, 2), 0.1, "float32")
    np.testing.assert_allclose(tfprune.wrap(model)(x), model(x), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_a_lambda_as_activation_is_refused_with_the_reason():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation=lambda x: 2 * x)])
    with pytest.raises(ValueError, match="a lambda as an activation cannot be rebuilt"):
        tfprune.wrap(model)


def test_lambda_layers_keep_the_names_they_use():
    factor = 3.0
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Lambda(lambda x: keras.ops.square(x) * factor),
            layers.Lambda(lambda x: keras.ops.exp(x) - 1),
            layers.Dense(2),
        ]
    )
    x = np.full((1, 4), 0.1, "float32")
    np.testing.assert_array_equal(tfprune.wrap(model)(x), model(x))
    np.testing.assert_array_equal(tfprune.strip(tfprune.wrap(model))(x), model(x))


def test_seeds_and_statistics_are_copied():
    model = keras.Sequential([keras.Input((4,)), layers.Dropout(0.5), layers.BatchNormalization(), layers.Dense(2)])
    x = np.ones((8, 4), "float32")
    model(x, training=True)
    copy = copy_model(model)
    np.testing.assert_array_equal(copy(x, training=True), model(x, training=True))
    for variable, copied in zip(model.variables, copy.variables, strict=True):
        np.testing.assert_array_equal(variable, copied)


def test_copy_of_keeps_dtype_flags_and_build():
    layer = layers.Dense(3, dtype="mixed_float16", trainable=False, name="dense")
    layer.build((None, 4))
    copy = copy_of(layer)
    assert (copy.dtype_policy.name, copy.trainable, copy.built, copy.name) == ("mixed_float16", False, True, "dense")
    assert not copy_of(layers.Dense(3)).built


def test_variables_that_do_not_fit_are_refused():
    source, target = layers.Dense(3, name="dense"), layers.Dense(3, use_bias=False)
    source.build((None, 4)), target.build((None, 4))
    with pytest.raises(ValueError, match=re.escape("Received: 1 where it has 2")):
        copy_variables(source, target)


class NamedByKeras(layers.Layer):
    """Keras makes up its configuration, without the name that it chose."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


@pytest.mark.parametrize("kind", ["sequential", "functional", "nested"])
def test_layers_whose_configuration_has_no_name_are_rebuilt(kind):
    inputs = keras.Input((4,))
    model = keras.Sequential([inputs, NamedByKeras(), NamedByKeras()])
    if kind == "functional":
        model = keras.Model(inputs, layers.Dense(2)(NamedByKeras()(inputs)))
    if kind == "nested":
        model = keras.Model(inputs, layers.Dense(2)(model(inputs)))
    wrapped = tfprune.wrap(model)
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(wrapped(x), model(x))
    assert [layer.name for layer in wrapped.layers] == [layer.name for layer in model.layers]
    tfprune.update_masks(wrapped, 0.5)
    np.testing.assert_array_equal(tfprune.strip(wrapped)(x), wrapped(x))
