"""Int8 files of networks that were pruned and trained quantization-aware, against what Keras says of them.

Each network is pruned to 80 % zeros while it trains on 6,000 images of Fashion-MNIST at half their size, and goes on
rounding for an epoch. Then both are asked about the 10,000 test images.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import fashion
import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from common import Row, at_least, at_most
from keras import layers

import tfprune
from tfprune.export import Runner, evaluate, to_tflite

SPARSITY, TRAINED_ON = 0.8, 6000
POINTS, SHARE = 0.2, 0.99
COMPARED = 2000  # images, between two runtimes
SHAPE = (14, 14, 1)


def unit(tensor: keras.KerasTensor, layer: keras.layers.Layer, *, activation: bool = True) -> keras.KerasTensor:
    tensor = layers.BatchNormalization(momentum=0.9)(layer(tensor))
    return layers.ReLU(6.0)(tensor) if activation else tensor


def conv(filters: int, size: int = 3, **arguments: object) -> keras.layers.Layer:
    return layers.Conv2D(filters, size, padding="same", use_bias=False, **arguments)


def depthwise(**arguments: object) -> keras.layers.Layer:
    return layers.DepthwiseConv2D(3, padding="same", use_bias=False, **arguments)


def cnn(tensor: keras.KerasTensor) -> keras.KerasTensor:
    tensor = layers.MaxPooling2D()(unit(tensor, conv(16)))
    return layers.Dense(48, "relu")(layers.Flatten()(unit(tensor, conv(32))))


def mobilenet_v1(tensor: keras.KerasTensor) -> keras.KerasTensor:
    tensor = unit(tensor, conv(16))
    for filters, strides in ((32, 2), (48, 1), (64, 2)):
        tensor = unit(unit(tensor, depthwise(strides=strides)), conv(filters, 1))
    return layers.GlobalAveragePooling2D()(tensor)


def mobilenet_v2(tensor: keras.KerasTensor) -> keras.KerasTensor:
    tensor = unit(tensor, conv(16))
    for filters, strides in ((16, 1), (24, 2), (24, 1)):
        hidden = unit(unit(tensor, conv(64, 1)), depthwise(strides=strides))
        hidden = unit(hidden, conv(filters, 1), activation=False)
        tensor = layers.Add()([tensor, hidden]) if hidden.shape == tensor.shape else hidden
    return layers.GlobalAveragePooling2D()(tensor)


def resnet(tensor: keras.KerasTensor) -> keras.KerasTensor:
    tensor = unit(tensor, conv(24))
    for _ in range(2):
        hidden = unit(unit(tensor, conv(24)), conv(24), activation=False)
        tensor = layers.ReLU()(layers.Add()([tensor, hidden]))
    return layers.GlobalAveragePooling2D()(layers.AveragePooling2D(2)(tensor))


def mlp(tensor: keras.KerasTensor) -> keras.KerasTensor:
    return layers.Dense(64, "relu")(layers.Dense(128, "relu")(layers.Flatten()(tensor)))


def lstm(tensor: keras.KerasTensor) -> keras.KerasTensor:
    return layers.LSTM(48)(layers.Reshape(SHAPE[:2])(tensor))


NETS: dict[str, Callable[[keras.KerasTensor], keras.KerasTensor]] = {
    net.__name__: net for net in (cnn, mobilenet_v1, mobilenet_v2, resnet, mlp, lstm)
}


def halved(images: np.ndarray) -> np.ndarray:
    return images.reshape(-1, 14, 2, 14, 2, 1).mean(axis=(2, 4))


def small_images() -> tuple[np.ndarray, ...]:
    """Return the images at half their size and the labels: first those to train on, then those to test on."""
    (x, y), (test_x, test_y) = fashion.read("train"), fashion.read("t10k")
    return halved(x[:TRAINED_ON]), y[:TRAINED_ON], halved(test_x), test_y


def trained(name: str, x: np.ndarray, y: np.ndarray) -> keras.Model:
    """Return a network that was pruned, and then trained quantization-aware."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    model = tfprune.wrap(keras.Model(inputs, layers.Dense(10, activation="softmax")(NETS[name](inputs))))
    pruning = tfprune.PruningCallback(tfprune.schedules.Polynomial(SPARSITY, end=0.7), every=20)
    for rate, epochs in ((2e-3, 4), (2e-4, 1)):
        model = tfprune.quantize_aware(model) if epochs == 1 else model
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(x, y, batch_size=64, epochs=epochs, verbose=0, callbacks=[pruning] if epochs > 1 else [])
    return model


def measure() -> list[Row]:
    if not fashion.is_there():
        return []
    x, y, test_x, test_y = small_images()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or NETS:
            model, path = trained(name, x, y), Path(folder, f"{name}.tflite")
            report = to_tflite(model, path, quantize="int8", check_on=test_x[:64])
            keras_says = model.evaluate(test_x, test_y, verbose=0)[1]
            file_says = evaluate(path, (test_x, test_y)).metrics["accuracy"]
            what = (
                f"{name}, {SPARSITY:.0%} zeros, int8: accuracy {keras_says:.2%} in Keras, {file_says:.2%} of the file"
            )
            rows.append(at_most(what, 100 * abs(keras_says - file_says), POINTS, unit=" points", digits=2))
            steps = np.abs(Runner(path).predict(test_x) - model.predict(test_x, verbose=0)) * 256
            rows.append(
                at_least(f"{name}: outputs within 2 steps of 1/256", np.mean(steps < 2.01), SHARE, unit="", digits=4)
            )
            own = Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
            agree = f"{_agree(path, own, test_x[:COMPARED]):.4f}"
            rows.append(Row(f"{name}: the same, between XNNPACK and the interpreter's kernels", agree, "-", True))
            wanted = tfprune.sparsity_report(model).total_nnz
            # Small weights are rounded to 0, too.
            rows.append(Row(f"{name}: non-zero weights", f"{report.nnz:,}", f"<= {wanted:,}", report.nnz <= wanted))
    return rows


def _agree(path: Path, own: Interpreter, x: np.ndarray) -> float:
    """Return how many outputs of two runtimes of one file lie within 2 steps."""
    (given,), (returned,) = own.get_input_details(), own.get_output_details()
    own.allocate_tensors()
    outputs = []
    for image in x:
        own.set_tensor(given["index"], image[np.newaxis])
        own.invoke()
        outputs.append(own.get_tensor(returned["index"])[0].copy())
    return float(np.mean(np.abs(np.array(outputs) - Runner(path).predict(x)) * 256 < 2.01))


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
