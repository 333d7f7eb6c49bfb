"""Few values for each weight, shared by its entries and trained; zeros stay zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

STEPS = 50  # of k-means at most
BINS = 512


def share(weight: Any, centroids: Any) -> Any:
    """Return a weight whose non-zero entries have the value of the nearest centroid.

    A centroid gets the sum of the gradients of its entries (Han et al. 2016, arXiv 1510.00149, section 3); an entry
    gets its own, so that it can move to another centroid.

    Args:
        weight: A tensor.
        centroids: A vector of values.
    """
    ordered = ops.take(centroids, ops.argsort(centroids))
    borders = (ordered[1:] + ordered[:-1]) / 2
    entries = ops.stop_gradient(ops.reshape(weight, (-1,)))
    nearest = ops.searchsorted(ops.stop_gradient(borders), entries)
    values = ops.reshape(ops.take(ordered, nearest), weight.shape)
    moving = values + (weight - ops.stop_gradient(weight))
    return ops.where(ops.equal(weight, 0), ops.zeros_like(weight), moving)


def starting_centroids(weight: np.ndarray, count: int, *, start: str = "k-means") -> np.ndarray:
    """Return values for the entries of a weight to share; those that it has, if they are few enough.

    Args:
        weight: A weight; its zeros are left out.
        count: How many.
        start: A name among `STARTS`.

    Example:
        >>> starting_centroids(np.array([0.0, 1.0, 1.1, -2.0]), 2).tolist()
        [-2.0, 1.05]
    """
    entries = np.sort(weight[weight != 0].astype(np.float64), axis=None)
    if not len(entries):
        return np.linspace(-1, 1, count)
    values = np.unique(entries)
    if len(values) <= count:
        return np.pad(values, (0, count - len(values)), mode="edge")
    return STARTS[start](entries, count)


def _k_means(entries: np.ndarray, count: int) -> np.ndarray:
    """Return values that leave little squared error: k-means in one dimension.

    It starts from values as dense as the cube root of the density of the entries, which is best where there are
    many (Panter and Dite 1951).
    """
    sums = np.concatenate([[0.0], np.cumsum(entries)])
    density, edges = np.histogram(entries, bins=BINS)
    mass = np.concatenate([[0.0], np.cumsum(np.cbrt(density))])
    centroids = np.interp((np.arange(count) + 0.5) / count * mass[-1], mass, edges)
    for _ in range(STEPS):
        borders = np.searchsorted(entries, (centroids[1:] + centroids[:-1]) / 2)
        ends = np.concatenate([[0], borders, [len(entries)]])
        counts = np.diff(ends)
        means = np.diff(sums[ends]) / np.maximum(counts, 1)
        moved = np.where(counts > 0, means, centroids)
        if np.allclose(moved, centroids, rtol=0, atol=1e-12):
            break
        centroids = np.sort(moved)
    return centroids


def _linear(entries: np.ndarray, count: int) -> np.ndarray:
    return np.linspace(entries[0], entries[-1], count)


def _density(entries: np.ndarray, count: int) -> np.ndarray:
    return np.quantile(entries, (np.arange(count) + 0.5) / count)


def _random(entries: np.ndarray, count: int) -> np.ndarray:
    return ops.convert_to_numpy(keras.random.uniform((count,), float(entries[0]), float(entries[-1])))


# Where values start, from the sorted entries that are not zero and how many values there are to be.
STARTS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "k-means": _k_means,
    "linear": _linear,  # evenly from the smallest to the largest
    "density": _density,  # as many entries around each
    "random": _random,  # anywhere between the smallest and the largest
}
