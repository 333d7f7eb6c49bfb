"""Integers of weights that share values, counted in the file, against what Keras computes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import tfprune
from tfprune.export import Runner, to_tflite
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import read
from tfprune.export.keras_side.prepare import with_known_ranges
from tfprune.export.keras_side.to_tflite import _share_grids

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, size=(64, 8, 8, 2)).astype("float32")
LEVELS = 6


def trained() -> keras.Model:
    keras.utils.set_random_seed(0)
    parts = [
        layers.Conv2D(12, 3, use_bias=False, name="conv"),
        layers.BatchNormalization(gamma_initializer=keras.initializers.RandomUniform(-1, 1), name="norm"),
        layers.ReLU(),
        layers.DepthwiseConv2D(3, depth_multiplier=2, bias_initializer="normal", name="depthwise"),
        layers.Conv2DTranspose(5, 2, bias_initializer="normal", name="transposed"),
        layers.Flatten(),
        layers.Dense(4, bias_initializer="normal", name="out"),
    ]
    model = tfprune.quantize_aware(tfprune.wrap(keras.Sequential([keras.Input((8, 8, 2)), *parts])), levels=LEVELS)
    tfprune.update_masks(model, 0.5)
    model.compile("adam", "mse", run_eagerly=True)
    model.fit(IMAGES, np.ones((64, 4)), epochs=2, verbose=0)
    return model


def scales(path) -> list[np.ndarray]:
    """Return the scales of the tensors that have one for each channel, as the interpreter reads them."""
    details = Interpreter(str(path)).get_tensor_details()
    of_weights = [detail["quantization_parameters"]["scales"] for detail in details if detail["dtype"] is np.int8]
    return [found for found in of_weights if len(found) > 1]


@pytest.mark.programs
def test_a_value_is_the_same_integer_in_all_channels(tmp_path):
    model = trained()
    path = tmp_path / "model.tflite"
    to_tflite(model, path, quantize="int8", check_on=IMAGES)
    weights = [weight.values.raw.view(np.int8) for weight in read(path.read_bytes()).weights]
    assert len(weights) == 4
    for weight in weights:
        assert np.abs(weight).max() == 127
        assert len(np.unique(np.abs(weight))) <= LEVELS  # 0 is one; a negative factor of a channel turns its signs
    expected, outputs = model.predict(IMAGES, verbose=0), Runner(path).predict(IMAGES)
    low, high = model.get_layer("out").known_ranges()["output"]
    assert np.mean(np.abs(expected - outputs) <= 2.01 * (high - low) / 255) >= 0.99
    # Channels differ where a normalization was folded into them, and nowhere else.
    assert sorted((len(one), len(set(one)) == 1) for one in scales(path)) == [
        (4, True),
        (5, True),
        (12, False),
        (24, True),
    ]


def test_a_file_without_such_weights_stays_as_it_is():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    model = tfprune.quantize_aware(model)
    model(np.ones((2, 3)), training=True)
    file = ModelFile(b"any file")
    assert _share_grids(file, with_known_ranges(model), of=model) is file
