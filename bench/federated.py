"""Ten clients on digits: the returned model under its masks, one hostile client among ten, and what a newcomer gets.

The strategy is `MaskedFedAvg` itself, on a grid whose nodes run in this process. Accuracies are means over 3 seeds.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests/helpers"))

import keras
import numpy as np
from common import Row, at_least
from flower_here import Here
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from sklearn.datasets import load_digits

import tfprune
from tfprune.federated import MaskedClient, MaskedFedAvg, MaskedModel, TrimmedMean, Update

CLIENTS, ROUNDS, SEEDS = 10, 12, 3
HOSTILE = 104  # the node of the client that lies
NODES = {100 + number: number for number in range(CLIENTS)}
IMAGES, LABELS = load_digits(return_X_y=True)
IMAGES = IMAGES.astype("float32") / 16


class Federation:
    """Ten clients with random parts of the digits, or with some classes each, and a model for all of them in turn."""

    def __init__(self, seed: int, *, classes_each: int = 10) -> None:
        keras.utils.set_random_seed(seed)
        layers = [keras.Input((64,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(10, "softmax")]
        self.model = MaskedModel(tfprune.wrap(keras.Sequential(layers)))
        self.first = self.model.weights
        order = np.random.default_rng(seed).permutation(len(LABELS))
        self.test, train = order[:450], order[450:]
        owners = [[(number + step) % 10 for step in range(classes_each)] for number in range(CLIENTS)]
        self.shards = [
            train[number::CLIENTS]
            if classes_each == 10
            else train[np.isin(LABELS[train], owned)][number::classes_each]
            for number, owned in enumerate(owners)
        ]
        self.step = self._step()

    def _step(self) -> Callable:
        import tensorflow as tf

        loss, optimizer = keras.losses.SparseCategoricalCrossentropy(), keras.optimizers.SGD(0.3)
        variables = self.model.model.trainable_variables
        optimizer.build(variables)

        @tf.function(reduce_retracing=True)
        def step(x: Any, y: Any) -> None:
            with tf.GradientTape() as tape:
                value = loss(y, self.model.model(x, training=True))
            optimizer.apply(tape.gradient(value, variables), variables)

        return step

    def fit(self, number: int, *, epochs: int, turn: int) -> None:
        for epoch in range(epochs):
            rows = np.random.default_rng((number, turn, epoch)).permutation(self.shards[number])
            for start in range(0, len(rows) - 15, 16):
                batch = rows[start : start + 16]
                self.step(IMAGES[batch], LABELS[batch])

    def mask_of(self, number: int, *, sparsity: float = 0.8) -> list[Any]:
        """Return the mask that a client chooses by training alone."""
        self.model.set_masks([None] * len(self.first))
        self.model.set_weights(self.first)
        self.fit(number, epochs=10, turn=0)
        tfprune.update_masks(self.model.model, sparsity)
        return self.model.masks

    def accuracy(self, arrays: list[np.ndarray], masks: list[Any] | None = None) -> float:
        self.model.set_masks(masks or [None] * len(arrays))
        self.model.set_weights(arrays)
        return float(np.mean(np.argmax(self.model.model(IMAGES[self.test]), axis=1) == LABELS[self.test]))

    def run(self, strategy: MaskedFedAvg, *, masks: list[list[Any]] | None = None, is_hostile: bool = False) -> Any:
        """Return the arrays that the strategy returns, and those of its last round, all entries."""

        def train(message: Message, context: Context) -> Message:
            number = int(context.node_config["partition-id"])
            self.model.set_masks([None] * len(self.first))
            client = MaskedClient(message, context, self.model)
            if client.is_new and masks:
                self.model.set_masks(masks[number])
            if is_hostile and context.node_id == HOSTILE:
                lie = Update([np.full_like(array, 1e6) for array in self.first], self.model.masks, client.round)
                content = {"update": ConfigRecord({"data": lie.encode()})}
                metrics = {"metrics": MetricRecord({"num-examples": 1e15})}
                return Message(RecordDict(content | metrics), reply_to=message)
            self.fit(number, epochs=2, turn=client.round)
            return client.trained({"num-examples": len(self.shards[number])})

        grid = Here(nodes=NODES, train=train)
        result = strategy.start(grid=grid, initial_arrays=ArrayRecord(self.first), num_rounds=ROUNDS)
        return result.arrays.to_numpy_ndarrays(), strategy.last_arrays


class Kept(MaskedFedAvg):
    """Keep what the strategy had before it put the returned model under masks."""

    last_arrays: list[np.ndarray]

    def aggregate_train(self, *args: Any, **kwargs: Any) -> Any:
        arrays, metrics = super().aggregate_train(*args, **kwargs)
        self.last_arrays = arrays.to_numpy_ndarrays()
        return arrays, metrics


def strategy(**more: Any) -> Kept:
    return Kept(fraction_evaluate=0.0, **more)


def returned_models(federation: Federation) -> dict[str, float]:
    """Return the accuracy of the global model, all entries and as the strategy returns it."""
    common = [mask if mask is None or mask.ndim > 1 else None for mask in federation.mask_of(0)]
    accuracies = {}
    returned, whole = federation.run(strategy(masks=common))
    accuracies["common mask, as returned"], accuracies["common mask, all entries"] = map(
        federation.accuracy, (returned, whole)
    )
    masks = [federation.mask_of(number) for number in range(CLIENTS)]
    for name in ("union", "majority"):
        returned, whole = federation.run(strategy(returned=name), masks=masks)
        accuracies[f"personal masks, {name}"] = federation.accuracy(returned)
        accuracies["personal masks, all entries"] = federation.accuracy(whole)
    accuracies["dense"] = federation.accuracy(federation.run(strategy())[0])
    return accuracies


DEFENSES: dict[str, dict[str, Any]] = {
    "mean": {},
    "median": {"average": "median"},
    "trimmed mean, 0.1": {"average": TrimmedMean(0.1)},
    "mean, clip 1, at most 200 examples": {"clip_norm": 1.0, "max_examples": 200},
}


def hostile(federation: Federation) -> dict[str, float]:
    """Return the accuracy with one client of ten that sends 1e6 for each weight, and claims 1e15 examples."""
    common = [mask if mask is None or mask.ndim > 1 else None for mask in federation.mask_of(0)]
    personal = [federation.mask_of(number) for number in range(CLIENTS)]
    accuracies = {}
    for kind, fixed, masks in (
        ("dense", {}, None),
        ("common mask", {"masks": common}, None),
        ("personal", {}, personal),
    ):
        accuracies[f"{kind}, mean, no hostile client"] = federation.accuracy(
            federation.run(strategy(**fixed), masks=masks)[0]
        )
        for name, defense in DEFENSES.items():
            arrays = federation.run(strategy(**fixed, **defense), masks=masks, is_hostile=True)[0]
            accuracies[f"{kind}, {name}"] = federation.accuracy(arrays)
    return accuracies


def means(measure: Callable[[Federation], dict[str, float]], **kind: int) -> dict[str, float]:
    """Return means over seeds in percent, and print them."""
    results = [measure(Federation(seed, **kind)) for seed in range(SEEDS)]
    result = {name: 100 * float(np.mean([each[name] for each in results])) for name in results[0]}
    for name, value in result.items():
        spread = np.std([100 * each[name] for each in results], ddof=1)
        print(f"{measure.__name__} {kind or ''}: {name}: {value:.1f} +- {spread:.1f}", flush=True)
    return result


def main() -> None:
    logging.getLogger("flwr").setLevel(logging.ERROR)
    for name in ("_run_id", "_node_id", "_task_id"):  # messages are made by a running app, which knows its number
        setattr(TaskIdentity, name, 1)
    alike, different, attacked = means(returned_models), means(returned_models, classes_each=3), means(hostile)
    rows = [
        at_least("returned model, common 80 % mask, accuracy", alike["common mask, as returned"], 91, unit=" %"),
        Row(
            "returned model, personal masks, three classes each: union against all entries",
            f"{different['personal masks, union']:.1f} % against {different['personal masks, all entries']:.1f} %",
            "no worse",
            different["personal masks, union"] >= different["personal masks, all entries"],
        ),
    ]
    for kind in ("dense", "common mask"):
        for name in ("median", "trimmed mean, 0.1"):
            lost = attacked[f"{kind}, {name}"] - attacked[f"{kind}, mean, no hostile client"]
            rows.append(at_least(f"one hostile client of ten, {kind}, {name}, points", lost, -2, unit=""))
    for row in rows:
        print("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]))


if __name__ == "__main__":
    main()
