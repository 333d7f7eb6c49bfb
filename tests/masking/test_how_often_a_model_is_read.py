"""How many models one call builds, and how often it reads the model that it was given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import keras
import pytest
from keras import layers
from tiers import in_test_ci

import tfprune
from tfprune.models.anatomy import Anatomy


class Counts:
    """What was built and read: the number of built models, and how often each model was read."""

    def __init__(self) -> None:
        self.built = 0
        self.read: Counter[int] = Counter()


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counts]:
    counts, init, of = Counts(), keras.Model.__init__, Anatomy.of.__func__

    def counted_init(self, *args, **kwargs):
        counts.built += 1
        init(self, *args, **kwargs)

    def counted_of(cls, model, **kwargs):
        counts.read[id(model)] += 1
        return of(cls, model, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "__init__", counted_init)
        patch.setattr(Anatomy, "of", classmethod(counted_of))
        yield counts


def bert(blocks: int) -> keras.Model:
    models = pytest.importorskip("keras_hub", reason="needs keras_hub").models
    return models.BertBackbone(
        vocabulary_size=50, num_layers=blocks, num_heads=2, hidden_dim=8, intermediate_dim=16, max_sequence_length=8
    )


def cnn(width: int) -> keras.Model:
    inputs = x = keras.Input((8, 8, 3))
    for _ in range(3):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(width, 3, padding="same")(x)))
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))


def stack(width: int) -> keras.Model:
    parts = [layers.Dense(width, activation="relu") for _ in range(8)]
    return keras.Sequential([keras.Input((4,)), *parts, layers.Dense(2)])


class Perceptron(keras.Model):
    """A user's class, whose code creates its layers."""

    def __init__(self, width=4, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.hidden, self.out = layers.Dense(width), layers.Dense(2)

    def call(self, inputs):
        return self.out(self.hidden(inputs))

    def get_config(self):
        return {"width": self.width, "name": self.name}


def perceptron(width: int) -> keras.Model:
    model = Perceptron(width)
    model(keras.ops.ones((1, 3)))
    return model


@pytest.mark.parametrize(
    ("build", "size", "wrapping", "stripping"),
    [
        in_test_ci(
            (bert, 12, 4, 1)
        ),  # a fresh backbone; its graph with what its attributes hold, called anew, and the copy
        (cnn, 4, 2, 1),  # a twin, and its graph called anew
        (stack, 4, 4, 2),  # Sequential, and the Functional model inside
        (perceptron, 4, 3, 2),  # a fresh one, the twin, and the twin with wrappers in it
    ],
)
def test_a_model_is_read_once_and_few_are_built(build, size, wrapping, stripping, monkeypatch):
    tfprune.strip(tfprune.wrap(build(1)))  # what is found out once is known from here on
    model = build(size)
    with counting(monkeypatch) as counts:
        wrapped = tfprune.wrap(model)
    assert counts.built == wrapping
    assert counts.read[id(model)] == 1
    tfprune.update_masks(wrapped, 0.5)
    with counting(monkeypatch) as counts:
        tfprune.strip(wrapped)
    assert counts.built == stripping
    assert counts.read[id(wrapped)] == 1
