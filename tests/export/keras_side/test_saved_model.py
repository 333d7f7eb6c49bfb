"""What is printed while a SavedModel is written."""

from __future__ import annotations

import logging

import keras

from tfprune.export.keras_side.prepare import ModelInput, Signature, write_saved_model


def test_the_temporary_folder_is_not_told_in_a_notebook(tmp_path, caplog):
    logger = logging.getLogger("tensorflow")
    caplog.set_level(logging.INFO, logger=logger.name)  # as TensorFlow does where it is used interactively
    model = keras.Sequential([keras.Input((2,), name="x"), keras.layers.Dense(1)])
    inputs = Signature((ModelInput("x", (None, 2), "float32"),), "array")
    write_saved_model(model, tmp_path / "saved", inputs=inputs, unroll=False)
    assert not caplog.records
    assert logger.level == logging.INFO
