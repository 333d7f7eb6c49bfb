"""One run: train a network, and from there, with the same training behind all, twins with zeros or fewer channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

import tfprune
from sample_apps.data.fashion_mnist import Data
from sample_apps.data.lines import Line
from sample_apps.sparse_twins.networks import BODY, Build
from tfprune.export import Runner, pack, to_tflite

BATCH, CALIBRATION, CHECKED = 64, 200, 8
RATES = 2e-3, 1e-3  # of the first training, and of the further one
DENSE, INT8, WEIGHTS = "dense", "int8", "8-bit weights"


@dataclass(frozen=True)
class Task:
    """What is trained on what, and how.

    Attributes:
        name: What the network is called in the results.
        build: Builds it from the shape of an image, the number of classes and a width.
        width: The channels of its first convolution.
        classes: How many there are.
        data: Images and labels to train on, and to test on.
        epochs: Of the first training, and of the further one.
        score: What the outputs for the test images are worth.
        zeros: Fractions of zeros.
        flops: Fractions of the FLOPs that remain where channels are removed.
    """

    name: str
    build: Build
    width: int
    classes: int
    data: Data
    epochs: tuple[int, int]
    score: Callable[[np.ndarray, np.ndarray], float]
    zeros: tuple[float, ...]
    flops: tuple[float, ...]


def run(task: Task, seed: int, folder: Path) -> Iterator[Line]:
    """Train, prune and export; yield a line for each file."""
    keras.utils.set_random_seed(seed)
    dense = task.build(task.data[0].shape[1:], task.classes, task.width)
    train(dense, task, rate=RATES[0], epochs=task.epochs[0])

    def further(model: keras.Model, *callbacks: keras.callbacks.Callback) -> keras.Model:
        keras.utils.set_random_seed(seed)  # the same batches for all
        return train(model, task, rate=RATES[1], epochs=task.epochs[1], callbacks=callbacks)

    def files(model: keras.Model, way: str, *forms: str) -> Iterator[Line]:
        for form in forms:
            line = {"seed": seed, "network": task.name, "way": way, "form": form}
            path = folder / f"{task.name}-{way}-{form}-{seed}.tflite".replace(" ", "_").replace("%_", "")
            found = exported(model, path, task, form)
            print(f"{path.name}: {found['score']:.2%}, {found['bytes']:,} bytes", flush=True)
            yield line | {"file": path.name} | found

    # The first steps remove what matters least, the last ones recover the lost accuracy.
    schedule = {"begin": 0.0, "end": 0.7}
    for zeros in task.zeros:
        callback = tfprune.PruningCallback(tfprune.schedules.Polynomial(zeros, **schedule))
        sparse = further(tfprune.wrap(dense, filters=BODY), callback)
        yield from files(sparse, f"{100 * zeros:.0f} % zeros", "float32", WEIGHTS)
    for flops in task.flops:
        thin = tfprune.wrap(dense, pattern=tfprune.patterns.Channel(round_to=8))
        budget = tfprune.budget(flops=flops)  # the schedule only determines how fast the model approaches it
        further(thin, tfprune.PruningCallback(tfprune.schedules.Polynomial(0.5, **schedule), budget=budget))
        shrunk = tfprune.shrink(thin, tfprune.plan_shrink(thin))
        yield from files(shrunk, f"{100 * flops:.0f} % of the FLOPs", "float32", INT8)
    yield from files(further(dense), DENSE, "float32", INT8)


def train(model: keras.Model, task: Task, *, rate: float, epochs: int, callbacks: Any = ()) -> keras.Model:
    x, y, _, _ = task.data
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(x) // BATCH)))
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=2, callbacks=list(callbacks))
    return model


def exported(model: keras.Model, path: Path, task: Task, form: str) -> Line:
    """Export a model for the fewest milliseconds, and measure the file."""
    x, _, test_x, test_y = task.data
    formats: dict[str, dict[str, Any]] = {
        "float32": {},
        WEIGHTS: {"quantize": "dynamic", "tolerance": 0.05},
        INT8: {"quantize": "int8", "calibration": x[:CALIBRATION], "tolerance": 0.2},
    }
    report = to_tflite(model, path, optimize="latency", batch=1, check_on=test_x[:CHECKED], **formats[form])
    score = task.score(Runner(path).predict(test_x), test_y)
    packed = len(pack(path))
    return {"score": score, "bytes": report.bytes, "packed": packed, "nnz": report.nnz, "estimate": report.gain}
