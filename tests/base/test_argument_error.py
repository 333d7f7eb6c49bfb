"""Errors that carry their argument are errors as any other."""

import pickle

import keras
import pytest

from tfprune.base.spec import ArgumentError, ArgumentTypeError


def test_an_error_says_its_parts_and_keeps_them():
    error = ArgumentError("rate", "`rate` to be positive", "-1", advice="Pass 0.1.")
    assert str(error) == "Expected `rate` to be positive. Received: rate=-1. Pass 0.1."
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (str(again), again.argument, again.received) == (str(error), "rate", "-1")


def test_a_layer_that_refuses_an_argument_still_raises_a_value_error():
    """Keras makes a copy of what is raised in a layer's call, from the text alone."""

    class Refusing(keras.layers.Layer):
        def call(self, x):
            raise ArgumentError("rate", "`rate` to be positive", "-1")

    with pytest.raises(ValueError, match=r"(?s)Expected `rate` to be positive\. Received: rate=-1\."):
        Refusing()(keras.ops.zeros((1, 2)))
    assert str(ArgumentTypeError("the whole text")) == "the whole text"
