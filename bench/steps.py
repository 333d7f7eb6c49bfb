"""One training step: wrapped with the callback against plain fit, ours on Keras 3 and tfmot's on tf_keras.

By the CPU's time on one thread: on two threads, the wall clock gave two equal fits in one process up to twice one
another's time, by how the threads happened to stand on the cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import keras
import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from common import Row, at_most, interleaved, median_ratio

import tfprune

STEPS, BATCH = 100, 32
BARS = {"cnn": 1.03, "lstm": 1.06, "mlp": 1.12, "embedding": 1.1}
WORDS = {"lstm": 5000, "embedding": 200_000}


def _layers(kind: str, api) -> list:
    layers = api.layers
    if kind == "mlp":
        return [layers.Dense(1024, activation="relu"), layers.Dense(1024, activation="relu"), layers.Dense(10)]
    if kind == "lstm":
        return [layers.Embedding(5000, 200), layers.LSTM(200), layers.Dense(5000)]
    if kind == "embedding":
        return [layers.Embedding(WORDS[kind], 64), layers.GlobalAveragePooling1D(), layers.Dense(10)]
    return [
        layers.Conv2D(32, 3, activation="relu"),
        layers.Conv2D(64, 3, strides=2, activation="relu"),
        layers.Conv2D(64, 3, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10),
    ]


def _data(kind: str) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    count = STEPS * BATCH
    if kind in WORDS:
        classes = 5000 if kind == "lstm" else 10
        return generator.integers(0, WORDS[kind], (count, 20)), generator.integers(0, classes, count)
    shape = (784,) if kind == "mlp" else (32, 32, 3)
    return generator.random((count, *shape), dtype=np.float32), generator.integers(0, 10, count)


def _model(kind: str, api, x: np.ndarray):
    dtype = "int32" if kind in WORDS else "float32"
    return api.Sequential([api.Input(x.shape[1:], dtype=dtype), *_layers(kind, api)])


def _fit(kind: str, model, api, data, *, jit: bool, callbacks=()):
    loss = api.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = api.optimizers.SGD() if kind == "embedding" else api.optimizers.Adam()
    model.compile(optimizer=optimizer, loss=loss, jit_compile=jit)
    return lambda: model.fit(*data, batch_size=BATCH, epochs=1, verbose=0, shuffle=False, callbacks=list(callbacks))


def _ratios(kind: str, rounds: int, jit: bool) -> list[float]:
    """Return what a step takes over plain fit's.

    That is tfprune's, a second plain fit's, tfprune's between two updates, and tfmot's, which has no XLA.
    """
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    data = _data(kind)
    ours = tfprune.wrap(_model(kind, keras, data[0]))
    # One mask update a fit, as tfmot's: a fit that begins where one is due repeats it, for runs that were killed.
    callback = tfprune.PruningCallback(tfprune.schedules.Constant(0.8, begin=STEPS // 2), every=STEPS)
    runs = {
        "plain": _fit(kind, _model(kind, keras, data[0]), keras, data, jit=jit),
        "plain again": _fit(kind, _model(kind, keras, data[0]), keras, data, jit=jit),  # how much equal fits differ
        "tfprune": _fit(kind, ours, keras, data, jit=jit, callbacks=[callback]),
        "between updates": _fit(kind, tfprune.wrap(_model(kind, keras, data[0])), keras, data, jit=jit),
    }
    pairs = [(name, "plain") for name in ("tfprune", "plain again", "between updates")]
    if not jit:
        schedule = tfmot.sparsity.keras.ConstantSparsity(0.8, 0, frequency=100)
        theirs = tfmot.sparsity.keras.prune_low_magnitude(_model(kind, tf_keras, data[0]), pruning_schedule=schedule)
        update = tfmot.sparsity.keras.UpdatePruningStep()
        runs["plain tf_keras"] = _fit(kind, _model(kind, tf_keras, data[0]), tf_keras, data, jit=False)
        runs["tfmot"] = _fit(kind, theirs, tf_keras, data, jit=False, callbacks=[update])
        pairs.append(("tfmot", "plain tf_keras"))
    interleaved(runs, rounds=1)  # traces the graphs
    seconds = interleaved(runs, rounds=rounds, clock=time.process_time)
    return [median_ratio(seconds[numerator], seconds[denominator]) for numerator, denominator in pairs]


def measure(kind: str, *, processes: int, rounds: int, jit: bool) -> list[Row]:
    """Take medians over processes: memory and threads are laid out anew in each."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        runs = list(pool.map(_ratios, [kind] * processes, [rounds] * processes, [jit] * processes))
    ours, noise, between, *peer = (statistics.median(column) for column in zip(*runs, strict=True))
    each = ", ".join(f"{ratios[0]:.3f}" for ratios in runs)
    name = f"{kind} with jit_compile=True" if jit else kind
    rows = [
        at_most(
            f"step, {name}: tfprune / plain fit (in turn {each}; a second plain fit {noise:.3f}x)", ours, BARS[kind]
        ),
        at_most(f"step, {name}: the same, between two updates", between, BARS[kind]),
    ]
    if peer:
        against = statistics.median(numerator / denominator for numerator, *_, denominator in runs)
        rows.append(at_most(f"step, {name}: tfprune's ratio / tfmot's ({peer[0]:.3f}x)", against, 1.0))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(BARS))
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5, help="in each process")
    parser.add_argument("--jit", action="store_true", help="compile the models by XLA")
    arguments = parser.parse_args()
    for row in measure(**vars(arguments)):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
