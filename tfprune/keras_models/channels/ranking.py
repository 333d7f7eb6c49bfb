"""Rank the channels of a model by the scores of the kernels that make them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tfprune.allocation import Weight
from tfprune.base.axes import other_axes
from tfprune.base.top_k import keep_largest, kept_count
from tfprune.keras_models.channels.network import ChanneledWeight, Group, Network


def finite(scores: np.ndarray, path: str) -> np.ndarray:
    """Return the scores of a weight, if all are finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        is_finite = np.isfinite(scores.sum()) or np.isfinite(scores).all()  # a sum of finite numbers may overflow
    if not is_finite:
        raise ValueError(
            f"Expected finite values in {path}. Received: NaN or infinity. Training has diverged: lower the learning "
            f"rate, or load an earlier checkpoint."
        )
    return scores


def bundle_scores(network: Network, scored: Iterable[tuple[ChanneledWeight, np.ndarray]]) -> np.ndarray:
    """Return the mean score of the entries that make each bundle; NaN where no kernel makes it.

    Args:
        network: The channels.
        scored: Kernels that make channels, each with its scores in its own shape.
    """
    sums, counts = np.zeros(network.size), np.zeros(network.size)
    for weight, scores in scored:
        for axis in weight.makes:
            of_channels = scores.sum(axis=other_axes(scores.ndim, axis), dtype=np.float64)
            np.add.at(sums, weight.bundles_along[axis], of_channels)
            np.add.at(counts, weight.bundles_along[axis], scores.size / of_channels.size)
    with np.errstate(invalid="ignore"):
        return sums / counts


def as_weights(groups: list[Group], scores: Callable[[], np.ndarray]) -> list[Weight]:
    """Return groups in the form that allocations take: one entry for each bundle."""

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

    At least one bundle of each axis of a weight stays.

    Args:
        network: The channels.
        groups: The groups that lose channels.
        scores: The score of every bundle.
        split: The fraction of each group that goes; None leaves a group as it is.
        round_to: For each group, the number kept is rounded up to a multiple of this.
    """
    keep = network.all_kept()
    for group, share, multiple in zip(groups, split, round_to, strict=True):
        if share is not None:
            count = kept_count(group.bundles.size, share, round_to=multiple)
            parts = [np.searchsorted(group.bundles, part) for part in network.parts[group.name]]
            keep[group.bundles] = _kept(scores[group.bundles], network.free(group), count, parts=parts)
    return keep


def _kept(scores: np.ndarray, free: np.ndarray, count: int, *, parts: list[np.ndarray]) -> np.ndarray:
    keep = ~free
    for part in parts:  # such as the channels of one of several layers that are concatenated
        if not keep[part].any():
            keep[part[keep_largest(scores[part], 1)]] = True
    more = count - int(np.count_nonzero(keep))
    if more > 0:
        others = np.flatnonzero(~keep)
        keep[others[keep_largest(scores[others], more)]] = True
    return keep
