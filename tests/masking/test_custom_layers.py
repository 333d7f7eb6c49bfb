"""Layers as scripts write them, without `get_config` or `**kwargs`: copied, wrapped in place, or refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from kinds import OwnWeights, Stepping, TransformerBlock, by_hand, random, transformer

import tfprune


def test_a_stripped_copy_has_the_constraints_of_the_layer_and_not_those_of_the_masks():
    scaled = OwnWeights(by_hand)
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
    assert type(wrapped.layers[3]) is TransformerBlock


def test_a_functional_model_with_a_step_of_its_own_keeps_it_in_place():
    plain, x = transformer(), random(16, 12)
    nested = keras.Sequential([keras.Input((2,)), layers.Dense(3, name="inside")], name="nested")
    model = Stepping(plain.inputs, nested(plain.outputs[0]))
    model.compile("sgd", "mse")
    before, weights, step = model(x), {id(weight) for weight in model.weights}, model.train_step
    assert tfprune.wrap(model, in_place=True) is model
    assert isinstance(model, Stepping) and isinstance(nested, keras.Sequential)
    assert not model.compiled and step.__func__ is model.train_step.__func__
    assert weights <= {id(weight) for weight in model.weights}
    np.testing.assert_array_equal(model(x), before)
    assert isinstance(nested.get_layer("inside"), tfprune.Pruned)


def test_a_layer_is_wrapped_in_place():
    x = random(3, 4)
    for layer in (OwnWeights(by_hand), layers.Dense(4)):
        before = layer(x)
        wrapper = tfprune.wrap(layer, in_place=True)
        assert wrapper.layer is layer
        np.testing.assert_array_equal(wrapper(x), before)
        tfprune.update_masks(wrapper, 0.5)
        np.testing.assert_array_equal(tfprune.strip(wrapper)(x), wrapper(x))
    assert not tfprune.wrap(layers.Dense(4), in_place=True).built


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
