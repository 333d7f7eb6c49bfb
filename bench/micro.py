"""MLPerf Tiny's networks with 90 % zeros as int8 files for microcontrollers: flash and arena against the dense file.

With a name, such as `micro.py curve.png`, it also draws flash against arena (matplotlib).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from common import Row, at_most

import tfprune
from tfprune.export import MicroReport, Quantization, to_tflite

SPARSITY, SAMPLES = 0.9, 100
KERNELS, FLASH, ARENA = 0.32, 0.4, 1.5
layers = keras.layers


def measure() -> list[Row]:
    rows, reports = [], {}
    for name, build in NETWORKS.items():
        reports[name] = report = export(build())
        stored, dense = (sum(getattr(row, size) for row in report.rows) for size in ("bytes", "dense_bytes"))
        rows.append(at_most(f"{name} at 90 %, int8: its kernels / dense", stored / dense, KERNELS))
        rows.append(at_most(f"{name}: smallest file / dense", report.curve[0][0] / report.dense_flash, FLASH))
        # The curve goes from the smallest file to the smallest arena.
        arena = [arena for flash, arena in report.curve if flash <= FLASH * report.dense_flash][-1]
        what = f"{name}: least arena of files up to {FLASH} / that of the dense file"
        rows.append(at_most(what, arena / report.dense_arena, ARENA))
        rows.append(
            Row(f"{name}: equal outputs, of {SAMPLES}", str(report.samples), f"{SAMPLES}", report.samples == SAMPLES)
        )
    if len(sys.argv) > 1:
        draw(reports, Path(sys.argv[1]))
    return rows


def samples_of(model: keras.Model) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(SAMPLES, *model.input_shape[1:])).astype(np.float32)


def settled(model: keras.Model) -> keras.Model:
    """Let batch norms know the activations: those without momentum take the statistics of one call."""
    model(samples_of(model), training=True)
    return model


def pruned(model: keras.Model, sparsity: float = SPARSITY, pattern: object = "unstructured") -> keras.Model:
    """Return a network of random weights with zeros, whose batch norms know its activations."""
    masked = tfprune.wrap(model, pattern=pattern)
    tfprune.update_masks(masked, sparsity, allocation="uniform")
    return settled(tfprune.strip(masked))


def export(model: keras.Model) -> MicroReport:
    plain = pruned(model)
    samples = samples_of(plain)
    with tempfile.TemporaryDirectory() as folder:
        settings = {"quantize": Quantization("int8", io_dtype="int8"), "calibration": samples, "check_on": samples}
        # Zeros and random weights are coarse, and what is asked here is whether both files are equal.
        report = to_tflite(plain, Path(folder, "file"), target="micro", tolerance=10, **settings)
    assert report.micro is not None
    return report.micro


def normal(x: keras.KerasTensor, relu: bool = True) -> keras.KerasTensor:
    x = layers.BatchNormalization(momentum=0.0)(x)
    return layers.ReLU()(x) if relu else x


def ds_cnn() -> keras.Model:
    """Keyword spotting: 49x10 cepstral coefficients, 12 words."""
    inputs = keras.Input((49, 10, 1))
    x = normal(layers.Conv2D(64, (10, 4), strides=2, padding="same")(inputs))
    for _ in range(4):
        x = normal(layers.DepthwiseConv2D(3, padding="same")(x))
        x = normal(layers.Conv2D(64, 1)(x))
    x = layers.Flatten()(layers.AveragePooling2D((25, 5))(x))
    return keras.Model(inputs, layers.Dense(12, activation="softmax")(x))


def mobilenet() -> keras.Model:
    """Visual wake words: MobileNetV1 of a quarter of the width, a person or none."""
    inputs = keras.Input((96, 96, 3))
    x = normal(layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(inputs))
    widths = [16, 32, 32, 64, 64, *[128] * 6, 256, 256]
    for index, width in enumerate(widths):
        strides = 2 if index in (1, 3, 5, 11) else 1
        x = normal(layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(x))
        x = normal(layers.Conv2D(width, 1, use_bias=False)(x))
    x = layers.Flatten()(layers.AveragePooling2D(3)(x))
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x))


def resnet() -> keras.Model:
    """Image classification: ResNet-8 on 32x32 pictures."""
    inputs = keras.Input((32, 32, 3))
    x = normal(layers.Conv2D(16, 3, padding="same")(inputs))
    for width, strides in ((16, 1), (32, 2), (64, 2)):
        y = normal(layers.Conv2D(width, 3, strides=strides, padding="same")(x))
        y = normal(layers.Conv2D(width, 3, padding="same")(y), relu=False)
        if strides > 1:
            x = layers.Conv2D(width, 1, strides=strides, padding="same")(x)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Flatten()(layers.AveragePooling2D(8)(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def autoencoder() -> keras.Model:
    """Anomaly detection: 640 numbers of a spectrogram through eight."""
    inputs = x = keras.Input((640,))
    for width in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        x = normal(layers.Dense(width)(x))
    return keras.Model(inputs, layers.Dense(640)(x))


NETWORKS = {"DS-CNN": ds_cnn, "MobileNet 0.25": mobilenet, "ResNet-8": resnet, "autoencoder": autoencoder}


def draw(reports: dict[str, MicroReport], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, report in reports.items():
        points = [(arena / report.dense_arena, flash / report.dense_flash) for flash, arena in report.curve]
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set(xlabel="arena / that of the dense file", ylabel="flash / the dense file", ylim=(0, None))
    axes.set_title("MLPerf Tiny, 90 % zeros, int8, in tflite-micro")
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
