"""Functional subclasses: wrapped as what they are, with their methods, saved, loaded and stripped."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from kinds import TOKENS, Backbone, Task, Tied, backbone, task

import tfprune

PACKAGE = "tests.around_graph"


def test_its_methods_call_the_layers_whose_weights_hold_the_zeros():
    wrapped = tfprune.wrap(backbone())
    tfprune.update_masks(wrapped, 0.5)
    np.testing.assert_array_equal(wrapped.by_hand(TOKENS["tokens"]), wrapped(TOKENS))
    assert type(wrapped.embedding) is layers.Embedding
    assert wrapped.get_layer("embedding").layer is wrapped.embedding


def test_tensors_of_the_graph_that_it_keeps_are_those_of_the_new_graph():
    wrapped = tfprune.wrap(backbone())
    tfprune.update_masks(wrapped, 0.5)
    part = keras.Model(wrapped.input, wrapped.ends)
    assert any(isinstance(layer, tfprune.Pruned) for layer in part.layers)
    np.testing.assert_array_equal(part(TOKENS)["last"], wrapped(TOKENS))


def test_the_backbone_of_a_task_is_wrapped_with_it_and_a_tied_layer_once():
    tied = task(Tied)
    wrapped = tfprune.wrap(tied)
    assert isinstance(wrapped.backbone, Backbone)
    assert wrapped.backbone is wrapped.get_layer("backbone")
    assert wrapped.get_layer("embedding") is wrapped.backbone.get_layer("embedding")
    paths = [row.path for row in tfprune.sparsity_report(wrapped).rows]
    assert len(paths) == 5
    assert [path for path in paths if "embedding" in path] == ["embedding/embeddings"]
    tfprune.update_masks(wrapped, 0.5)
    stripped = tfprune.strip(wrapped.backbone)
    assert type(stripped) is Backbone
    np.testing.assert_array_equal(stripped(TOKENS), wrapped.backbone(TOKENS))


def test_what_has_no_weights_and_is_not_in_the_graph_is_shared():
    model, texts = task(), ["the quick", "lazy dog"]
    wrapped = tfprune.wrap(model)
    stripped = tfprune.strip(wrapped)
    assert wrapped.tokenizer is model.tokenizer is stripped.tokenizer
    np.testing.assert_array_equal(stripped.scores(texts), model.scores(texts))


@keras.saving.register_keras_serializable(PACKAGE)
class Writer(Task):
    """Take one argument more to compile, as language models do."""

    def compile(self, *args, sampler="top_k", **kwargs):
        super().compile(*args, **kwargs)
        self.sampler = sampler

    def generate(self):
        return self.sampler


def test_what_a_language_model_writes_by_comes_with_it():
    writer = task(Writer)
    writer.compile(sampler="greedy")
    wrapped = tfprune.wrap(writer)
    assert wrapped.generate() == "greedy"
    wrapped.compile(sampler="beam")
    assert tfprune.strip(wrapped).generate() == "beam"


def test_frozen_layers_and_names_stay_what_they_are(tmp_path):
    model = task()
    model.backbone.trainable = False
    model.backbone.get_layer("block_1").trainable = True
    wrapped = tfprune.wrap(model)
    wrapped.save(tmp_path / "wrapped.keras")
    for candidate in (wrapped, keras.models.load_model(tmp_path / "wrapped.keras"), tfprune.strip(wrapped)):
        assert len(candidate.trainable_weights) == len(model.trainable_weights)
        paths = [row.path for row in tfprune.sparsity_report(candidate).rows]
        assert paths == [row.path for row in tfprune.sparsity_report(model).rows]


@keras.saving.register_keras_serializable(PACKAGE)
class Forgetful(keras.Model):
    """Leave an argument out of its configuration."""

    def __init__(self, width=4, **kwargs):
        inputs = keras.Input((3,))
        super().__init__(inputs, layers.Dense(width, name="dense")(inputs), **kwargs)

    def twice(self, inputs):
        return 2 * self(inputs)

    def get_config(self):
        return {"name": self.name}


def test_a_class_that_forgets_an_argument_comes_back_as_the_graph_that_it_is():
    model, x = Forgetful(5), np.ones((2, 3))
    with pytest.warns(UserWarning, match="plain Functional model, not of class Forgetful"):
        wrapped = tfprune.wrap(model)
    np.testing.assert_array_equal(wrapped(x), model(x))
    inputs = keras.Input((3,))
    with pytest.raises(ValueError, match=r"same weights.*'dense' with weights of shapes \[\(3, 4\), \(4,\)\]"):
        tfprune.wrap(keras.Model(inputs, model(inputs)))  # in a graph of another model it has to be of its class


def test_wrappers_that_its_own_code_creates_cannot_be_stripped():
    @keras.saving.register_keras_serializable(PACKAGE)
    class Wrapping(keras.Model):
        def __init__(self, **kwargs):
            inputs = keras.Input((3,))
            super().__init__(inputs, tfprune.Pruned(layers.Dense(3, name="dense"))(inputs), **kwargs)

        def twice(self, inputs):
            return self(self(inputs))

        def get_config(self):
            return {"name": self.name}

    stripped = tfprune.strip(Wrapping())  # as the graph that it is, since its code would create them again
    assert [type(layer) for layer in stripped.layers[1:]] == [layers.Dense]
