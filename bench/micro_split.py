"""Networks on images, strip by strip, on microcontrollers: arena, outputs, work, and the estimate."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import keras
import micro
import numpy as np
from common import Row, at_most
from sklearn.datasets import load_sample_images

from tfprune.export.file.document import load_objects
from tfprune.export.file.model_file import ModelFile
from tfprune.export.keras_side.convert import convert
from tfprune.export.micro.interpreter import arena_bytes, chip_arena, run_files
from tfprune.export.micro.micro import _Candidates

SAMPLES = 20  # half of them drawn at random, the others cut out of photographs
MOST_WORK, MOST_OFF = 1.3, 0.01
LESS = {"by a fifth": 0.2, "as far as it goes": 1.0}
layers = keras.layers


def plain() -> keras.Model:
    """Build convolutions with padding and max pooling."""
    inputs = x = keras.Input((64, 64, 3))
    for width in (16, 32, 64):
        x = layers.MaxPooling2D()(layers.Conv2D(width, 3, padding="same", activation="relu")(x))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def family(name: str, shape: tuple[int, int, int], alpha: float) -> keras.Model:
    return getattr(keras.applications, name)(shape, alpha=alpha, weights=None, classes=2)


# The bars: the arena as far as it goes, of that without strips.
NETWORKS = {
    "MobileNetV1 0.25, 96x96x1": (lambda: family("MobileNet", (96, 96, 1), 0.25), 0.85, 0.7),
    "MobileNetV2 0.35, 96x96x3": (lambda: family("MobileNetV2", (96, 96, 3), 0.35), 0.7, 0.6),
    "ResNet-8, 32x32x3": (micro.resnet, 0.85, 0.8),
    "plain CNN, 64x64x3": (plain, 0.6, 0.6),
}


def samples_of(model: keras.Model) -> np.ndarray:
    _, height, width, channels = model.input_shape
    random = np.random.default_rng(0)
    photos = [photo[:, :, :channels] / 127.5 - 1 for photo in load_sample_images().images]
    corners = random.integers(0, [photos[0].shape[0] - height, photos[0].shape[1] - width], (SAMPLES // 2, 2))
    cut = [photos[n % 2][top : top + height, left : left + width] for n, (top, left) in enumerate(corners)]
    drawn = random.uniform(-1, 1, (SAMPLES - len(cut), height, width, channels))
    return np.concatenate([np.stack(cut), drawn]).astype(np.float32)


def files_of(model: keras.Model, samples: np.ndarray) -> Iterator[tuple[str, bytes]]:
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    model(samples, training=True)
    yield "int8", convert(model, quantize="int8", calibration=samples, io_dtype="int8", batch=1)
    yield "float32", convert(model, batch=1)


def measured(content: bytes, samples: np.ndarray) -> Iterator[tuple[str, float, float, bool, str]]:
    """Yield by how much the arena was to shrink: its ratio, the work, whether outputs are equal, and bytes."""
    dense = ModelFile.open(content)
    whole = _Candidates(dense)
    first = whole.write((0,) * whole.layers).file
    (run,) = run_files([first], samples[np.newaxis])
    chip, estimate = chip_arena(first, run), arena_bytes(model := load_objects(first.content), model.subgraphs[0])
    for title, part in LESS.items():
        candidates = _Candidates(dense, excess=int(part * chip.total))
        file = candidates.write((0,) * candidates.layers).file
        (other,) = run_files([file], samples[np.newaxis])
        total, model = chip_arena(file, other), load_objects(file.content)
        off = abs(arena_bytes(model, model.subgraphs[0]) - estimate - total.total + chip.total) / total.total
        pairs = {"bytes": (chip.total, total.total), "of activations": (chip.activations, total.activations)}
        pairs["of flash"] = len(first.content), len(file.content)
        sizes = ", ".join(f"{before:,} to {after:,} {name}" for name, (before, after) in pairs.items())
        yield title, total.total / chip.total, 1 + (candidates.extra_work or 0), other.equals(run), off, sizes


def measure() -> Iterator[Row]:
    for name, (build, *bars) in NETWORKS.items():
        keras.utils.set_random_seed(0)
        model = build()
        samples = samples_of(model)
        for (kind, content), bar in zip(files_of(model, samples), bars, strict=True):
            for title, ratio, work, is_equal, off, sizes in measured(content, samples):
                what = f"{name}, {kind}, {title}"
                yield at_most(f"{what}: arena, {sizes}", ratio, bar if LESS[title] == 1 else 0.83)
                yield at_most(f"{what}: multiplications", work, MOST_WORK)
                yield Row(f"{what}: outputs equal on {SAMPLES} samples", str(is_equal), "True", is_equal)
                yield at_most(f"{what}: estimate off by", off, MOST_OFF, unit="", digits=4)


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
        sys.stdout.flush()
