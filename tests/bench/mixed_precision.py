"""What keeping operators of an int8 file in float wins back: accuracy and bytes of float32, int8 and mixed files.

    python tests/bench/mixed_precision.py [FOLDER]

A network of depthwise convolutions, each followed by the modified layer normalization of PoolFormer (a group
normalization with one group, arXiv 2111.11418) and swish, is trained for three epochs on 6,000 images of
Fashion-MNIST at half their size. Its sums over all positions, and the wide ranges of its activations, suffer from 8
bits. `quantization_error` chooses what stays in float, on the training images. With a folder, the trained network is
kept there, and read by the next call.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import fashion
import keras
import numpy as np
import tensorflow as tf
from common import Row, at_least, at_most
from keras import layers
from quantized import SHAPE, small_images

from tfprune.export import Quantization, evaluate, quantization_error, to_tflite

BLOCKS = ((24, 2), (24, 1), (32, 1), (32, 1), (48, 2), (48, 1), (64, 1), (64, 1))
EPOCHS, SAMPLES = 3, 200
SIZES = (1.05, 1.1, 1.2)  # times int8's bytes
LEAST_LOSS, LEAST_WON, MOST_BYTES = 1.0, 0.5, 1.2


def unit(tensor: keras.KerasTensor, layer: keras.layers.Layer) -> keras.KerasTensor:
    return layers.Activation("swish")(layers.GroupNormalization(groups=1)(layer(tensor)))


def network() -> keras.Model:
    inputs = keras.Input(SHAPE)
    tensor = unit(inputs, layers.Conv2D(16, 3, padding="same", use_bias=False))
    for filters, strides in BLOCKS:
        tensor = unit(tensor, layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False))
        tensor = unit(tensor, layers.Conv2D(filters, 1, use_bias=False))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(tensor)))


def trained(folder: Path, x: np.ndarray, y: np.ndarray) -> keras.Model:
    path = folder / "mixed_precision.keras"
    if path.exists():
        return keras.saving.load_model(path)
    tf.config.threading.set_intra_op_parallelism_threads(1)  # sums in one order, so that a run repeats another
    keras.utils.set_random_seed(0)
    model = network()
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=EPOCHS, verbose=0)
    model.save(path)
    return model


def measure() -> list[Row]:
    if not fashion.is_there():
        return []
    x, y, test_x, test_y = small_images()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        folder.mkdir(parents=True, exist_ok=True)
        return compared(trained(folder, x, y), Path(temporary), x[:SAMPLES], (test_x, test_y))


def compared(model: keras.Model, folder: Path, x: np.ndarray, test: tuple[np.ndarray, np.ndarray]) -> list[Row]:
    def measured(name: str, quantize: Quantization) -> tuple[float, int]:
        calibration = None if quantize.scheme is None else x
        report = to_tflite(model, folder / name, quantize=quantize, calibration=calibration, tolerance=10.0)
        accuracy = 100 * evaluate(folder / name, test).metrics["accuracy"]
        rows.append(Row(f"{name}: accuracy, {report.tflite_bytes:,} bytes", f"{accuracy:.2f} %", "-", True))
        return accuracy, report.tflite_bytes

    rows: list[Row] = []
    exact, _ = measured("float32", Quantization(None))
    int8, size = measured("int8", Quantization("int8"))
    rows.append(at_least("int8: points lost", exact - int8, LEAST_LOSS, unit="", digits=2))
    errors, best = quantization_error(folder / "float32", folder / "int8", x), (0.0, 1.0)
    for times in SIZES:
        chosen = errors.to_skip(max_bytes=int(times * errors.bytes))
        name = f"mixed, {len(chosen)} of {len(errors.rows)} operators in float"
        accuracy, bytes_ = measured(name, Quantization("int8", skip=[row.name for row in chosen]))
        best = max(best, ((accuracy - int8) / (exact - int8), bytes_ / size))
    rows.append(at_least("the best mixed file: share of int8's loss won back", best[0], LEAST_WON, unit="", digits=2))
    rows.append(at_most("its bytes, times int8's", best[1], MOST_BYTES, unit="", digits=3))
    return rows


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
