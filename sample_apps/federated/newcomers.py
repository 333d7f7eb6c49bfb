"""The accuracy for a new watch: the model that the server returns, for a person who was left out.

Each person in turn is left out, and the others train. The trainings are plain loops over `masked_average`, which give
the numbers of Flower's simulation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sample_apps.federated.clients import Trainer, trainer
from sample_apps.federated.people import Person, people
from sample_apps.federated.ways import Line, Plan
from tfprune.federated import masked_average, merge_masks

WAYS = ("dense", "common mask", "personal masks")
Masks = list[Any]


def run(plan: Plan, way: str, *, seed: int, person: int) -> Iterator[Line]:
    """Leave out a person, by number from 0, and yield a line for each model that the server could return."""
    persons = people(plan.source)[: plan.clients]
    others = [number for number in range(len(persons)) if number != person]
    for name, numbers in _one(plan, persons, others, way=way, seed=seed, newcomer=persons[person]).items():
        rounded = {key: round(value, 4) for key, value in numbers.items()}
        yield {"way": way, "returned": name, "seed": seed, "person": person + 1, "rounds": plan.rounds, **rounded}


def _one(
    plan: Plan, persons: Sequence[Person], clients: Sequence[int], *, way: str, seed: int, newcomer: Person
) -> dict[str, dict[str, float]]:
    """Train without a person; return what each returned model is worth to this person."""
    watch = trainer(seed)
    server, masks = watch.initial, _masks(plan, persons, clients, way=way, watch=watch, seed=seed)
    for turn in range(1, plan.rounds + 1):
        updates = []
        for number in clients:
            watch.model.set_masks(masks[number])
            watch.model.set_weights(server)
            watch.fit(persons[number], epochs=plan.epochs, seed=(seed, number, turn))
            updates.append((watch.model.weights, watch.model.masks, len(persons[number].x)))
        weights, owned, counts = zip(*updates, strict=True)
        server = masked_average(weights, owned, client_weights=counts, server=server)
    whole: Masks = [None] * len(server)
    if way == "dense":
        returned = {"as it is": whole}
    elif way == "common mask":
        returned = {"all entries": whole, "under the mask": merge_masks(owned, votes=1)}
    else:
        majority = len(clients) // 2 + 1
        returned = {
            "all entries": whole,
            "under the union": merge_masks(owned, votes=1),
            "under the majority": merge_masks(owned, votes=majority),
        }
    return {name: _worth(watch, server, mask, newcomer, plan=plan, seed=seed) for name, mask in returned.items()}


def _masks(
    plan: Plan, persons: Sequence[Person], clients: Sequence[int], *, way: str, watch: Trainer, seed: int
) -> dict[int, Masks]:
    """Return the masks that each client has from the start."""
    masks: dict[int, Masks] = {number: [None] * len(watch.initial) for number in clients}
    choosing = {"dense": [], "common mask": clients[:1], "personal masks": clients}[way]
    for number in choosing:
        watch.open_masks()
        watch.model.set_weights(watch.initial)
        options = {"sparsity": plan.sparsity, "epochs": plan.first_epochs}
        watch.prune(persons[number], seed=(seed, number, 0), **options)
        masks[number] = watch.model.masks
    return masks if way != "common mask" else dict.fromkeys(clients, masks[clients[0]])


def _worth(
    watch: Trainer, server: Sequence[np.ndarray], masks: Masks, person: Person, *, plan: Plan, seed: int
) -> dict[str, float]:
    """Return the accuracy at once and after some epochs on the own data under the mask, and the zeros."""
    watch.model.set_masks([mask if array.ndim > 1 else None for mask, array in zip(masks, server, strict=True)])
    watch.model.set_weights(server)
    kernels = [array for array in watch.model.weights if array.ndim > 1]
    zeros = 1 - sum(map(np.count_nonzero, kernels)) / sum(array.size for array in kernels)
    at_once = watch.accuracy(person)
    watch.fit(person, epochs=plan.epochs, seed=(seed, 99, 0))
    return {"at_once": at_once, "after_own_epochs": watch.accuracy(person), "zeros": float(zeros)}
