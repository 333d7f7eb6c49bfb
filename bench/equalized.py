"""Int8 files of networks without training for it: as they are, equalized, and with corrected biases.

Two networks are trained on 6,000 images of Fashion-MNIST at half their size. Then the same with channels that are up
to 10 or 100 times as large as others: these networks compute the same, as equalization does it backwards.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fashion
import keras
import numpy as np
from common import Row, at_most
from keras import layers
from quantized import NETS, SHAPE, small_images

import tfprune
from tfprune.export import correct_biases, evaluate, quantization_error, to_tflite
from tfprune.models.graph import flatten, trace

SAMPLES, POINTS = 256, 1.0


def trained(name: str, x: np.ndarray, y: np.ndarray) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(NETS[name](inputs)))
    model = keras.models.clone_model(model, clone_function=without_relu6)
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=5, verbose=0)
    return model


def without_relu6(layer: keras.layers.Layer) -> keras.layers.Layer:
    return (
        layers.ReLU(name=layer.name)
        if isinstance(layer, layers.ReLU)
        else type(layer).from_config(layer.get_config())
    )


def spread(model: keras.Model, apart: float) -> keras.Model:
    """Return an equal network whose normalizations give channels of different sizes."""
    copy, draw = keras.models.clone_model(model), np.random.default_rng(0)
    copy.set_weights(model.get_weights())
    for norm, taker in between(copy):
        factor = apart ** draw.uniform(-0.5, 0.5, norm.gamma.shape)
        norm.gamma.assign(norm.gamma / factor)
        norm.beta.assign(norm.beta / factor)
        taker.kernel.assign(taker.kernel * factor[:, None])
    return copy


def between(model: keras.Model) -> Iterator[tuple[keras.layers.Layer, keras.layers.Layer]]:
    """Yield each normalization before a ReLU, and the convolution behind it."""
    graph = trace(flatten(model))
    for call in graph.calls:
        following = graph.consumers(call)
        if isinstance(call.layer, layers.BatchNormalization) and isinstance(following[0].layer, layers.ReLU):
            takers = graph.consumers(following[0])
            if len(following) == len(takers) == 1 and isinstance(
                takers[0].layer, (layers.Conv2D, layers.DepthwiseConv2D)
            ):
                yield call.layer, takers[0].layer


def measure() -> list[Row]:
    if not fashion.is_there():
        return []
    x, y, test_x, test_y = small_images()
    rows = []
    for name in sys.argv[1:] or ("mobilenet_v1", "mobilenet_v2"):
        model = trained(name, x, y)
        right = model.evaluate(test_x, test_y, verbose=0)[1]
        for apart in (1, 10, 100):
            rows += compared(
                f"{name}, channels up to {apart} x apart", spread(model, apart), right, x, (test_x, test_y)
            )
    return rows


def compared(
    what: str, model: keras.Model, right: float, x: np.ndarray, test: tuple[np.ndarray, np.ndarray]
) -> list[Row]:
    """Export a network in each way; hold the last of them to the float accuracy."""
    files: dict[str, tuple[bytes, bytes]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for way, version in (("as it is", model), ("equalized", tfprune.equalize(model))):
            paths = Path(folder, "float"), Path(folder, "int8")
            to_tflite(version, paths[0], check_on=x[:64])
            to_tflite(version, paths[1], quantize="int8", calibration=x[:SAMPLES], optimize="dense", tolerance=10)
            files[way] = paths[0].read_bytes(), paths[1].read_bytes()
    reference, integers = files["equalized"]
    files["equalized, biases corrected"] = reference, correct_biases(reference, integers, samples=x[:SAMPLES])
    rows = []
    for way, (reference, integers) in files.items():
        error = quantization_error(reference, integers, samples=test[0][:SAMPLES]).rows[-1].error
        accuracy = evaluate(integers, test).metrics["accuracy"]
        text = f"{what}: float {right:.2%}, int8 {way} {accuracy:.2%}, error of the output {error:.3f}; points lost"
        row = at_most(text, 100 * (right - accuracy), POINTS, unit="", digits=2)
        rows.append(row if way.endswith("corrected") else Row(row.what, row.measured, "", True))
    return rows


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
