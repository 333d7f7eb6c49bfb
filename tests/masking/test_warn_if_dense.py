"""A wrapped model that was trained without a callback: `strip` says that nothing is pruned."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import tfprune
import tfprune.export

NOTHING = "is pruned: it has pruned layers, but none of their masks holds a zero"


def wrapped() -> keras.Model:
    return tfprune.wrap(keras.Sequential([keras.Input((8,)), layers.Dense(6), layers.Dense(4, name="out")]))


@pytest.fixture
def silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def test_a_model_that_was_trained_without_the_callback_is_stripped_with_a_warning():
    model = wrapped()
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 8)), np.ones((8, 4)), verbose=0)
    with pytest.warns(UserWarning, match=NOTHING) as caught:
        tfprune.strip(model)
    assert [warning.filename for warning in caught] == [__file__]


def test_a_single_wrapper_is_stripped_with_a_warning():
    layer = tfprune.Pruned(layers.Dense(4, name="only"))
    layer.build((None, 8))
    with pytest.warns(UserWarning, match=f"'only' {NOTHING}"):
        tfprune.strip(layer)


@pytest.mark.parametrize("zeros", [{"out": 0.25}, {"dense": 0.5}])
def test_one_mask_with_a_zero_is_enough(silent, zeros):
    model = wrapped()
    tfprune.update_masks(model, 0.5, allocation={**zeros, "": None})
    tfprune.strip(model)


@pytest.mark.programs
def test_plain_models_and_work_on_copies_are_silent(silent):
    tfprune.strip(keras.Sequential([keras.Input((8,)), layers.Dense(4)]))
    model = tfprune.wrap(keras.Sequential([keras.Input((8,)), layers.Dense(8), layers.Dense(4)]), pattern="channel")
    plan = tfprune.plan_shrink(model, 0.5)
    tfprune.shrink(model, plan)
    tfprune.update_masks(model, 0.5)  # follows the channels in a stripped copy
    tfprune.export.sparse_inference(wrapped())
