"""The server of a training: the strategy, and what it leaves on disk. It needs neither Keras nor TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp import Grid

from tfprune.federated import MaskedFedAvg, Update


def train_clients(grid: Grid, config: dict[str, Any], watch: Any, **options: Any) -> None:
    """Train for some rounds, and keep the model, the accuracies and the bytes of each round.

    Args:
        grid: Flower's grid.
        config: The settings of the server and of each client.
        watch: A watch with the first weights, whose model checks masks.
        **options: Arguments of the strategy.
    """
    folder = Path(config["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    strategy = MaskedFedAvg(
        check_masks=watch.model.check_masks,
        fraction_evaluate=0.0,
        min_train_nodes=config["clients"],
        min_available_nodes=config["clients"],
        train_metrics_aggr_fn=by_person,
        **options,
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


def by_person(records: Sequence[RecordDict], _: str) -> MetricRecord:
    """Return the accuracy of each person, in place of a mean."""
    metrics = [record["metrics"] for record in records]
    return MetricRecord({f"person-{int(each['person'])}": each["accuracy"] for each in metrics})


def keep(watch: Any, config: Any, *, number: int, turn: int) -> None:
    """Save the model of a person in the last round, beside the recordings."""
    if turn == config["rounds"]:
        kept = Update(watch.model.weights, watch.model.masks, turn).encode()
        folder = Path(config["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"person-{number + 1}.update").write_bytes(kept)
