"""The Flower app: ten watches are ten clients of a server, and no recording leaves its watch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns of what it will do

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from sample_apps.federated.clients import trainer
from sample_apps.federated.people import people
from tfprune.federated import MaskedClient, MaskedFedAvg, Update

client_app = ClientApp()
server_app = ServerApp()
simulated: dict[str, Any] = {}  # the settings of a simulation; a deployment has them in its run config


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model of one person; in the last round, keep what came out beside the recordings."""
    config, number = message.content["config"], int(context.node_config["partition-id"])
    seed, person = config["seed"], people(config["source"])[number]
    watch = trainer(seed)
    watch.model.set_masks([None] * len(watch.initial))  # the client before may have left its own
    client = MaskedClient(message, context, watch.model)
    if client.is_new and config["sparsity"]:
        options = {"sparsity": config["sparsity"], "epochs": config["first-epochs"]}
        watch.prune(person, seed=(seed, number, 0), **options)
    watch.fit(person, epochs=config["epochs"], seed=(seed, number, client.round))
    if client.round == config["rounds"]:
        kept = Update(watch.model.weights, watch.model.masks, client.round).encode()
        Path(config["folder"], f"person-{number + 1}.update").write_bytes(kept)
    accuracy = watch.accuracy(person)
    return client.trained({"num-examples": len(person.x), "person": number + 1, "accuracy": accuracy})


def by_person(records: Sequence[RecordDict], _: str) -> MetricRecord:
    """Return the accuracy of each person, in place of a mean."""
    metrics = [record["metrics"] for record in records]
    return MetricRecord({f"person-{int(each['person'])}": each["accuracy"] for each in metrics})


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    """Let all clients train for some rounds, and keep the model, the accuracies and the bytes of each round."""
    config = dict(context.run_config) or simulated
    watch, folder = trainer(config["seed"]), Path(config["folder"])
    strategy = MaskedFedAvg(
        check_masks=watch.model.check_masks,
        fraction_evaluate=0.0,
        min_train_nodes=config["clients"],
        min_available_nodes=config["clients"],
        train_metrics_aggr_fn=by_person,
    )
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(watch.initial),
        num_rounds=config["rounds"],
        train_config=ConfigRecord(dict(config)),
    )
    (folder / "server.update").write_bytes(Update(result.arrays.to_numpy_ndarrays(), None, config["rounds"]).encode())
    accuracy = [dict(metrics) for _, metrics in sorted(result.train_metrics_clientapp.items())]
    report = {"accuracy": accuracy, "traffic": strategy.traffic.as_dict()}
    (folder / "rounds.json").write_text(json.dumps(report), encoding="utf-8")


def simulate(config: dict[str, Any]) -> None:
    """Run server and clients in Flower's simulation, in processes of this machine.

    Args:
        config: What the server and each client get: seed, source and folder of the data, clients, rounds, epochs,
            first-epochs, and sparsity (0: dense).
    """
    simulated.clear()
    simulated.update(config)
    path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(path)  # the processes of the clients find these pieces, too
    cores = os.cpu_count() or 1
    resources = {"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": cores, "include_dashboard": False}}
    run_simulation(server_app, client_app, num_supernodes=config["clients"], backend_config=resources)
