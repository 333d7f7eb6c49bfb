"""Watches without Keras: clients and server that have NumPy, LiteRT and Flower alone.

    python -m sample_apps.federated.devices SETTINGS.json     # in a process of its own

The folder of the settings has the file of the trainer, which `export` of `clients` writes where Keras is.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # otherwise Ray prints a warning

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from sample_apps.federated.here import start
from sample_apps.federated.people import Person, people, whole_batches
from sample_apps.federated.server import keep, train_clients
from tfprune.allocation import Weight, allocate
from tfprune.export import Trainer
from tfprune.federated import MaskedClient, MaskedTrainer

FILE, FIRST = "watch.tfz", "first.npz"
client_app = ClientApp()
server_app = ServerApp()
settings: dict[str, Any] = {}


class Device:
    """A watch that trains by the file in a folder."""

    def __init__(self, folder: str) -> None:
        self._first = Path(folder, FIRST)
        self.model = MaskedTrainer(Trainer(Path(folder, FILE)))
        self.initial = self.model.weights

    def fit(self, person: Person, *, epochs: int, seed: tuple[int, ...]) -> None:
        """Train on whole batches of a person's windows; the optimizer begins anew."""
        weights, masks, trainer = self.model.weights, self.model.masks, self.model.trainer
        trainer.load(self._first)
        self.model.set_masks(masks)
        self.model.set_weights(weights)
        for x, y in whole_batches(person, epochs=epochs, seed=seed):
            trainer.train_on_batch(x, y)

    def prune(self, person: Person, *, sparsity: float, epochs: int, seed: tuple[int, ...]) -> None:
        """Choose masks by training alone for some epochs, and go back to the first weights under them."""
        self.fit(person, epochs=epochs, seed=seed)
        scores = [np.abs(array) for array in self.model.weights]
        kernels = [number for number, array in enumerate(scores) if array.ndim > 1]
        weights = [
            Weight(self.model.paths[number], scores[number].shape, partial(scores.__getitem__, number))
            for number in kernels
        ]
        masks: list[Any] = [None] * len(scores)
        for number, zeros in zip(kernels, allocate(weights, sparsity, "erk"), strict=True):
            masks[number] = largest(scores[number], fraction=1 - (zeros or 0))
        self.model.set_masks(masks)
        self.model.set_weights(self.initial)

    def accuracy(self, person: Person) -> float:
        """Return the accuracy on the second half of a person's recordings."""
        return float(np.mean(self.model.trainer.predict(person.test_x).argmax(axis=1) == person.test_y))


def largest(scores: np.ndarray, *, fraction: float) -> np.ndarray:
    """Return a mask of the largest scores."""
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores.ravel(), kind="stable")[: round(fraction * scores.size)]] = True
    return mask.reshape(scores.shape)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model of one person; before the first round, choose personal masks."""
    config: Any = message.content["config"]
    number, seed = int(context.node_config["partition-id"]), int(config["seed"])
    person, watch = people(config["source"])[number], Device(config["folder"])
    client = MaskedClient(message, context, watch.model)
    if client.is_new:
        epochs, sparsity = int(config["first-epochs"]), float(config["sparsity"])
        watch.prune(person, sparsity=sparsity, epochs=epochs, seed=(seed, number, 0))
    watch.fit(person, epochs=int(config["epochs"]), seed=(seed, number, client.round))
    keep(watch, config, number=number, turn=client.round)
    metrics = {"num-examples": len(person.x), "person": number + 1, "accuracy": watch.accuracy(person)}
    return client.trained(metrics)


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    """Train all clients. The server averages arrays, and needs no Keras either."""
    train_clients(grid, settings, Device(settings["folder"]))


if __name__ == "__main__":
    settings |= json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with_ray = settings.pop("with-ray")
    start(server_app, client_app, clients=settings["clients"], with_ray=with_ray)
    assert with_ray or not {"keras", "tensorflow"} & set(sys.modules)  # Flower's simulation imports TensorFlow itself
