"""What keeping operators of an int8 file in float wins back: accuracy and bytes of float32, int8 and mixed files.

    python bench/mixed_precision.py [FOLDER]

A network of depthwise convolutions, each followed by the modified layer normalization of PoolFormer (a group
normalization with one group, arXiv 2111.11418) and swish, is trained for three epochs on 6,000 images of
Fashion-MNIST at half their size, from three seeds. Its sums over all positions, and the wide ranges of its
activations, suffer from 8 bits. `quantization_error` chooses what stays in float, on the training images. With a
folder, the trained networks are kept there, and read by the next call.
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
EPOCHS, SAMPLES, SEEDS = 3, 200, (0, 1, 2)
LEAST_LOSS, LEAST_WON, MOST_BYTES = 1.0, 0.5, 1.2


def unit(tensor: keras.KerasTensor, layer: keras.layers.Layer) -> keras.KerasTensor:
    return layers.Activation("swish")(layers.GroupNormalization(groups=1)(layer(tensor)))


def network() -> keras.Model:
    inputs, head = keras.Input(SHAPE), layers.Dense(10, activation="softmax")
    tensor = unit(inputs, layers.Conv2D(16, 3, padding="same", use_bias=False))
    for filters, strides in BLOCKS:
        tensor = unit(tensor, layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False))
        tensor = unit(tensor, layers.Conv2D(filters, 1, use_bias=False))
    return keras.Model(inputs, head(layers.GlobalAveragePooling2D()(tensor)))


def trained(folder: Path, x: np.ndarray, y: np.ndarray, *, seed: int) -> keras.Model:
    path = folder / f"mixed_precision_{seed}.keras"
    if path.exists():
        return keras.saving.load_model(path)
    keras.utils.set_random_seed(seed)
    model = network()
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=64, epochs=EPOCHS, verbose=0)
    model.save(path)
    return model


def measure() -> list[Row]:
    if not fashion.is_there():
        return []
    x, y, test_x, test_y = small_images()
    tf.config.threading.set_intra_op_parallelism_threads(1)  # sums in one order, so that a run repeats another
    rows: list[Row] = []
    lost, won, times = [], [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for seed in SEEDS:
            model = trained(folder, x, y, seed=seed)
            files = compared(model, Path(temporary), x[:SAMPLES], (test_x, test_y))
            texts = [f"{name} {accuracy:.2f} %, {size:,} bytes" for name, (accuracy, size) in files.items()]
            rows.append(Row(f"seed {seed}: {'; '.join(texts)}", "-", "-", True))
            (exact, _), (int8, size), (mixed, mixed_size) = files.values()
            lost.append(exact - int8)
            won.append(mixed - int8)
            times.append(mixed_size / size)
    rows.append(at_least("int8: points lost, the most of a seed", max(lost), LEAST_LOSS, unit="", digits=2))
    share = won[lost.index(max(lost))] / max(lost)
    rows.append(at_least("its mixed file: share of that won back", share, LEAST_WON, unit="", digits=2))
    rows.append(at_least("all seeds: share of the sum won back", sum(won) / sum(lost), LEAST_WON, unit="", digits=2))
    rows.append(at_most("bytes of mixed files, times int8's, the most", max(times), MOST_BYTES, unit="", digits=3))
    return rows


def compared(
    model: keras.Model, folder: Path, x: np.ndarray, test: tuple[np.ndarray, np.ndarray]
) -> dict[str, tuple[float, int]]:
    """Return the accuracy in percent, and the bytes, of a file in each format."""

    def measured(name: str, quantize: Quantization) -> tuple[float, int]:
        calibration = None if quantize.scheme is None else x
        report = to_tflite(model, folder / name, quantize=quantize, calibration=calibration, tolerance=10.0)
        return 100 * evaluate(folder / name, test).metrics["accuracy"], report.tflite_bytes

    files = {"float32": measured("float32", Quantization(None)), "int8": measured("int8", Quantization("int8"))}
    errors = quantization_error(folder / "float32", folder / "int8", x)
    rows = errors.to_skip(max_bytes=int(MOST_BYTES * errors.bytes))
    name = f"mixed ({len(rows)} of {len(errors.rows)} operators in float)"
    return files | {name: measured("mixed", Quantization("int8", skip=[row.name for row in rows]))}


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
