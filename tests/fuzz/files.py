"""Small real files for the fuzzer to start from: plain, sparse, with loops, packed in every way."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from tfprune.export.file.container import encode, pack
from tfprune.export.file.model_file import ModelFile
from tfprune.export.micro.micro import _Candidates
from tfprune.export.rewriting.sparsify import sparsify

INT8 = tf.lite.OpsSet.TFLITE_BUILTINS_INT8


def main(folder: Path) -> None:
    """Write the files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in plain_files().items():
        forms = {"plain": data, "sparse": sparsify(data).data, "packed": pack(data), "xz": encode(data, "xz")}
        if name in ("dense", "int8"):
            candidates = _Candidates(ModelFile(data))
            forms["micro"] = candidates.write((1,) * candidates.layers).file.content
        for form, content in {**forms, "gzip": encode(data, "gzip")}.items():
            (folder / f"{name}-{form}").write_bytes(content)


def plain_files() -> dict[str, bytes]:
    """Convert small pruned models."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    dense = keras.Sequential([keras.Input((12,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])
    conv = keras.Sequential(
        [keras.Input((6, 6, 3)), keras.layers.Conv2D(4, 3), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    loop = keras.Sequential([keras.Input((4, 3), batch_size=1), keras.layers.LSTM(4)])
    image, vectors = keras.Input((6, 6, 2), batch_size=1), keras.Input((4, 6), batch_size=1)
    x = keras.layers.Conv2DTranspose(3, 2, strides=2)(keras.layers.DepthwiseConv2D(3, padding="same")(image))
    x = keras.layers.AveragePooling2D(2)(x) - keras.ops.sigmoid(keras.layers.MaxPooling2D(2)(x))
    x = keras.layers.Conv2D(2, 3, strides=2)(keras.layers.ZeroPadding2D(1)(keras.layers.UpSampling2D(2)(x)))
    maps = keras.Model(image, keras.layers.GlobalAveragePooling2D()(keras.ops.leaky_relu(x)))
    x, y = keras.ops.split(keras.layers.LayerNormalization()(keras.layers.Dense(6)(vectors)), 2, axis=-1)
    x = keras.ops.where(x > y, keras.ops.softmax(x), keras.ops.square(x - y))
    calls = keras.Model(vectors, keras.ops.matmul(x, keras.ops.transpose(y, (0, 2, 1)))[:, 1:])
    for weight in [*dense.weights, *conv.weights, *loop.weights]:
        if len(weight.shape) > 1:
            weight.assign(np.where(generator.random(weight.shape) < 0.8, 0, weight))
    images = [[generator.random((1, 6, 6, 3), np.float32)] for _ in range(4)]
    small = [[generator.random((1, 6, 6, 2), np.float32)] for _ in range(4)]
    rows = [[generator.random((1, 4, 6), np.float32)] for _ in range(4)]
    stock = tf.lite.Optimize.EXPERIMENTAL_SPARSITY
    return {
        "dense": converted(dense),
        "stock": converted(dense, stock),
        "dynamic": converted(conv, tf.lite.Optimize.DEFAULT),
        "int8": converted(conv, tf.lite.Optimize.DEFAULT, samples=images),
        "loop": converted(loop),
        "maps": converted(maps, tf.lite.Optimize.DEFAULT, samples=small),
        "calls": converted(calls, tf.lite.Optimize.DEFAULT, samples=rows),
    }


def converted(model: keras.Model, *optimizations: tf.lite.Optimize, samples: list | None = None) -> bytes:
    """Run the stock converter."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = list(optimizations)
    if samples:
        converter.representative_dataset = lambda: iter(samples)
        converter.target_spec.supported_ops = [INT8]
    return converter.convert()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
