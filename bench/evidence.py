"""One pass that gathers evidence: time against one epoch of inference, and memory against the number of samples."""

from __future__ import annotations

import statistics
import sys

import keras
import numpy as np
from common import Row, at_most, interleaved, median_ratio, peak_during

import tfprune
from tfprune.criteria import DACIS, Criterion, FStatistic, Taylor, Wanda
from tfprune.evidence import Gatherer
from tfprune.masking.update_masks import _subjects_of, gatherer_of

SAMPLES, BAR = 4096, 1.3
CRITERIA: list[Criterion] = [Wanda(), FStatistic(), FStatistic("output"), DACIS(gradient=0)]
OF_LOSS: list[Criterion] = [Taylor(), DACIS()]


def _block(x, channels: int, stride: int):
    """Widen, filter and narrow, as MobileNetV2 does."""
    layers, into = keras.layers, x
    x = layers.Conv2D(4 * x.shape[-1], 1, use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.BatchNormalization()(layers.Conv2D(channels, 1, use_bias=False)(x))
    return layers.Add()([into, x]) if into.shape == x.shape else x


def _mobile() -> keras.Model:
    inputs = keras.Input((28, 28, 1))
    x = keras.layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(inputs)
    x = keras.layers.ReLU(6.0)(keras.layers.BatchNormalization()(x))
    for channels, stride in ((16, 1), (24, 2), (24, 1), (48, 2), (48, 1)):
        x = _block(x, channels, stride)
    x = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x)


def _convolutions() -> keras.Model:
    layers = keras.layers
    stack = [layers.Conv2D(width, 3, padding="same", activation="relu") for width in (32, 64, 64)]
    return keras.Sequential([keras.Input((28, 28, 1)), *stack, layers.GlobalAveragePooling2D(), layers.Dense(10)])


def _data(samples: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.random((samples, 28, 28, 1), dtype=np.float32), generator.integers(0, 10, samples)


def cost(name: str, model: keras.Model, criterion: Criterion, *, rounds: int) -> Row:
    """Compare with `predict`, both after their first call, which compiles."""
    data = _data(SAMPLES)
    wrapped = tfprune.wrap(model, criterion=criterion)
    wrapped.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    gatherer, subjects = gatherer_of(wrapped, data, loss=None), _subjects_of(wrapped)
    runs = {
        "gather": lambda: gatherer.gather(subjects),
        "predict": lambda: model.predict(data[0], batch_size=32, verbose=0),
    }
    interleaved(runs, rounds=1)
    seconds = interleaved(runs, rounds=rounds)
    ms = {run: 1000 * statistics.median(seconds[run]) for run in runs}
    text = f"evidence, {name}, {criterion!r}: gather ({ms['gather']:.0f} ms) / predict ({ms['predict']:.0f} ms)"
    ratio = median_ratio(seconds["gather"], seconds["predict"])
    # What looks at gradients pays for a backward pass as well, and is shown without a bar.
    return Row(text, f"{ratio:.2f}x", "", True) if criterion in OF_LOSS else at_most(text, ratio, BAR, digits=2)


def memory() -> Row:
    """Compare the resident memory that a pass adds with that of one over ten times as many samples."""
    wrapped, data = tfprune.wrap(_mobile(), criterion=DACIS(gradient=0)), _data(64)
    gatherer, subjects, peaks = Gatherer(wrapped, [data]), _subjects_of(wrapped), []
    for batches in (100, 10, 100):  # the first compiles, and lets TensorFlow take what it keeps
        gatherer.data = [data] * batches
        peaks.append(peak_during(lambda: gatherer.gather(subjects))[1] / 1e6)
    text = f"evidence: memory added by 6400 samples ({peaks[2]:.1f} MB) - by 640 ({peaks[1]:.1f} MB)"
    return at_most(text, peaks[2] - peaks[1], 4.0, unit=" MB", digits=1)


def held(row: Row) -> str:
    if not row.bar:
        return ""
    return "yes" if row.holds else "NO"


if __name__ == "__main__":
    networks = {"MobileNetV2-like": _mobile, "three convolutions": _convolutions}
    rows = [
        cost(name, make(), each_criterion, rounds=7)
        for name, make in networks.items()
        for each_criterion in CRITERIA + OF_LOSS
    ]
    for row in [*rows, memory()]:
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, held(row)]) + "\n")
