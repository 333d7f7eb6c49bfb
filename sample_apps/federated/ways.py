"""The trainings that are compared, each from the same first weights and with as many epochs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sample_apps.federated.clients import Trainer, trainer
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


def one_seed(plan: Plan, *, seed: int) -> Iterator[Line]:
    """Yield a line of results for each way."""
    persons = people(plan.source)[: plan.clients]
    trainer(seed)  # here, because the threads of a running server draw random numbers, too
    for way, sparsity in (("dense", 0.0), ("personal masks", plan.sparsity)):
        yield from _federated(plan, persons, way=way, sparsity=sparsity, seed=seed)
    yield _line("local only", seed, _alone(plan, persons, seed=seed), plan)


def _federated(plan: Plan, persons: Sequence[Person], *, way: str, sparsity: float, seed: int) -> Iterator[Line]:
    from sample_apps.federated.flower import simulate  # loads Ray

    folder = plan.folder / f"{way.split()[0]}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"rounds": plan.rounds, "epochs": plan.epochs, "first-epochs": plan.first_epochs}
    place = {"source": plan.source, "folder": str(folder), "clients": plan.clients}
    simulate({"seed": seed, "sparsity": sparsity, **place, **settings})
    found = json.loads((folder / "rounds.json").read_text(encoding="utf-8"))
    rounds, traffic = found["accuracy"], found["traffic"]
    by_round = [row["down"] + row["up"] for row in traffic["rows"]]
    sizes = {"bytes": traffic["bytes"], "plain_bytes": traffic["dense"], "bytes_by_round": by_round}
    curve = [float(np.mean(list(each.values()))) for each in rounds]
    last, watch = [rounds[-1][f"person-{number}"] for number in range(1, len(persons) + 1)], trainer(seed)
    if sparsity:
        yield _line(way, seed, last, plan, **sizes, curve=curve, agreement=agreement(folder, watch))
        return
    watch.model.set_masks([None] * len(watch.initial))
    watch.model.set_weights(Update.decode((folder / "server.update").read_bytes(), like=watch.initial).weights)
    yield _line("global", seed, [watch.accuracy(person) for person in persons], plan, **sizes)
    yield _line("global, then own epochs", seed, last, plan, **sizes, curve=curve)


def agreement(folder: Path, watch: Trainer) -> float:
    """Return how far the masks of two people agree, the mean over all pairs."""
    masks = [
        Update.decode(path.read_bytes(), like=watch.initial).masks for path in sorted(folder.glob("person-*.update"))
    ]
    return float(np.mean([mask_iou(one, other) for one, other in itertools.combinations(masks, 2)]))


def _alone(plan: Plan, persons: Sequence[Person], *, seed: int) -> list[float]:
    """Train each person's model on the person's own data alone, without masks."""
    watch, accuracy = trainer(seed), []
    watch.model.set_masks([None] * len(watch.initial))
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
