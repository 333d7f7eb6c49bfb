"""Functional subclasses: wrapped as what they are, with their methods, saved, loaded and stripped."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops
from tiers import first

import tfprune
from tfprune.schedules import Constant

PACKAGE = "tests.around_graph"


class Block(layers.Layer):
    """A layer whose configuration is broken, as nobody ever asked for it, and that holds its layers twice."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.up, self.down = layers.Dense(2 * width, name="up"), layers.Dense(width, name="down")
        self.both = keras.Sequential([self.up, self.down])
        self.initializers = [lambda: 1, lambda: 2]

    def build(self, input_shape):
        self.both.build(input_shape)
        self.built = True

    def call(self, inputs):
        return inputs + self.both(inputs)

    def get_config(self):
        return {**super().get_config(), "width": self.never_set}


@keras.saving.register_keras_serializable(PACKAGE)
class Backbone(keras.Model):
    """Keep its layers in attributes, a tensor of its graph among them, as backbones do."""

    def __init__(self, depth=2, width=4, **kwargs):
        embedding = layers.Embedding(20, width, name="embedding")
        blocks = [Block(width, name=f"block_{index}") for index in range(depth)]
        tokens = keras.Input((None,), dtype="int32", name="tokens")
        x = first = embedding(tokens)
        for block in blocks:
            x = block(x)
        super().__init__({"tokens": tokens}, x, **kwargs)
        self.embedding, self.blocks = embedding, blocks
        self.depth, self.width = depth, width
        self.ends = {"first": first, "last": x}

    def by_hand(self, tokens):
        """Call the layers directly, as a generation loop does."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return x

    def get_config(self):
        return {"depth": self.depth, "width": self.width, "name": self.name}


@keras.saving.register_keras_serializable(PACKAGE)
class Tokenizer(layers.Layer):
    """Its table is no part of its configuration."""

    def __init__(self, table=None, **kwargs):
        super().__init__(**kwargs)
        self.table = table

    def encode(self, texts):
        return np.array([[self.table[word] for word in text.split()] for text in texts])


class TakesTexts(keras.Model):
    """What tasks have in common."""

    def scores(self, texts):
        return self({"tokens": ops.convert_to_tensor(self.tokenizer.encode(texts))})

    def get_config(self):
        parts = {"backbone": self.backbone, "tokenizer": self.tokenizer}
        return {"name": self.name} | {key: keras.saving.serialize_keras_object(part) for key, part in parts.items()}

    @classmethod
    def from_config(cls, config):
        parts = {name: keras.saving.deserialize_keras_object(config.pop(name)) for name in ("backbone", "tokenizer")}
        return cls(**parts, **config)


@keras.saving.register_keras_serializable(PACKAGE)
class Task(TakesTexts):
    """Call a head on the outputs of a backbone, and compile itself."""

    def __init__(self, backbone, tokenizer, **kwargs):
        outputs = layers.Dense(20, name="head")(backbone(backbone.input))
        super().__init__(backbone.input, outputs, **kwargs)
        self.backbone, self.tokenizer = backbone, tokenizer
        self.compile("adam", "mse")


@keras.saving.register_keras_serializable(PACKAGE)
class Tied(TakesTexts):
    """Call the embedding, which the backbone calls, once more."""

    def __init__(self, backbone, tokenizer, **kwargs):
        outputs = backbone.embedding(backbone.input["tokens"]) * backbone(backbone.input)
        super().__init__(backbone.input, outputs, **kwargs)
        self.backbone, self.tokenizer = backbone, tokenizer


TOKENS = {"tokens": np.arange(12).reshape(3, 4)}
WORDS = {word: index for index, word in enumerate(["the", "quick", "brown", "fox", "a", "lazy", "dog"])}


def model_of(kind: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    backbone = Backbone(name="backbone")
    if kind == "backbone":
        return backbone
    return {"task": Task, "tied": Tied}[kind](backbone, Tokenizer(WORDS), name=kind)


KINDS = pytest.mark.parametrize("kind", first("task", "backbone", "tied"))


@pytest.mark.programs
@KINDS
def test_it_stays_of_its_class_and_goes_there_and_back(kind, tmp_path):
    model = model_of(kind)
    before = model(TOKENS)
    wrapped = tfprune.wrap(model)
    assert isinstance(wrapped, type(model))
    np.testing.assert_array_equal(wrapped(TOKENS), before)
    paths = [row.path for row in tfprune.sparsity_report(model).rows]
    assert [row.path for row in tfprune.sparsity_report(wrapped).rows] == paths
    wrapped.compile("adam", "mse")
    target = np.ones(before.shape)
    wrapped.fit(TOKENS, target, epochs=3, verbose=0, callbacks=[tfprune.PruningCallback(Constant(0.5))])
    assert tfprune.sparsity_report(wrapped).sparsity == 0.5
    after = wrapped(TOKENS)
    assert np.abs(after - before).max() > 0
    wrapped.save(tmp_path / "wrapped.keras")
    loaded = keras.models.load_model(tmp_path / "wrapped.keras")
    assert isinstance(loaded, type(model))
    np.testing.assert_array_equal(loaded(TOKENS), after)
    assert tfprune.sparsity_report(loaded) == tfprune.sparsity_report(wrapped)
    for candidate in (wrapped, loaded):
        stripped = tfprune.strip(candidate)
        assert type(stripped) is type(model)
        np.testing.assert_array_equal(stripped(TOKENS), after)
    stripped.save(tmp_path / "plain.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "plain.keras")(TOKENS), after)
    np.testing.assert_array_equal(model(TOKENS), before)


def test_latent_values_are_saved_with_it_and_come_back(tmp_path):
    wrapped = tfprune.wrap(model_of("backbone"))
    before = wrapped(TOKENS)
    tfprune.update_masks(wrapped, 0.5)
    wrapped.save(tmp_path / "wrapped.keras")
    loaded = keras.models.load_model(tmp_path / "wrapped.keras")
    tfprune.update_masks(loaded, 0.0)
    np.testing.assert_array_equal(loaded(TOKENS), before)


def test_its_methods_call_the_layers_whose_weights_hold_the_zeros():
    wrapped = tfprune.wrap(model_of("backbone"))
    tfprune.update_masks(wrapped, 0.5)
    np.testing.assert_array_equal(wrapped.by_hand(TOKENS["tokens"]), wrapped(TOKENS))
    assert type(wrapped.embedding) is layers.Embedding
    assert wrapped.get_layer("embedding").layer is wrapped.embedding


def test_tensors_of_the_graph_that_it_keeps_are_those_of_the_new_graph():
    wrapped = tfprune.wrap(model_of("backbone"))
    tfprune.update_masks(wrapped, 0.5)
    part = keras.Model(wrapped.input, wrapped.ends)
    assert any(isinstance(layer, tfprune.Pruned) for layer in part.layers)
    np.testing.assert_array_equal(part(TOKENS)["last"], wrapped(TOKENS))


def test_the_backbone_of_a_task_is_wrapped_with_it_and_a_tied_layer_once():
    task = model_of("tied")
    wrapped = tfprune.wrap(task)
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
    task, texts = model_of("task"), ["the quick", "lazy dog"]
    wrapped = tfprune.wrap(task)
    stripped = tfprune.strip(wrapped)
    assert wrapped.tokenizer is task.tokenizer is stripped.tokenizer
    np.testing.assert_array_equal(stripped.scores(texts), task.scores(texts))


@keras.saving.register_keras_serializable(PACKAGE)
class Writer(Task):
    """Take one argument more to compile, as language models do."""

    def compile(self, *args, sampler="top_k", **kwargs):
        super().compile(*args, **kwargs)
        self.sampler = sampler

    def generate(self):
        return self.sampler


def test_what_a_language_model_writes_by_comes_with_it():
    writer = Writer(Backbone(name="backbone"), Tokenizer(WORDS), name="writer")
    writer.compile(sampler="greedy")
    wrapped = tfprune.wrap(writer)
    assert wrapped.generate() == "greedy"
    wrapped.compile(sampler="beam")
    assert tfprune.strip(wrapped).generate() == "beam"


@pytest.mark.programs
@KINDS
def test_in_place_it_is_wrapped_without_a_second_copy_of_its_weights(kind):
    model = model_of(kind)
    before, weights = model(TOKENS), {id(weight) for weight in model.trainable_weights}
    assert tfprune.wrap(model, in_place=True) is model
    assert {id(weight) for weight in model.trainable_weights} == weights
    np.testing.assert_array_equal(model(TOKENS), before)
    model.compile("adam", "mse")
    target = np.ones(before.shape)
    model.fit(TOKENS, target, epochs=2, verbose=0, callbacks=[tfprune.PruningCallback(Constant(0.5))])
    stripped = tfprune.strip(model)
    np.testing.assert_array_equal(stripped(TOKENS), model(TOKENS))
    assert tfprune.sparsity_report(stripped).sparsity == 0.5


def test_new_layers_are_wrapped_beside_those_that_are_pruned_already():
    once = tfprune.wrap(model_of("task"), filters="head")
    tfprune.update_masks(once, 0.5)
    twice = tfprune.wrap(once)
    np.testing.assert_array_equal(twice(TOKENS), once(TOKENS))
    rows = {row.path: row.sparsity for row in tfprune.sparsity_report(twice).rows}
    assert len(rows) == 6
    assert rows["head/kernel"] == 0.5
    np.testing.assert_array_equal(tfprune.strip(twice)(TOKENS), once(TOKENS))


def test_in_a_functional_model_it_stays_of_its_class(tmp_path):
    backbone = model_of("backbone")
    model = keras.Model(backbone.input, layers.Dense(2, name="head")(backbone(backbone.input)))
    wrapped = tfprune.wrap(model)
    assert isinstance(wrapped.get_layer("backbone"), Backbone)
    np.testing.assert_array_equal(wrapped(TOKENS), model(TOKENS))
    tfprune.update_masks(wrapped, 0.5)
    assert tfprune.sparsity_report(wrapped).sparsity == 0.5
    wrapped.save(tmp_path / "wrapped.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "wrapped.keras")(TOKENS), wrapped(TOKENS))
    stripped = tfprune.strip(wrapped)
    assert type(stripped.get_layer("backbone")) is Backbone
    np.testing.assert_array_equal(stripped(TOKENS), wrapped(TOKENS))


def test_frozen_layers_and_names_stay_what_they_are(tmp_path):
    model = model_of("task")
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
