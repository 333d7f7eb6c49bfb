"""Small .tflite files made by the stock converter, with what Keras says they should give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class Case:
    """A file, data for it, and Keras' outputs on that data.

    Attributes:
        path: The plain .tflite.
        inputs: What `predict` takes.
        expected: What Keras gives: an array or a list of arrays.
        kernels: Keras' kernels, as NumPy arrays.
    """

    path: Path
    inputs: Any
    expected: Any
    kernels: tuple[np.ndarray, ...] = ()

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Return one file of each kind, by name."""
    import keras

    keras.utils.set_random_seed(7)
    folder = tmp_path_factory.mktemp("tflite")
    data = np.random.default_rng(7)
    dense, conv = _dense(keras), _conv(keras)
    vectors = data.normal(size=(5, 8)).astype(np.float32)
    images = data.uniform(size=(6, 8, 8, 3)).astype(np.float32)
    pair = {"left": vectors[:, :3], "right": vectors[:, 3:5]}
    two = _two(keras)
    tokens = data.integers(0, 11, (5, 6)).astype(np.int32)
    embedding = _embedding(keras)
    fixed = keras.Sequential([keras.Input((8,), batch_size=2, name="vector"), keras.layers.Dense(4)])
    conv_expected = conv.predict(images, verbose=0)
    made = {
        "dense": (_convert(dense), vectors, dense.predict(vectors, verbose=0), dense),
        "int8": (_convert(conv, images, "int8"), images, conv_expected, conv),
        "int8_float_io": (_convert(conv, images), images, conv_expected, conv),
        "two": (_convert(two), pair, two.predict(pair, verbose=0), two),
        "tokens": (_convert(embedding), tokens, embedding.predict(tokens, verbose=0), embedding),
        "fixed": (_convert(fixed), vectors, vectors @ fixed.get_weights()[0] + fixed.get_weights()[1], fixed),
    }
    cases = {}
    for name, (content, inputs, expected, model) in made.items():
        path = folder / f"{name}.tflite"
        path.write_bytes(content)
        kernels = tuple(weight for weight in model.get_weights() if weight.ndim > 1)
        cases[name] = Case(path, inputs, expected, kernels)
    return cases


def _dense(keras: Any) -> Any:
    """Two kernels, of which the entries below the median of their magnitudes are zero."""
    layers = [keras.layers.Dense(16, activation="relu"), keras.layers.Dense(4)]
    model = keras.Sequential([keras.Input((8,), name="vector"), *layers])
    for layer in layers:
        kernel = layer.kernel.numpy()
        layer.kernel.assign(kernel * (np.abs(kernel) > np.median(np.abs(kernel))))
    return model


def _conv(keras: Any) -> Any:
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )


def _two(keras: Any) -> Any:
    """Inputs of different widths, and outputs whose order is not that of their names or widths."""
    left, right = keras.Input((3,), name="left"), keras.Input((2,), name="right")
    both = keras.layers.Concatenate()([keras.layers.Dense(4)(left), right])
    heads = [keras.layers.Dense(width)(both) for width in (5, 2)]
    return keras.Model([left, right], heads)


def _embedding(keras: Any) -> Any:
    return keras.Sequential(
        [
            keras.Input((6,), dtype="int32", name="tokens"),
            keras.layers.Embedding(11, 4),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )


def _convert(model: Any, calibration: np.ndarray | None = None, io: str = "float32") -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if calibration is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([sample[None]] for sample in calibration)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.as_dtype(io)
    return converter.convert()
