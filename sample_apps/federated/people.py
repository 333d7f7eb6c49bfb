"""The data of each person: the first half of every recording to train on, the second half to test on."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sample_apps.data import wrist


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
