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
BARS = {"cnn": 1.02, "lstm": 1.05, "mlp": 1.10}


def _layers(kind: str, api) -> list:
    layers = api.layers
    if kind == "mlp":
        return [layers.Dense(1024, activation="relu"), layers.Dense(1024, activation="relu"), layers.Dense(10)]
    if kind == "lstm":
        return [layers.Embedding(5000, 200), layers.LSTM(200), layers.Dense(5000)]
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
    if kind == "lstm":
        return generator.integers(0, 5000, (count, 20)), generator.integers(0, 5000, count)
    shape = (784,) if kind == "mlp" else (32, 32, 3)
    return generator.random((count, *shape), dtype=np.float32), generator.integers(0, 10, count)


def _model(kind: str, api, x: np.ndarray):
    dtype = "int32" if kind == "lstm" else "float32"
    return api.Sequential([api.Input(x.shape[1:], dtype=dtype), *_layers(kind, api)])


def _fit(model, api, data, callbacks=()):
    loss = api.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=api.optimizers.Adam(), loss=loss)
    return lambda: model.fit(*data, batch_size=BATCH, epochs=1, verbose=0, shuffle=False, callbacks=list(callbacks))


def _ratios(kind: str, rounds: int) -> tuple[float, float, float]:
    """Return what a step takes over plain fit's: tfprune's, a second plain fit's, tfmot's."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    data = _data(kind)
    ours = tfprune.wrap(_model(kind, keras, data[0]))
    # One mask update a fit, as tfmot's: a fit that begins where one is due repeats it, for runs that were killed.
    callback = tfprune.PruningCallback(tfprune.schedules.Constant(0.8, begin=STEPS // 2), every=STEPS)
    schedule = tfmot.sparsity.keras.ConstantSparsity(0.8, 0, frequency=100)
    theirs = tfmot.sparsity.keras.prune_low_magnitude(_model(kind, tf_keras, data[0]), pruning_schedule=schedule)
    runs = {
        "plain": _fit(_model(kind, keras, data[0]), keras, data),
        "plain again": _fit(_model(kind, keras, data[0]), keras, data),  # how much two equal fits differ here
        "tfprune": _fit(ours, keras, data, [callback]),
        "plain tf_keras": _fit(_model(kind, tf_keras, data[0]), tf_keras, data),
        "tfmot": _fit(theirs, tf_keras, data, [tfmot.sparsity.keras.UpdatePruningStep()]),
    }
    interleaved(runs, rounds=1)  # traces the graphs
    seconds = interleaved(runs, rounds=rounds, clock=time.process_time)
    pairs = [("tfprune", "plain"), ("plain again", "plain"), ("tfmot", "plain tf_keras")]
    ours_ratio, noise, peer = (median_ratio(seconds[one], seconds[other]) for one, other in pairs)
    return ours_ratio, noise, peer


def measure(kind: str, *, processes: int, rounds: int) -> list[Row]:
    """Take medians over processes: memory and threads are laid out anew in each."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        found = list(pool.map(_ratios, [kind] * processes, [rounds] * processes))
    ours, noise, peer = (statistics.median(column) for column in zip(*found, strict=True))
    each = ", ".join(f"{ratio:.3f}" for ratio, _, _ in found)
    return [
        at_most(
            f"step, {kind}: tfprune / plain fit (in turn {each}; a second plain fit {noise:.3f}x)", ours, BARS[kind]
        ),
        at_most(
            f"step, {kind}: tfprune's ratio / tfmot's ({peer:.3f}x)",
            statistics.median(one / other for one, _, other in found),
            1.0,
        ),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(BARS))
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5, help="in each process")
    arguments = parser.parse_args()
    for row in measure(arguments.kind, processes=arguments.processes, rounds=arguments.rounds):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
