"""Weight sharing on pruned int8 files: the bytes that packing saves by it against the accuracy that it costs."""

from __future__ import annotations

import sys

import fashion
import keras
import numpy as np
from common import Row

import tfprune
from tfprune.export import Runner, pack
from tfprune.export.keras_side.convert import convert
from tfprune.export.rewriting.share_weights import share_weights

SPARSITY, EPOCHS, BATCH = 0.9, 8, 128
LEVELS, BOUNDED = (65, 33, 17, 9), 33  # the bar is that of 32 values beside 0
SMALLER, WORSE = 15, 0.2  # percent of the packed bytes that sharing has to save, points of accuracy it may cost


def _models() -> dict[str, keras.Model]:
    layers = keras.layers
    inputs = (28, 28, 1)
    dense = [layers.Flatten(), layers.Dense(300, "relu"), layers.Dense(100, "relu"), layers.Dense(10)]
    conv = [
        *(layers.Conv2D(32, 5, strides=2, activation="relu"), layers.Conv2D(64, 3, strides=2, activation="relu")),
        *(layers.Flatten(), layers.Dense(128, "relu"), layers.Dense(10)),
    ]
    return {name: keras.Sequential([keras.Input(inputs), *stack]) for name, stack in (("MLP", dense), ("CNN", conv))}


def _trained(model: keras.Model, x: np.ndarray, y: np.ndarray) -> keras.Model:
    steps = len(x) // BATCH
    wrapped = tfprune.wrap(model)
    schedule = tfprune.schedules.Polynomial(SPARSITY, begin=steps, end=5 * steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, EPOCHS * steps)
    wrapped.compile(keras.optimizers.Adam(rate), loss)
    callbacks = [tfprune.PruningCallback(schedule, every=50)]
    wrapped.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=callbacks)
    return tfprune.strip(wrapped)


def _accuracy(data: bytes, x: np.ndarray, y: np.ndarray) -> float:
    return 100 * float(np.mean(Runner(data).predict(x).argmax(axis=1) == y))


def measure() -> list[Row]:
    if not fashion.is_there():
        return []
    keras.utils.set_random_seed(0)
    (x, y), (held_x, held_y) = fashion.read("train"), fashion.read("t10k")
    rows = []
    for name, model in _models().items():
        plain = convert(_trained(model, x, y), quantize="int8", calibration=[x[:200]])
        size, right = len(pack(plain)), _accuracy(plain, held_x, held_y)
        rows.append(
            Row(f"Fashion-MNIST {name} at 90 %, int8: packed bytes, accuracy", f"{size:,}, {right:.2f} %", "", True)
        )
        for levels in LEVELS:
            data = share_weights(plain, levels=levels)
            saved, lost = 100 * (1 - len(pack(data)) / size), right - _accuracy(data, held_x, held_y)
            measured = f"{saved:.1f} % smaller, {lost:+.2f} points lost"
            bar = f">= {SMALLER} %, <= {WORSE}" if levels == BOUNDED else ""
            holds = levels != BOUNDED or (saved >= SMALLER and lost <= WORSE)
            rows.append(Row(f"{name}, {levels} levels", measured, bar, holds))
    return rows


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
