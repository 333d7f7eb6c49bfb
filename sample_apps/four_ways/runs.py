"""One run: prune a network while it trains, then take four ways from there, each with the same training behind it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

import tfprune
from sample_apps.data.fashion_mnist import Data
from sample_apps.data.lines import Line
from sample_apps.four_ways.networks import NETWORKS
from tfprune.export import evaluate, to_tflite

AFTER = "int8 after training"
BATCH, CALIBRATION = 128, 500


def one_network(name: str, seed: int, data: Data, options: argparse.Namespace) -> Iterator[Line]:
    """Train and prune a network, then go on in float, while it rounds (PQAT), and with few values, too (PCQAT)."""
    keras.utils.set_random_seed(seed)
    pruned = tfprune.wrap(NETWORKS[name](data[0].shape[1:], options.width))
    schedule = tfprune.schedules.Polynomial(options.sparsity, begin=0.2, end=0.75)
    train(pruned, data, rate=3e-3, epochs=options.epochs, callbacks=[tfprune.PruningCallback(schedule, every=20)])

    # Copies first: the pruned model itself goes on in float.
    copies = {"PQAT": tfprune.quantize_aware(pruned), "PCQAT": tfprune.quantize_aware(pruned, levels=options.levels)}
    for way, model in {"float": pruned, **copies}.items():
        train(model, data, rate=5e-4, epochs=options.fine_tuning)
        exports: dict[str, dict[str, Any]] = {way: {"quantize": "int8"}}
        if way == "float":
            exports = {way: {}, AFTER: {"quantize": "int8", "calibration": data[0][:CALIBRATION]}}
        keras_says = model.evaluate(data[2], data[3], verbose=0)[1]
        for exported, arguments in exports.items():
            found = measured(model, data, options.output / "model.tfz", **arguments)
            print(f"{name}, seed {seed}, {exported}: {found['accuracy']:.2%}, {found['packed']:,} bytes", flush=True)
            yield {"seed": seed, "network": name, "way": exported, "keras": keras_says, **found}


def measured(model: keras.Model, data: Data, path: Path, **arguments: Any) -> Line:
    """Export a model, and measure the file."""
    # Where two classes are close, the scores of a softmax may move far: the accuracy tells what a file is worth.
    report = to_tflite(model, path, compress="packed", check_on=data[2][:64], tolerance=1.0, **arguments)
    accuracy = evaluate(path, (data[2], data[3])).metrics["accuracy"]
    return {"accuracy": accuracy, "packed": report.bytes, "plain": report.tflite_bytes, "nnz": report.nnz}


def train(model: keras.Model, data: Data, *, rate: float, epochs: int, callbacks: Any = ()) -> None:
    steps = epochs * -(-len(data[0]) // BATCH)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(data[0], data[1], batch_size=BATCH, epochs=epochs, verbose=2, callbacks=list(callbacks))
