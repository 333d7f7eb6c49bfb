"""Quantization-aware training on the other backends: `make test-backends` runs this file once on each."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

import tfprune
from tfprune.export import Quantization, Runner, to_tflite
from tfprune.export.file.reader import read

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() == "tensorflow",
        reason="all other tests are of TensorFlow; `make test-backends` runs these on the others",
    ),
    pytest.mark.usefixtures("converter"),
]
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(48, 8, 8, 2)).astype("float32")


def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    stack = [
        *(layers.Conv2D(4, 3, use_bias=False), layers.BatchNormalization(momentum=0.8), layers.ReLU()),
        *(layers.DepthwiseConv2D(3), layers.Reshape((4, 16)), layers.Conv1D(6, 3), layers.BatchNormalization()),
        *(layers.LSTM(5), layers.Dense(3, activation="softmax")),
    ]
    return keras.Sequential([keras.Input((8, 8, 2)), *stack])


def test_it_trains_keeps_its_zeros_and_gives_a_file_of_integers(tmp_path):
    quantized = tfprune.quantize_aware(tfprune.wrap(model()), levels=8)
    pruning = tfprune.PruningCallback(tfprune.schedules.Constant(0.5), every=1)
    quantized.compile("adam", "sparse_categorical_crossentropy")
    quantized.fit(IMAGES, RNG.integers(0, 3, size=48), epochs=2, callbacks=[pruning], verbose=0)
    assert tfprune.sparsity_report(quantized).sparsity == pytest.approx(0.5, abs=0.01)
    ranges = [bounds for row in tfprune.quantization_report(quantized).rows for bounds in row.ranges.values()]
    assert len(ranges) > 8 and None not in ranges
    before = quantized.get_weights()
    expected = quantized.predict(IMAGES, verbose=0)
    assert all(map(np.array_equal, before, quantized.get_weights()))
    report = to_tflite(quantized, tmp_path / "model.tflite", quantize="int8", check_on=IMAGES)
    assert report.ops["QUANTIZE"] == report.ops["DEQUANTIZE"] == 1  # at its borders
    found = Runner(tmp_path / "model.tflite").predict(IMAGES)
    assert np.mean(np.abs(found - expected) <= 2.01 / 256) >= 0.99
    quantized.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(IMAGES, verbose=0), expected, atol=1e-6)


def test_kernels_with_channels_along_another_axis_and_integer_borders(tmp_path):
    stack = [layers.Conv2DTranspose(4, 2, strides=2, activation="tanh"), layers.Conv2D(2, 1)]
    quantized = tfprune.quantize_aware(keras.Sequential([keras.Input((8, 8, 2)), *stack]))
    quantized.compile("sgd", "mse")
    quantized.fit(IMAGES, np.zeros((48, 16, 16, 2)), epochs=1, verbose=0)
    to_tflite(quantized, tmp_path / "file", quantize=Quantization("int8", io_dtype="int8"), check_on=IMAGES)
    graph = read((tmp_path / "file").read_bytes())
    assert graph.inputs[0].dtype == graph.outputs[0].dtype == "int8" and "QUANTIZE" not in graph.ops
    expected = quantized.predict(IMAGES, verbose=0)
    assert np.abs(Runner(tmp_path / "file").predict(IMAGES) - expected).max() < 0.02 * np.abs(expected).max()


class Gain(layers.Layer):
    """A layer whose output's shape only its code knows."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.gain = self.add_weight(shape=shape[-1:], initializer="ones")

    def call(self, inputs):
        return inputs * self.gain


class Block(layers.Layer):
    """A layer that calls others; its code is looked into."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.gain = layers.Dense(4, activation="relu"), Gain()

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.dense.build(shape)
        self.gain.build((*shape[:-1], 4))

    def call(self, inputs):
        return self.gain(self.dense(inputs))


def test_a_layer_whose_shape_only_its_code_knows_trains_inside_of_an_opened_one(tmp_path):
    images = IMAGES.reshape(48, -1)
    quantized = tfprune.quantize_aware(
        keras.Sequential([keras.Input((128,)), Block(), layers.Dense(3, activation="softmax")])
    )
    quantized.compile("adam", "sparse_categorical_crossentropy")
    quantized.fit(images, RNG.integers(0, 3, size=48), epochs=2, verbose=0)
    expected = quantized.predict(images, verbose=0)
    to_tflite(quantized, tmp_path / "file", quantize=Quantization("int8", allow_float=True), check_on=images)
    found = Runner(tmp_path / "file").predict(images)
    assert np.mean(np.abs(found - expected) <= 2.01 / 256) >= 0.99
