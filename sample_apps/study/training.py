"""One training of a study, from its settings to one line of results."""

from __future__ import annotations

import collections
import contextlib
import functools
import importlib
import itertools
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy

import keras
import numpy as np
import tensorflow as tf

import tfprune
from sample_apps.study.grid import Settings
from tfprune.export import inspect, to_tflite


def train(settings: Settings) -> dict[str, Any]:
    """Train a model, dense or pruned while it trains, and measure it.

    Dense and pruned models of a size get the same optimizer, batches and epochs, from the same first weights.
    """
    started = time.perf_counter()
    # One thread: sums are then added up in the same order, whatever else runs and however many cores there are.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    scope = replicas(settings.get("replicas", 1))
    keras.backend.clear_session()
    study = importlib.import_module(f"sample_apps.study.{settings['study']}")
    data = study.load(seed=settings["seed"], smoke=settings["smoke"])
    keras.utils.set_random_seed(settings["seed"])
    with scope():
        model, warned = fit(study, data, settings)
        quality = study.score(model, data)
    return {
        **settings,
        "quality": quality,
        **storage(model),
        "lost": lost(model),
        "warnings": warned,
        "seconds": round(time.perf_counter() - started, 1),
        "machine": machine(),
    }


@functools.cache  # a second strategy in a process would take the sums of the first
def replicas(count: int) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Return a function that opens the scope in which `count` replicas share a training."""
    return contextlib.nullcontext if count == 1 else tf.distribute.MirroredStrategy(split_devices(count)).scope


def split_devices(count: int) -> list[str]:
    """Name `count` devices for the replicas of a training: accelerators if there are enough, or parts of a CPU."""
    accelerators = tf.config.list_physical_devices("GPU")
    if len(accelerators) >= count:
        return [f"GPU:{number}" for number in range(count)]
    parts = [tf.config.LogicalDeviceConfiguration()] * count
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], parts)
    return [f"CPU:{number}" for number in range(count)]


def fit(study: Any, data: Any, settings: Settings) -> tuple[keras.Model, list[str]]:
    """Return the trained model without wrappers, and the warnings of the training."""
    training, callbacks = settings["training"], []
    model = study.build(data, **settings["model"])
    if settings["pruning"]:
        model = tfprune.wrap(model, filters=study.PRUNED)
        is_rigl, seed = settings["pruning"]["schedule"] == "RigL", settings["seed"]
        fresh = batch_of(data, size=training["batch"], seed=seed) if is_rigl else None
        callbacks = [callback(settings["sparsity"], **settings["pruning"], data=fresh, seed=seed)]
    steps = training["epochs"] * -(-len(data.y) // training["batch"])
    model.compile(optimizer(steps, **training["optimizer"]), study.LOSS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(
            data.x,
            data.y,
            batch_size=training["batch"],
            epochs=training["epochs"],
            callbacks=callbacks,
            verbose=0,
        )
    warned = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    return tfprune.strip(model) if settings["pruning"] else model, warned


def batch_of(data: Any, *, size: int, seed: int) -> tf.data.Dataset:
    """Return a dataset of one batch of the training data, another one each time that it is read."""
    return tf.data.Dataset.from_tensor_slices((data.x, data.y)).shuffle(len(data.y), seed=seed).batch(size).take(1)


def callback(
    sparsity: float,
    *,
    schedule: str,
    begin: float,
    end: float,
    every: int,
    allocation: str | list[str],
    data: tf.data.Dataset | None = None,
    seed: int = 0,
) -> tfprune.PruningCallback:
    """Make the callback of a configuration.

    Args:
        sparsity: What the schedule leads to.
        schedule: "gradual"; "one-shot", which prunes once, at `begin`; or "RigL", which is sparse from `begin` on
            and replaces entries until `end`.
        begin: First step, or fraction of the training.
        end: Last step, or fraction of the training.
        every: Steps between mask updates.
        allocation: What the library knows by name, or a list of layers that share the time among them: each in its
            turn is pruned to the full sparsity.
        data: What RigL computes gradients on.
        seed: Of the masks that RigL begins with.
    """
    if schedule == "RigL":
        constant, grow = tfprune.schedules.Constant(sparsity, begin=begin), tfprune.Grow(end=end, seed=seed)
        return tfprune.PruningCallback(constant, every=every, allocation=allocation, grow=grow, data=data)
    if schedule == "one-shot":
        once = tfprune.schedules.Constant(sparsity, begin=begin, end=begin)
        return tfprune.PruningCallback(once, every=every, allocation=allocation)
    gradual = tfprune.schedules.Polynomial(sparsity, begin=begin, end=end)
    if isinstance(allocation, str):
        return tfprune.PruningCallback(gradual, every=every, allocation=allocation)
    part = (end - begin) / len(allocation)
    turns = {
        layer: tfprune.schedules.Polynomial(sparsity, begin=begin + part * turn, end=begin + part * (turn + 1))
        for turn, layer in enumerate(allocation)
    }
    return tfprune.PruningCallback(gradual, every=every, allocation=turns)


def optimizer(steps: int, *, name: str, rate: float, decay: dict[str, Any] | str, **options: Any) -> Any:
    """Make an optimizer whose learning rate follows a cosine to zero, or drops once: {at = step, to = rate}."""
    schedules = keras.optimizers.schedules
    if decay == "cosine":
        following = schedules.CosineDecay(rate, steps)
    else:
        following = schedules.PiecewiseConstantDecay([decay["at"]], [rate, decay["to"]])
    return keras.optimizers.get({"class_name": name, "config": {"learning_rate": following, **options}})


def storage(model: keras.Model) -> dict[str, Any]:
    """Count the non-zeros of the kernels, and the bytes that their exported float32 file takes, coding by coding."""
    report = tfprune.sparsity_report(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tfz"
        to_tflite(model, path, optimize="dense", compress="packed")
        found = inspect(path)
    kernels = [row.codings for row in found.rows if row.nnz]  # the others are zeros that loops begin with
    sizes = collections.Counter()
    for coding in itertools.chain.from_iterable(kernels):
        sizes[coding.name] += coding.bytes
    return {
        "nnz": report.total_nnz,
        "entries": report.total_size,
        "bytes": {
            "dense": sizes["dense"],
            "bit mask": sizes["mask"],
            "CSR": sizes["offsets"],
            "packed": found.file_bytes,
        },
    }


def lost(model: keras.Model) -> float | None:
    """Return the percentage of words without a non-zero entry in the embedding; None without an embedding."""
    tables = [layer.embeddings for layer in model.layers if isinstance(layer, keras.layers.Embedding)]
    rows = [row for table in tables for row in np.any(table.numpy(), axis=1)]
    return 100 - 100 * float(np.mean(rows)) if rows else None


def machine() -> str:
    """Describe the machine that the seconds were measured on."""
    names = [line for line in _cpuinfo() if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores; Keras {keras.version()}, TensorFlow {tf.__version__}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
