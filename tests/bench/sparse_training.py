"""Training that is sparse from the first step, on Fashion-MNIST: RigL and SET against other ways to the same size.

A small CNN is trained for a few epochs by SGD with momentum, as in RigL's paper, with each way at each sparsity from
the same seeds. The masks are split by ERK. Beside the accuracy stands the cost of training in multiply-adds, relative
to dense training, as the paper counts it: a backward pass takes twice as many as a forward pass, and zeros none.
TensorFlow itself computes with the zeros, so the wall clock does not show this cost.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fashion
import keras
import numpy as np
import tensorflow as tf
from common import Row

import tfprune
from tfprune.schedules import Constant, Polynomial

SPARSITIES, EVERY, BATCH = (0.9, 0.95, 0.98), 50, 128
RATE = 0.05
WIDTHS = (16, 32, 128)  # two convolutions and a dense layer
DENSE, RIGL, STATIC = "dense", "RigL", "static sparse (random ERK masks)"


class FreshBatches:
    """One batch of the training data, another one each time that it is read."""

    def __init__(self, x: np.ndarray, y: np.ndarray, seed: int) -> None:
        self.x, self.y, self.random = x, y, np.random.default_rng(seed)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rows = self.random.choice(len(self.x), BATCH, replace=False)
        yield self.x[rows], self.y[rows]


class Watch(keras.callbacks.Callback):
    """Count entries under the masks after each step, and values that are not zero where the masks hide them."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: set[int] = set()
        self.leaks = 0
        self.cost = 0.0  # multiply-adds of a sample's forward pass, added up over the steps

    def on_train_begin(self, logs: Any = None) -> None:
        self.layers = [layer for layer in self.model.layers if isinstance(layer, tfprune.Pruned)]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        masks = {layer: layer.masks["kernel"].numpy() for layer in self.layers}
        self.counts.add(sum(int(mask.sum()) for mask in masks.values()))
        self.cost += sum(int(mask.sum()) * _positions(layer) for layer, mask in masks.items())
        if batch % 50:  # a look at all slots takes longer than a step
            return
        for layer, mask in masks.items():
            name = layer.layer.kernel.path.replace("/", "_")
            slots = [slot.numpy() for slot in self.model.optimizer.variables if slot.name.startswith(name)]
            self.leaks += sum(int(np.count_nonzero(value[~mask])) for value in [layer.layer.kernel.numpy(), *slots])


def _positions(layer: keras.layers.Layer) -> int:
    """Return how often an entry of a layer's kernel is used for one sample."""
    return int(np.prod(layer.output.shape[1:-1], dtype=int))


def _cnn(widths: tuple[int, ...] = WIDTHS) -> keras.Model:
    layers, (first, second, third) = keras.layers, widths
    stack = [
        layers.Conv2D(first, 3, strides=2, activation="relu"),
        layers.Conv2D(second, 3, strides=2, activation="relu"),
        *(layers.Flatten(), layers.Dense(third, activation="relu"), layers.Dense(10)),
    ]
    return keras.Sequential([keras.Input((28, 28, 1)), *stack])


def _size(widths: tuple[int, ...]) -> int:
    """Return the number of entries of the kernels."""
    first, second, third = widths
    return 9 * first + 9 * first * second + 36 * second * third + 10 * third


def _macs(model: keras.Model) -> int:
    """Return the multiply-adds of the forward pass of one sample."""
    return sum(int(np.prod(layer.kernel.shape)) * _positions(layer) for layer in model.layers if layer.weights)


def _small(sparsity: float) -> keras.Model:
    """Return the widest model of the same shape with no more weights than the sparse ones keep."""
    scaled = (tuple(max(round(scale * width), 1) for width in WIDTHS) for scale in np.linspace(1, 0.05, 400))
    return _cnn(next(widths for widths in scaled if _size(widths) <= (1 - sparsity) * _size(WIDTHS)))


def _fit(model: keras.Model, data: tuple, *, seed: int, epochs: int, callbacks: list) -> None:
    model.compile(
        keras.optimizers.SGD(RATE, momentum=0.9), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    keras.utils.set_random_seed(seed)  # the same batches for each way
    rate = keras.callbacks.LearningRateScheduler(lambda epoch: RATE * 0.5 ** max(epoch - epochs // 2, 0))
    model.fit(*data, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[rate, *callbacks])


def _callback(way: str, sparsity: float, data: tuple, seed: int) -> list:
    grow = {RIGL: "gradient", "SET": "random"}.get(way)
    if way == "gradual pruning":
        return [tfprune.PruningCallback(Polynomial(sparsity, end=0.75), every=EVERY, allocation="erk")]
    if way == STATIC:
        grow = tfprune.Grow("random", fraction=0.0, seed=seed)
    elif grow:
        grow = tfprune.Grow(grow, seed=seed)
    fresh = {"data": FreshBatches(*data, seed)} if way == RIGL else {}
    return [tfprune.PruningCallback(Constant(sparsity), every=EVERY, allocation="erk", grow=grow, **fresh)]


WAYS = ("gradual pruning", STATIC, "SET", RIGL)


def _run(way: str, sparsity: float, seed: int, epochs: int) -> dict[str, Any]:
    """Train once; return accuracy in percent, cost relative to dense training, counts and leaks."""
    data, (held_x, held_y) = fashion.read("train"), fashion.read("t10k")
    keras.utils.set_random_seed(seed)
    dense = _cnn()
    watch = Watch()
    if way in WAYS:
        model = tfprune.wrap(dense)
        _fit(model, data, seed=seed, epochs=epochs, callbacks=[*_callback(way, sparsity, data, seed), watch])
        steps = epochs * -(-len(data[0]) // BATCH)
        forward = watch.cost / steps
        cost = 3 * forward
        if way == RIGL:  # one backward pass of `every` + 1 is dense
            cost = (3 * forward * EVERY + 2 * forward + _macs(dense)) / (EVERY + 1)
    else:
        model = dense if way == DENSE else _small(sparsity)
        _fit(model, data, seed=seed, epochs=epochs, callbacks=[])
        cost = 3 * _macs(model)
    accuracy = 100 * float(np.mean(model.predict(held_x, verbose=0, batch_size=1000).argmax(axis=1) == held_y))
    counts = sorted(watch.counts)
    return {
        "way": way, "sparsity": sparsity, "seed": seed, "accuracy": accuracy, "cost": cost / (3 * _macs(dense)),
        "counts": counts[:3], "leaks": watch.leaks,
    }  # fmt: skip


def measure(*, seeds: int, epochs: int, kept: Path | None = None) -> list[Row]:
    if not fashion.is_there():
        return []
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    jobs = [
        (way, sparsity, seed)
        for seed in range(seeds)
        for sparsity in SPARSITIES
        for way in ([DENSE] if sparsity == SPARSITIES[0] else []) + ["small dense", *WAYS]
    ]
    lines = kept.read_text(encoding="utf-8").splitlines() if kept and kept.exists() else []
    found = {(run["way"], run["sparsity"], run["seed"]): run for run in map(json.loads, lines)}
    for job in jobs:
        if job not in found:
            found[job] = _run(*job, epochs)
            keras.backend.clear_session()
            if kept:
                with kept.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(found[job]) + "\n")
    return list(_rows([found[job] for job in jobs], epochs))


def _rows(found: list[dict[str, Any]], epochs: int) -> Iterator[Row]:
    def of(way: str, sparsity: float, key: Callable[[dict], float]) -> np.ndarray:
        return np.array([key(run) for run in found if run["way"] == way and run["sparsity"] == sparsity])

    for sparsity in SPARSITIES:
        static = of(STATIC, sparsity, lambda run: run["accuracy"])
        spread = float(static.std(ddof=1)) if len(static) > 1 else float("inf")
        for way in (DENSE, "small dense", *WAYS):
            accuracy = of(way, sparsity, lambda run: run["accuracy"])
            if not len(accuracy):
                continue
            deviation = float(accuracy.std(ddof=1)) if len(accuracy) > 1 else float("inf")
            cost = of(way, sparsity, lambda run: run["cost"]).mean()
            what = DENSE if way == DENSE else f"{way} at {sparsity:.0%}"
            measured = f"{accuracy.mean():.2f} ± {deviation:.2f} %, multiply-adds of training x{cost:.3f}"
            bar = "a deviation above static sparse" if way == RIGL else ""
            holds = way != RIGL or accuracy.mean() - max(deviation, spread) >= static.mean()
            yield Row(f"{what}: accuracy after {epochs} epochs, {len(accuracy)} seeds", measured, bar, bool(holds))
    exact = [run for run in found if run["way"] in WAYS and run["way"] != "gradual pruning"]
    most = max(len(run["counts"]) for run in exact)
    yield Row("kept entries along a fit: different counts", f"{most}", "1", most == 1)
    leaks = sum(run["leaks"] for run in found)
    yield Row("values and slots under masks that are not 0, in every 50th step", f"{leaks}", "0", leaks == 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--kept", type=Path, help="a file of finished runs, which the next call does not repeat")
    arguments = parser.parse_args()
    for row in measure(seeds=arguments.seeds, epochs=arguments.epochs, kept=arguments.kept):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
