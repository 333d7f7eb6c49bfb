"""Rank the channels of a model by what a criterion says of the kernels that make them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tfprune.allocation import Weight
from tfprune.network import Group, Network
from tfprune.patterns import keep_largest, kept_count

Scores = Callable[[str, int], np.ndarray]  # of a weight, by the name of its layer and its place there


def class_scores(network: Network, scores_of: Scores) -> np.ndarray:
    """Return the mean score of the entries that make each class; NaN where no kernel does."""
    sums, counts = np.zeros(network.size), np.zeros(network.size)
    for name, part in network.parts.items():
        for place, held in enumerate(part.weights):
            if not held.writes:
                continue
            scores = scores_of(name, place)
            for axis in held.writes:
                others = tuple(other for other in range(scores.ndim) if other != axis)
                line = scores.sum(axis=others, dtype=np.float64)
                np.add.at(sums, held.layout[axis], line)
                np.add.at(counts, held.layout[axis], scores.size / line.size)
    with np.errstate(invalid="ignore"):
        return sums / counts


def as_weights(network: Network, groups: list[Group], scores: np.ndarray) -> list[Weight]:
    """Return groups in the form that allocations take: one entry for each class."""

    def scored(group: Group) -> Callable[[], np.ndarray]:
        return lambda: scores[group.classes]

    return [Weight(group.name, group.classes.shape, scored(group)) for group in groups]


def keep_best(
    network: Network, groups: list[Group], scores: np.ndarray, split: list[float | None], *, round_to: int = 1
) -> np.ndarray:
    """Return which classes stay where each group loses its share of its lowest-scored free classes.

    Args:
        network: The channels.
        groups: The groups that lose some.
        scores: Of every class.
        split: The fraction of each group that goes; None leaves it as it is.
        round_to: The number kept is rounded up to a multiple of this.
    """
    keep = network.everything()
    for group, share in zip(groups, split, strict=True):
        if share is not None:
            count = group.classes.size
            kept = min(-(-kept_count(count, share) // round_to) * round_to, count)
            keep[group.classes] = _kept(scores[group.classes], network.free(group), kept)
    return keep


def _kept(scores: np.ndarray, free: np.ndarray, count: int) -> np.ndarray:
    keep = ~free
    more = count - np.count_nonzero(keep)
    if more > 0:
        keep[np.flatnonzero(free)[keep_largest(scores[free], more)]] = True
    return keep
