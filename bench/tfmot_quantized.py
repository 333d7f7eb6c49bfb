"""Quantization-aware training: ours on Keras 3 and tfmot's on tf_keras, from the same weights, over the same steps.

Accuracy: a network is trained in float, then each library goes on for two epochs of the same batches, and both int8
files are asked about the 10,000 test images. Time: a step of such a training over one of plain `fit`, each library
with its own Keras, by the CPU's time on one thread.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import fashion
import keras
import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from common import Row, at_least, at_most, interleaved, median_ratio
from quantized import small_images

import tfprune
from tfprune.export import evaluate, to_tflite

SEEDS, BATCH, ROUNDS = 3, 64, 7
NAMES = ("CNN", "depthwise net")


def network(name: str, api: Any) -> Any:
    """Build one network in one Keras or the other; the order of its weights is the same."""
    layers = api.layers
    tensor = inputs = api.Input((14, 14, 1))

    def unit(layer: Any, tensor: Any) -> Any:
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layer(tensor)))

    tensor = unit(layers.Conv2D(16, 3, padding="same", use_bias=False), tensor)
    for filters, strides in ((32, 2), (48, 1)):
        if name == "CNN":
            tensor = unit(layers.Conv2D(filters, 3, strides, padding="same", use_bias=False), tensor)
        else:
            tensor = unit(layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False), tensor)
            tensor = unit(layers.Conv2D(filters, 1, use_bias=False), tensor)
    tensor = layers.GlobalAveragePooling2D()(tensor)
    return api.Model(inputs, layers.Dense(10, activation="softmax")(tensor))


def compiled(model: Any, api: Any, rate: float) -> Any:
    model.compile(api.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def tfmots_file(model: Any, path: Path) -> None:
    """Convert as tfmot's guide does."""
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        path.write_bytes(converter.convert())


def accuracies(name: str, seed: int, data: tuple[np.ndarray, ...], folder: Path) -> tuple[float, float]:
    """Return the accuracy of our file, and that of tfmot's."""
    x, y, test_x, test_y = data
    keras.utils.set_random_seed(seed)
    ours = compiled(network(name, keras), keras, 2e-3)
    ours.fit(x, y, batch_size=BATCH, epochs=4, verbose=0)
    theirs = network(name, tf_keras)
    theirs.set_weights(ours.get_weights())
    accuracies = []
    for model, api in (
        (tfprune.quantize_aware(ours), keras),
        (tfmot.quantization.keras.quantize_model(theirs), tf_keras),
    ):
        compiled(model, api, 2e-4).fit(x, y, batch_size=BATCH, epochs=2, verbose=0, shuffle=False)
        path = folder / "model.tflite"
        if api is keras:
            to_tflite(model, path, quantize="int8", check_on=test_x[:64], tolerance=1.0)
        else:
            tfmots_file(model, path)
        accuracies.append(evaluate(path, (test_x, test_y)).metrics["accuracy"])
    return accuracies[0], accuracies[1]


def ratios(name: str, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return what a step takes over one of plain `fit`: ours, and tfmot's."""

    def fit(model: Any, api: Any) -> Any:
        compiled(model, api, 1e-4)
        return lambda: model.fit(x, y, batch_size=BATCH, verbose=0, shuffle=False)

    runs = {
        "plain": fit(network(name, keras), keras),
        "tfprune": fit(tfprune.quantize_aware(network(name, keras)), keras),
        "plain tf_keras": fit(network(name, tf_keras), tf_keras),
        "tfmot": fit(tfmot.quantization.keras.quantize_model(network(name, tf_keras)), tf_keras),
    }
    interleaved(runs, rounds=1)  # traces the graphs
    seconds = interleaved(runs, rounds=ROUNDS, clock=time.process_time)
    return median_ratio(seconds["tfprune"], seconds["plain"]), median_ratio(
        seconds["tfmot"], seconds["plain tf_keras"]
    )


def measure() -> list[Row]:
    if not fashion.is_there():
        return []
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    data = small_images()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            pairs = [accuracies(name, seed, data, Path(folder)) for seed in range(SEEDS)]
            ours, theirs = ([100 * fraction for fraction in column] for column in zip(*pairs, strict=True))
            spread = max(statistics.stdev(ours), statistics.stdev(theirs))
            what = f"{name}: int8 accuracy, tfprune {_mean(ours)}, tfmot {_mean(theirs)}; ours above theirs by"
            difference = statistics.mean(ours) - statistics.mean(theirs)
            rows.append(at_least(what, difference, -round(spread, 2), unit=" points"))
            step, peer = ratios(name, data[0][: 30 * BATCH], data[1][: 30 * BATCH])
            what = f"{name}: a step of QAT / plain fit, tfprune {step:.2f}x, tfmot {peer:.2f}x; ours / theirs"
            rows.append(at_most(what, step / peer, 1.0, digits=2))
    return rows


def _mean(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} %"


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
