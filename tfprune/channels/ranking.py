"""Rank the channels of a model by what a criterion says of the kernels that make them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tfprune.allocation import Weight
from tfprune.channels.network import ChanneledWeight, Group, Network
from tfprune.top_k import keep_largest, kept_count


def finite(scores: np.ndarray, path: str) -> np.ndarray:
    """Return the scores of a weight; refuse NaN and infinity among them."""
    if not np.isfinite(scores.max()) or not np.isfinite(scores.min()):
        raise ValueError(
            f"Expected finite values in {path}. Received: NaN or infinity. Training has diverged: lower the learning "
            f"rate, or load an earlier checkpoint."
        )
    return scores


def class_scores(network: Network, scored: Iterable[tuple[ChanneledWeight, np.ndarray]]) -> np.ndarray:
    """Return the mean score of the entries that make each class; NaN where no kernel does.

    Args:
        network: The channels.
        scored: Kernels that make channels, each with its scores in its own shape.
    """
    sums, counts = np.zeros(network.size), np.zeros(network.size)
    for held, scores in scored:
        for axis in held.writes:
            others = tuple(other for other in range(scores.ndim) if other != axis)
            line = scores.sum(axis=others, dtype=np.float64)
            np.add.at(sums, held.bundles_along[axis], line)
            np.add.at(counts, held.bundles_along[axis], scores.size / line.size)
    with np.errstate(invalid="ignore"):
        return sums / counts


def as_weights(groups: list[Group], scores: Callable[[], np.ndarray]) -> list[Weight]:
    """Return groups in the form that allocations take: one entry for each class."""

    def scored(group: Group) -> Callable[[], np.ndarray]:
        return lambda: scores()[group.bundles]

    return [Weight(group.name, group.bundles.shape, scored(group)) for group in groups]


def keep_best(
    network: Network,
    groups: list[Group],
    scores: np.ndarray,
    split: Sequence[float | None],
    *,
    round_to: Sequence[int],
) -> np.ndarray:
    """Return which bundles stay where each group loses its share of its lowest-scored free bundles.

    Args:
        network: The channels.
        groups: The groups that lose some.
        scores: Of every class.
        split: The fraction of each group that goes; None leaves it as it is.
        round_to: For each group, the number kept is rounded up to a multiple of this.
    """
    keep = network.all_kept()
    for group, share, multiple in zip(groups, split, round_to, strict=True):
        if share is not None:
            kept = kept_count(group.bundles.size, share, round_to=multiple)
            keep[group.bundles] = _kept(scores[group.bundles], network.free(group), kept)
    return keep


def _kept(scores: np.ndarray, free: np.ndarray, count: int) -> np.ndarray:
    keep = ~free
    more = count - int(np.count_nonzero(keep))
    if more > 0:
        keep[np.flatnonzero(free)[keep_largest(scores[free], more)]] = True
    return keep
