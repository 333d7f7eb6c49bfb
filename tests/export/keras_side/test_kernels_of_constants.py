"""Kernels that meet nothing but constants are not in the file, only what was computed with them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

from tfprune.export.keras_side.to_tflite import _kernels_of_constants


@keras.saving.register_keras_serializable("tests.constants")
class Constants(layers.Layer):
    """Positions that are looked up at constant indices, a kernel of constants, and one that meets both."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.positions = layers.Embedding(3, 4, name="positions")
        self.folded, self.both = layers.Dense(4, name="folded"), layers.Dense(4, name="both")
        self.again = layers.Dense(4, name="again")

    def call(self, x):
        rows = np.ones((3, 4), "float32")
        return self.both(x) + self.positions(ops.arange(3)) + self.again(self.folded(rows)) + self.both(rows)


def test_they_are_found_and_those_that_meet_an_input_are_not():
    inputs = keras.Input((3, 4))
    table = layers.Embedding(5, 4, name="table")
    index = keras.Input((3,), dtype="int32")
    model = keras.Model([inputs, index], layers.Dense(2, name="head")(Constants(name="own")(inputs) + table(index)))
    data = [np.ones((1, 3, 4), "float32"), np.zeros((1, 3), "int32")]
    expected = {"own/positions/embeddings", "own/folded/kernel", "own/again/kernel"}
    assert _kernels_of_constants(model, data) == (expected if keras.backend.backend() == "tensorflow" else set())


@pytest.mark.parametrize("open_batch", [True, False])
def test_a_layer_that_augments_by_default_does_not_in_a_saved_model(open_batch, tmp_path):
    from tfprune.export.keras_side.prepare import signature, write_saved_model

    inputs = keras.Input((4, 4, 3), batch_size=None if open_batch else 1)
    model = keras.Model(inputs, layers.Dropout(0.5)(layers.RandomFlip()(inputs)))
    write_saved_model(model, tmp_path / "saved", inputs=signature(model), unroll=False)
    assert b"StatelessRandom" not in (tmp_path / "saved" / "saved_model.pb").read_bytes()
