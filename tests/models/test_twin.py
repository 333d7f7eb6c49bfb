"""A copy is a twin whose layers are replaced in place: what a model is besides its layers stays."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import tfprune
from tfprune.masking.strip import copy_with
from tfprune.models.anatomy import Anatomy
from tfprune.models.twin import twin

PACKAGE = "tests_twin"


def small(kind: str) -> keras.Model:
    stack = [layers.Dense(4, name="hidden"), layers.ReLU(name="relu"), layers.Dense(2, name="out")]
    if kind == "sequential":
        return keras.Sequential([keras.Input((3,)), *stack])
    inputs = x = keras.Input((3,))
    for layer in stack:
        x = layer(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_outputs_of_layers_in_a_copy_are_those_of_its_graph(kind):
    model, x = small(kind), np.ones((2, 3))
    wrapped = tfprune.wrap(model)
    for name in ("relu", "out"):
        inner = keras.Model(wrapped.inputs, wrapped.get_layer(name).output)
        expected = keras.Model(model.inputs, model.get_layer(name).output)
        np.testing.assert_array_equal(inner(x), expected(x))


@pytest.mark.parametrize("kind", ["sequential", "functional"])
def test_sparse_inputs_stay_sparse(kind):
    inputs = keras.Input((3,), sparse=True, name="features")
    dense = layers.Dense(2)
    model = keras.Sequential([inputs, dense]) if kind == "sequential" else keras.Model(inputs, dense(inputs))
    (kept,) = tfprune.wrap(model).inputs
    assert (kept.sparse, kept.name) == (True, "features")


@keras.saving.register_keras_serializable(PACKAGE)
class WithFeatures(keras.Model):
    """A graph, and another model over a part of it."""

    def __init__(self, inputs, outputs, name=None, **kwargs):
        super().__init__(inputs, outputs, name=name, **kwargs)
        self.features = keras.Model(inputs, self.get_layer("relu").output)


def test_what_a_class_keeps_beside_its_graph_reads_through_the_wrappers():
    plain, x = small("functional"), np.ones((2, 3))
    wrapped = tfprune.wrap(WithFeatures(plain.input, plain.output))
    assert type(wrapped) is WithFeatures
    np.testing.assert_array_equal(wrapped.features(x), plain.layers[2](plain.layers[1](x)))
    assert any(isinstance(layer, tfprune.Pruned) for layer in wrapped.features.layers)


def test_a_twin_is_plain_and_a_copy_has_the_wrappers_with_all_that_they_keep():
    inputs = keras.Input((3,))
    inner = layers.Dense(4, name="inside")
    model = keras.Model(inputs, tfprune.Pruned(inner, name="outside", criterion="random")(inputs))
    tfprune.update_masks(model, 0.5)
    assert [type(layer) for layer in twin(Anatomy.of(model)).layers[1:]] == [layers.Dense]
    wrapper, copied = model.layers[1], copy_with(Anatomy.of(model)).layers[1]
    assert (copied.name, copied.layer.name, copied.criterion) == ("outside", "inside", wrapper.criterion)
    assert copied.layer is not wrapper.layer
    for name, variable in wrapper.saved_variables().items():
        np.testing.assert_array_equal(copied.saved_variables()[name], variable)
    np.testing.assert_array_equal(copied.latent("kernel"), wrapper.latent("kernel"))


@keras.saving.register_keras_serializable(PACKAGE)
class Frozen(layers.Layer):
    """Its configuration has neither its name nor whether it trains."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.kernel_layer = layers.Dense(3)

    def build(self, shape):
        self.kernel_layer.build(shape)

    def call(self, inputs):
        return self.kernel_layer(inputs)

    def get_config(self):
        return {}


def test_layers_of_a_twin_have_the_names_of_the_originals_and_train_as_they_do():
    model = keras.Sequential([keras.Input((3,)), Frozen(name="first"), Frozen(name="second")])
    model.layers[0].trainable = False
    copy = twin(Anatomy.of(model))
    assert [layer.name for layer in copy.layers] == ["first", "second"]
    assert [layer.trainable for layer in copy.layers] == [False, True]
    assert [layer.trainable for layer in tfprune.wrap(model).layers] == [False, True]


def test_a_layer_is_copied_as_a_model_is():
    layer = layers.Dense(3, name="dense")
    layer.build((None, 4))
    wrapper = copy_with(Anatomy.of(layer, accepts=layers.Layer), lambda path, copy: tfprune.Pruned(copy))
    assert isinstance(wrapper, tfprune.Pruned) and wrapper.layer is not layer
    np.testing.assert_array_equal(wrapper.layer.kernel, layer.kernel)
    again = copy_with(Anatomy.of(wrapper, accepts=layers.Layer))
    assert isinstance(again, tfprune.Pruned) and again.layer is not wrapper.layer
    plain = twin(Anatomy.of(wrapper, accepts=layers.Layer))
    assert (type(plain), plain.built, plain.name) == (layers.Dense, True, "dense")
