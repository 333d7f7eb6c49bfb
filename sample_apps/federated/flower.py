"""The Flower app: ten watches are ten clients of a server, and no recording leaves its watch."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # otherwise Ray prints a warning

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from sample_apps.federated.clients import Trainer, trainer
from sample_apps.federated.here import InProcess
from sample_apps.federated.methods import CLIENTS, FED_MASK, Round, prune_fl
from sample_apps.federated.people import people
from sample_apps.federated.ways import name_of
from tfprune.federated import MaskedFedAvg, Update

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
    if round_ == config["rounds"]:
        kept = Update(watch.model.weights, watch.model.masks, round_).encode()
        folder = Path(config["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"person-{number + 1}.update").write_bytes(kept)
    return answer


def by_person(records: Sequence[RecordDict], _: str) -> MetricRecord:
    """Return the accuracy of each person, in place of a mean."""
    metrics = [record["metrics"] for record in records]
    return MetricRecord({f"person-{int(each['person'])}": each["accuracy"] for each in metrics})


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
        train_one_way(grid, {**config, "way": way, "folder": str(Path(config["folder"], name_of(way)))})


def train_one_way(grid: Grid, config: dict[str, Any]) -> None:
    """Train for some rounds, and keep the model, the accuracies and the bytes of each round."""
    watch, folder = trainer(config["seed"]), Path(config["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    strategy = MaskedFedAvg(
        check_masks=watch.model.check_masks,
        fraction_evaluate=0.0,
        min_train_nodes=config["clients"],
        min_available_nodes=config["clients"],
        train_metrics_aggr_fn=by_person,
        **options(config, watch),
    )
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(watch.initial),
        num_rounds=config["rounds"],
        train_config=ConfigRecord(dict(config)),
    )
    returned = Update(result.arrays.to_numpy_ndarrays(), strategy.masks, config["rounds"])
    (folder / "server.update").write_bytes(returned.encode())
    accuracy = [dict(metrics) for _, metrics in sorted(result.train_metrics_clientapp.items())]
    report = {"accuracy": accuracy, "traffic": strategy.traffic.as_dict()}
    (folder / "rounds.json").write_text(json.dumps(report), encoding="utf-8")


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
    if not with_ray:
        train_all_ways(InProcess(client_app, clients=config["clients"]), config)
        return
    simulated.clear()
    simulated.update(config)
    path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(path)  # the processes of the clients find these modules, too
    cores = os.cpu_count() or 1
    resources = {"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": cores, "include_dashboard": False}}
    run_simulation(server_app, client_app, num_supernodes=config["clients"], backend_config=resources)
