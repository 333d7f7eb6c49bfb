"""The data of each person: the first half of every recording to train on, the second half to test on."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sample_apps.data import wrist

BATCH = 32


@dataclass(frozen=True)
class Person:
    """The windows of one person. No window has samples of both halves of a recording."""

    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


@functools.cache  # each process of the simulation reads the file once
def people(source: str) -> list[Person]:
    """Return the ten people of a folder with the recordings, or of made-up motion where `source` is empty."""
    watch = wrist.read(Path(source)) if source else wrist.synthetic()
    return [split(watch, int(number)) for number in np.unique(watch.person)]


def split(watch: wrist.Watch, number: int) -> Person:
    halves: list[list[np.ndarray]] = [[], []]
    labels: list[list[int]] = [[], []]
    for index in np.flatnonzero(watch.person == number):
        motion = watch.motion[index]
        for half, part in enumerate((motion[: len(motion) // 2], motion[len(motion) // 2 :])):
            halves[half].append(wrist.cut(part))
            labels[half] += [watch.exercise[index]] * len(halves[half][-1])
    (x, test_x), (y, test_y) = map(np.concatenate, halves), map(np.array, labels)
    return Person(x, y, test_x, test_y)


def whole_batches(person: Person, *, epochs: int, seed: tuple[int, ...]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the batches of some epochs, each epoch in another order; windows that fill no batch are left out."""
    random, size = np.random.default_rng(seed), min(BATCH, len(person.x))
    for _ in range(epochs):
        order = random.permutation(len(person.x))
        for start in range(0, len(order) - size + 1, size):
            batch = order[start : start + size]
            yield person.x[batch], person.y[batch]
