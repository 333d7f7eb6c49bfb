"""The trainings to compare, each from the same initial weights and with the same number of epochs."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sample_apps.federated.clients import Trainer, export, trainer
from sample_apps.federated.people import Person, people
from tfprune.federated import Update, mask_iou

Line = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """The settings of a run; `source` is the folder of the recordings, empty for made-up motion."""

    source: str
    folder: Path
    clients: int
    rounds: int
    epochs: int
    first_epochs: int
    sparsity: float
    with_ray: bool


ALONE, TUNED, DEVICES = "local only", "global, then own epochs", "personal masks without Keras"
WAYS = ("dense", "common mask", "personal masks", DEVICES, "LotteryFL", "FedMask", "PruneFL", "HeteroFL", ALONE)


def run(plan: Plan, ways: Sequence[str], *, seed: int) -> Iterator[Line]:
    """Yield the lines of results of some ways."""
    persons = people(plan.source)[: plan.clients]
    trainer(seed)  # here, because the threads of a running server draw random numbers, too
    on_keras = [way for way in ways if way not in (ALONE, DEVICES)]
    if on_keras:
        _simulate(plan, on_keras, seed=seed)
    if DEVICES in ways:
        _simulate_devices(plan, seed=seed)
    for way in [way for way in ways if way != ALONE]:
        yield from _lines_of(plan, persons, way=way, seed=seed)
    if ALONE in ways:
        yield _line(ALONE, seed, _alone(plan, persons, seed=seed), plan)


def names(way: str) -> tuple[str, ...]:
    """Return the names of the lines of a way."""
    return ("global", TUNED) if way == "dense" else (way,)


def folder_of(plan: Plan, way: str, *, seed: int) -> Path:
    """Return where a training leaves its models."""
    return plan.folder / f"seed-{seed}" / name_of(way)


def name_of(way: str) -> str:
    """Return the name of the folder of a way."""
    return way.replace(" ", "-")


def _simulate(plan: Plan, ways: Sequence[str], *, seed: int) -> None:
    """Run one simulation for all ways: it takes half a minute to start."""
    from sample_apps.federated.flower import simulate  # loads Flower and Ray

    folder = plan.folder / f"seed-{seed}"
    simulate({"ways": ",".join(ways), **_settings(plan, folder, seed=seed)}, with_ray=plan.with_ray)


def _simulate_devices(plan: Plan, *, seed: int) -> None:
    """Export the file for the watches, and train in a process that never imports Keras."""
    folder = folder_of(plan, DEVICES, seed=seed)
    export(folder, seed)
    config = {"with-ray": plan.with_ray, **_settings(plan, folder, seed=seed)}
    (folder / "settings.json").write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "sample_apps.federated.devices", str(folder / "settings.json")]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])


def _settings(plan: Plan, folder: Path, *, seed: int) -> dict[str, Any]:
    rounds = {"rounds": plan.rounds, "epochs": plan.epochs, "first-epochs": plan.first_epochs}
    place = {"source": plan.source, "folder": str(folder), "clients": plan.clients}
    return {"seed": seed, "sparsity": plan.sparsity, **place, **rounds}


def _lines_of(plan: Plan, persons: Sequence[Person], *, way: str, seed: int) -> Iterator[Line]:
    folder = folder_of(plan, way, seed=seed)
    found = json.loads((folder / "rounds.json").read_text(encoding="utf-8"))
    rounds, traffic = found["accuracy"], found["traffic"]
    by_round = [row["down"] + row["up"] for row in traffic["rows"]]
    sizes = {"bytes": traffic["bytes"], "plain_bytes": traffic["dense"], "bytes_by_round": by_round}
    curve = [float(np.mean(list(each.values()))) for each in rounds]
    last, watch = [rounds[-1][f"person-{number}"] for number in range(1, len(persons) + 1)], trainer(seed)
    returned = [_returned(folder, watch, person) for person in persons]
    if way == "dense":
        yield _line("global", seed, returned, plan, **sizes, zeros=0.0)
        yield _line(TUNED, seed, last, plan, **sizes, curve=curve, zeros=0.0)
        return
    masks = masks_in(folder, watch)
    kept = {"agreement": agreement(masks), "zeros": zeros(masks, watch)}
    yield _line(way, seed, last, plan, **sizes, curve=curve, returned=round(float(np.mean(returned)), 4), **kept)


def _returned(folder: Path, watch: Trainer, person: Person) -> float:
    """Return the accuracy of the model that the server has at the end, under its masks, with statistics of all."""
    update = Update.decode((folder / "server.update").read_bytes(), like=watch.initial)
    watch.model.set_masks(update.masks)
    watch.model.set_weights(update.weights)
    return watch.accuracy(person)


def masks_in(folder: Path, watch: Trainer) -> list[list[Any]]:
    """Return the masks of each person at the end."""
    paths = sorted(folder.glob("person-*.update"))
    return [list(Update.decode(path.read_bytes(), like=watch.initial).masks or ()) for path in paths]


def zeros(masks: Sequence[Sequence[Any]], watch: Trainer) -> float:
    """Return the fraction of zeros in the kernels of a watch, the mean over people."""
    sizes = [array.size if array.ndim > 1 else 0 for array in watch.initial]
    kept = [
        sum(size if mask is None else int(mask.sum()) for mask, size in zip(each, sizes, strict=True) if size)
        for each in masks
    ]
    return round(1 - float(np.mean(kept)) / sum(sizes), 4)


def agreement(masks: Sequence[Sequence[Any]]) -> float:
    """Return how far the masks of two people agree, the mean over all pairs."""
    return float(np.mean([mask_iou(one, other) for one, other in itertools.combinations(masks, 2)]))


def _alone(plan: Plan, persons: Sequence[Person], *, seed: int) -> list[float]:
    """Train each person's model on the person's own data alone, without masks."""
    watch, accuracy = trainer(seed), []
    watch.open_masks()
    for number, person in enumerate(persons):
        watch.model.set_weights(watch.initial)
        for turn in range(1, plan.rounds + 1):
            watch.fit(person, epochs=plan.epochs, seed=(seed, number, turn))
        accuracy.append(watch.accuracy(person))
    return accuracy


def _line(way: str, seed: int, accuracy: Sequence[float], plan: Plan, **more: Any) -> Line:
    numbers = {f"{number}": round(value, 4) for number, value in enumerate(accuracy, start=1)}
    settings = {"rounds": plan.rounds, "epochs": plan.epochs, "sparsity": plan.sparsity}
    return {"way": way, "seed": seed, "accuracy": numbers, "bytes": 0, **more, **settings}
