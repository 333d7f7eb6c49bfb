"""Prune .tflite files without training: a ResNet of 175,000 weights on CIFAR-10, beside magnitude, three seeds.

The first run trains the networks, 18 minutes each on two cores, and keeps them in build/anyfile.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cifar
import numpy as np
from common import Row, at_most

from tfprune.export import Runner, pack, prune_tflite
from tfprune.export.file.document import load_objects, save_objects
from tfprune.export.pruning.layers import _linear_operators
from tfprune.export.pruning.pieces import Pieces, StoredWeight

FOLDER = Path(__file__).parents[1] / "build" / "anyfile"
SEEDS, TRAINED, EPOCHS, BATCH = 3, 40_000, 4, 64
SAMPLES, TESTED = 256, 3000
FIRST_SAMPLE = 40_000  # training images that no network was trained on
BARS = {"float32": {0.5: 0.3, 0.6: 1.0, 0.7: 1.2, 0.8: 3.0}, "int8": {0.5: 0.3, 0.6: 0.8, 0.7: 1.0, 0.8: 3.5}}


def resnet():
    import keras

    def convolved(x, channels, size, stride=1):
        x = keras.layers.Conv2D(channels, size, stride, padding="same", use_bias=False)(x)
        return keras.layers.BatchNormalization(momentum=0.9)(x)

    inputs = keras.Input((32, 32, 3))
    x = keras.layers.ReLU()(convolved(inputs, 16, 3))
    for channels, stride in ((16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        y = convolved(keras.layers.ReLU()(convolved(x, channels, 3, stride)), channels, 3)
        x = keras.layers.ReLU()(keras.layers.Add()([convolved(x, channels, 1, stride) if stride > 1 else x, y]))
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))


def file_of(seed: int, kind: str) -> Path:
    """Return a trained network as a file; train and convert it if it is not there."""
    path = FOLDER / f"cifar{seed}_{kind}.tflite"
    if path.exists():
        return path
    import keras

    from tfprune.export import to_tflite

    FOLDER.mkdir(parents=True, exist_ok=True)
    images, labels = cifar.read("train")
    saved = path.with_name(f"cifar{seed}.keras")
    if not saved.exists():
        keras.utils.set_random_seed(seed)
        model = resnet()
        rate = keras.optimizers.schedules.CosineDecay(2e-3, TRAINED // BATCH * EPOCHS)
        model.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(images[:TRAINED], labels[:TRAINED], batch_size=BATCH, epochs=EPOCHS, verbose=0)
        model.save(saved)
    model = keras.saving.load_model(saved)
    if kind == "int8":
        to_tflite(model, path, quantize="int8", calibration=images[:200], optimize="dense")
    else:
        to_tflite(model, path, optimize="dense")
    return path


def by_magnitude(content: bytes, sparsity: float) -> bytes:
    """Return the file without the smallest weights of each layer."""
    pieces = Pieces(load_objects(content))
    for operator in _linear_operators(pieces)[0]:
        tensor = pieces.graph.tensors[operator.weight]
        stored, buffer = StoredWeight.of(tensor), pieces.model.buffers[tensor.buffer]
        values = stored.read(buffer)
        values[np.abs(values) <= np.quantile(np.abs(values), sparsity)] = 0
        buffer.data = stored.write(values)
    return save_objects(pieces.model)


def accuracy(source: Path | bytes, test: tuple[np.ndarray, np.ndarray]) -> float:
    images, labels = test
    return 100 * float((Runner(source, threads=2).predict(images[:TESTED]).argmax(axis=1) == labels[:TESTED]).mean())


def measure() -> Iterator[Row]:
    test = cifar.read("test")
    samples = cifar.read("train")[0][FIRST_SAMPLE : FIRST_SAMPLE + SAMPLES]
    for kind, bars in BARS.items():
        files = [file_of(seed, kind) for seed in range(SEEDS)]
        dense = [accuracy(file, test) for file in files]
        for sparsity, bar in bars.items():
            lost, simple, ratios, seconds = [], [], [], []
            for file, before in zip(files, dense, strict=True):
                with tempfile.TemporaryDirectory() as folder:
                    path, start = Path(folder, "sparse.tflite"), time.perf_counter()
                    prune_tflite(file, path, samples, sparsity=sparsity, optimize="dense")
                    seconds.append(time.perf_counter() - start)
                    lost.append(before - accuracy(path, test))
                    ratios.append(len(pack(path.read_bytes())) / len(pack(file.read_bytes())))
                simple.append(before - accuracy(by_magnitude(file.read_bytes(), sparsity), test))
            each = ", ".join(f"{value:.1f}" for value in lost)
            text = f"{kind}, {sparsity:.0%} zeros, of {statistics.mean(dense):.2f} % (each seed: {each}; magnitude: "
            text += f"{statistics.mean(simple):.1f}; {statistics.median(seconds):.0f} s)"
            yield at_most(text, statistics.mean(lost), bar, unit=" points", digits=2)
            if sparsity == 0.7:
                yield at_most(f"{kind}, 70 % zeros, packed", statistics.mean(ratios), 0.42, unit="x", digits=2)


if __name__ == "__main__" and cifar.is_there():
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
        sys.stdout.flush()
