"""The Flower app: ten watches are ten clients of a server, and no recording leaves its watch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # otherwise Ray prints a warning

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from sample_apps.federated.clients import Trainer, trainer
from sample_apps.federated.here import start
from sample_apps.federated.methods import CLIENTS, FED_MASK, Round, prune_fl
from sample_apps.federated.people import people
from sample_apps.federated.server import keep, train_clients
from sample_apps.federated.ways import name_of

client_app = ClientApp()
server_app = ServerApp()
simulated: dict[str, Any] = {}  # the settings of a simulation; a deployment has them in its run config


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model of one person; in the last round, save it beside the recordings."""
    config, number = message.content["config"], int(context.node_config["partition-id"])
    if value_in(context.state, "app", "way") != config["way"]:
        context.state.clear()  # saved by the client in another training
        context.state["app"] = ConfigRecord({"way": config["way"]})
    turn = Round(message, context, person=people(config["source"])[number], number=number)
    answer, watch, round_ = CLIENTS[config["way"]](turn)
    keep(watch, config, number=number, turn=round_)
    return answer


def value_in(records: RecordDict, name: str, key: str) -> Any:
    """Return a value of a record; None if there is none."""
    return records[name].get(key) if name in records else None


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    """Train all clients in one way after the other."""
    train_all_ways(grid, dict(context.run_config) or simulated)


def train_all_ways(grid: Grid, config: dict[str, Any]) -> None:
    """Train in one way after the other."""
    for way in config["ways"].split(","):
        own, watch = (
            {**config, "way": way, "folder": str(Path(config["folder"], name_of(way)))},
            trainer(config["seed"]),
        )
        train_clients(grid, own, watch, **options(own, watch))


def options(config: dict[str, Any], watch: Trainer) -> dict[str, Any]:
    """Return the arguments of the strategy for a way of training."""
    if config["way"] == "FedMask":
        return {"method": FED_MASK}
    if config["way"] not in ("common mask", "PruneFL"):
        return {}
    # The first person's watch prunes for all, as the initial phase of PruneFL does on one client.
    watch.open_masks()
    watch.model.set_weights(watch.initial)
    first = people(config["source"])[0]
    watch.prune(first, sparsity=config["sparsity"], epochs=config["first-epochs"], seed=(config["seed"], 0, 0))
    masks = [mask if array.ndim > 1 else None for mask, array in zip(watch.model.masks, watch.initial, strict=True)]
    watch.open_masks()
    method = prune_fl(watch, sparsity=config["sparsity"])
    return {"masks": masks} | ({"method": method} if config["way"] == "PruneFL" else {})


def simulate(config: dict[str, Any], *, with_ray: bool) -> None:
    """Run server and clients on this machine.

    Args:
        config: The settings of the server and of each client: ways (names with commas between), seed, source of the
            data, folder of the results, clients, rounds, epochs, first-epochs, and sparsity.
        with_ray: Whether clients run in separate processes, in Flower's simulation, or in this one.
    """
    simulated.clear()
    simulated.update(config)
    start(server_app, client_app, clients=config["clients"], with_ray=with_ray)
