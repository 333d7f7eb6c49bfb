"""Clients and a server of federated training without Keras, for `device_training.py federated`.

As a program it is one client, which reads an update from each line of its input and answers with a line; with Flower,
`client_app` and `server_app` are the app. The folder in FEDERATED_HOME has the file of the trainer and the data.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.base.arrays import keep_largest
from tfprune.export import Trainer
from tfprune.federated import MaskedTrainer, Update

HOME = Path(os.environ.get("FEDERATED_HOME", "."))
CLIENTS, ROUNDS, EPOCHS, KEPT = 3, 4, 1, 0.1
DIES = json.loads(os.environ.get("FEDERATED_DIES", "[]"))  # a client and a round, in which its process ends
HEAVY = ("keras", "tensorflow", "jax", "torch")


def seed_of(number: int, turn: int) -> int:
    """Return the seed of the order of batches."""
    return 100 * number + turn


def masks_of(weights: list[np.ndarray]) -> list[np.ndarray | None]:
    """Return the masks that a client chooses after its first round: the largest tenth of each kernel."""
    return [keep_largest(np.abs(array), round(KEPT * array.size)) if array.ndim > 1 else None for array in weights]


def data() -> dict[str, np.ndarray]:
    return dict(np.load(HOME / "data.npz"))


def client() -> MaskedTrainer:
    return MaskedTrainer(Trainer(HOME / "client.tfz"))


def train(model: MaskedTrainer, number: int, turn: int, *, is_new: bool) -> dict[str, Any]:
    """Train a round, choose masks after the first one, and return what is measured."""
    arrays = data()
    x, y = arrays[f"x_{number}"], arrays[f"y_{number}"]

    def die(trainer: Trainer, step: int, loss: float) -> None:
        if step == 3 and [number, turn] == DIES:
            os._exit(9)  # as a device without power

    model.trainer.fit(x, y, epochs=EPOCHS, seed=seed_of(number, turn), verbose=0, callback=die)
    if is_new:
        model.set_masks(masks_of(model.weights))
    accuracy = model.trainer.evaluate(arrays["test_x"], arrays["test_y"])["accuracy"]
    assert not set(HEAVY) & set(sys.modules)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"num-examples": len(y), "accuracy": accuracy, "memory": int(status["VmHWM"].split()[0]) / 1024}


def main() -> None:
    number, masks = int(sys.argv[1]), None
    for line in sys.stdin:
        model = client()
        if masks is not None:
            model.set_masks(masks)
        update = Update.decode(bytes.fromhex(line), like=model.weights, known_masks=masks)
        model.set_weights(update.weights)
        measured = train(model, number, update.round, is_new=masks is None)
        answer = Update(model.weights, model.masks, update.round).encode(known_masks=masks)
        masks = model.masks
        print(json.dumps({"data": answer.hex(), **measured}), flush=True)


def flower_app() -> tuple[Any, Any]:
    """Return the apps of the clients and of the server, with Flower."""
    from flwr.app import ArrayRecord, MetricRecord
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    from tfprune.federated import MaskedClient, MaskedFedAvg

    clients, server = ClientApp(), ServerApp()

    @clients.train()
    def answer(message: Any, context: Any) -> Any:
        number, model = int(context.node_config["partition-id"]), client()
        asked = MaskedClient(message, context, model)
        measured = train(model, number, asked.round, is_new=asked.is_new)
        return asked.trained({**measured, "number": number, "process": os.getpid()})

    @server.main()
    def serve(grid: Any, context: Any) -> None:
        seen: list[list[dict[str, Any]]] = []

        def gather(records: Any, _: str) -> Any:
            seen.append([dict(record["metrics"]) for record in records])
            return MetricRecord({})

        model = client()
        counts = {"min_train_nodes": CLIENTS, "min_available_nodes": CLIENTS, "fraction_evaluate": 0.0}
        strategy = MaskedFedAvg(check_masks=model.check_masks, train_metrics_aggr_fn=gather, **counts)
        result = strategy.start(grid=grid, initial_arrays=ArrayRecord(model.weights), num_rounds=ROUNDS, timeout=30)
        assert not set(HEAVY) & set(sys.modules)
        np.savez(HOME / "flower.npz", *result.arrays.to_numpy_ndarrays())
        report = {"rounds": seen, "traffic": strategy.traffic.as_dict()}
        (HOME / "flower.json").write_text(json.dumps(report))

    return clients, server


if __name__ == "__main__":
    main()
