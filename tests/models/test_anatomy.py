"""What a model is, read from models whose parts are listed by hand."""

from __future__ import annotations

import keras
import pytest
from keras import layers

from tfprune.models.anatomy import Anatomy, Kind, check_layers, kind_of, walk


class Code(keras.Model):
    """Its code creates two layers and calls them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = layers.Dense(3, name="first"), layers.Dense(2, name="second")

    def call(self, inputs):
        return self.second(self.first(inputs))


class Plain(keras.Model):
    """A class around a graph that adds nothing to it."""

    def __init__(self, units=3, **kwargs):
        inputs = keras.Input((4,), name="in")
        super().__init__(inputs, layers.Dense(units, name="dense")(inputs), **kwargs)


class Backbone(Plain):
    """One with a configuration of its own, and a method."""

    def double(self, inputs):
        return 2 * self(inputs)

    def get_config(self):
        return {"name": self.name}


class Twice(Backbone):
    def call(self, inputs):
        return 2 * super().call(inputs)


class Block(layers.Layer):
    """A layer with two inside, which knows the layer that it stands in."""

    def __init__(self, owner=None, **kwargs):
        super().__init__(**kwargs)
        self.parts = [layers.Dense(4, name="up"), layers.Dense(4, name="down")]
        self.inner = None if owner is not None else Block(owner=self, name="inner")
        vars(self)["owner"] = owner  # past Keras, which would look for its weights in a circle

    def call(self, inputs):
        return self.parts[1](self.parts[0](inputs))


@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (lambda: keras.Sequential([keras.Input((4,)), layers.Dense(2)]), Kind.GRAPH),
        (keras.Sequential, Kind.GRAPH),
        (Code, Kind.CODE),
        (Plain, Kind.PLAIN_SUBCLASS),
        (Backbone, Kind.FUNCTIONAL_SUBCLASS),
        (Twice, Kind.LAYER),
        (lambda: layers.Dense(2), Kind.LAYER),
        (lambda: "a path", Kind.LAYER),
    ],
)
def test_kinds(build, kind):
    assert kind_of(build()) is kind


def nested() -> keras.Model:
    inputs = keras.Input((4,), name="x")
    x = Backbone(name="backbone")(inputs)
    x = Code(name="code")(x)
    x = keras.Sequential([layers.Dense(4, name="a"), layers.ReLU(name="b")], name="head")(x)
    return keras.Model(inputs, Block(name="block")(x), name="whole")


def test_layers_by_path():
    anatomy = Anatomy.of(nested())
    assert [path for path, _ in anatomy.leaves] == [
        *("x", "backbone/in", "backbone/dense", "code/first", "code/second", "head/a", "head/b", "block")
    ]
    assert [(path, part.kind) for path, part in anatomy.configured] == [
        ("x", Kind.LAYER),
        ("backbone", Kind.FUNCTIONAL_SUBCLASS),
        ("code", Kind.CODE),
        ("head/a", Kind.LAYER),
        ("head/b", Kind.LAYER),
        ("block", Kind.LAYER),
    ]
    assert all(layer.name == path.rpartition("/")[2] for path, layer in anatomy.leaves)


def test_every_layer_is_what_a_walk_finds_circles_included():
    model = nested()
    assert Anatomy.of(model).every == list(walk(model))
    assert [path for path, _ in Anatomy.of(model).every][-5:] == [
        *("block/up", "block/down", "block/inner", "block/inner/up", "block/inner/down")
    ]


def test_a_graph_is_built_only_of_a_class_and_shares_its_layers():
    sequential, backbone = keras.Sequential([keras.Input((4,)), layers.Dense(2)]), Backbone()
    assert Anatomy.of(sequential).graph is sequential
    graph = Anatomy.of(backbone).graph
    assert type(graph) is not Backbone
    assert graph.get_layer("dense") is backbone.get_layer("dense")
    assert Anatomy.of(Code()).graph is None


def test_a_shared_layer_comes_once():
    dense, inputs = layers.Dense(4, name="shared"), keras.Input((4,), name="x")
    assert [path for path, _ in Anatomy.of(keras.Model(inputs, dense(dense(inputs)))).leaves] == ["x", "shared"]


def test_what_is_no_model_is_refused_by_its_argument():
    with pytest.raises(TypeError, match=r"a Keras model. Received: model=.*Dense.*keras.Sequential\(\[keras.Input"):
        Anatomy.of(layers.Dense(2))
    with pytest.raises(TypeError, match=r"model or layer. Received: reference='m.keras'.*load_model\(path\)"):
        Anatomy.of("m.keras", accepts=layers.Layer, argument="reference")
    with pytest.raises(ValueError, match="a Functional subclass whose `call` does more than call its graph"):
        check_layers(Anatomy.of(Twice()))
