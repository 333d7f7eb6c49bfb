"""Channels that may change places: what each weight looks like when they do, and which kernels read them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tfprune.base.axes import shape_along
from tfprune.keras_models.models.kernels import Kernel, to_matrix
from tfprune.solving.dependency_graph import ChanneledWeight, Group, Network


def cells_of(network: Network, group: Group) -> Iterator[np.ndarray]:
    """Yield the bundles of a group that may change places with each other: those that stand in the same tensors.

    The channels of two layers that are concatenated stand in one tensor together, but each layer makes only its own.

    Args:
        network: The channels.
        group: The group, of which bundles that have to stay do not move.
    """
    free = group.free_part().bundles
    layers = [network.layers[name] for name in group.members]
    tensors = [along for layer in layers for weight in layer.weights for along in weight.bundles_along.values()]
    tensors += [along for layer in layers for along in layer.takes if along is not None]
    tensors += [np.array(sorted(bundles)) for layer in layers for bundles in layer.taken_by_index()]
    counts = np.stack([np.bincount(along, minlength=network.size)[free] for along in tensors])
    _, labels = np.unique(counts, axis=1, return_inverse=True)
    for label in range(labels.max(initial=-1) + 1):
        cell = free[labels.ravel() == label]
        if cell.size > 1:
            yield cell


def moved_along(along: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Return which index along an axis moves to each index, when bundles change places.

    Args:
        along: The bundle at each index.
        moved: The bundle that moves to the place of each bundle. Both are there equally often, and their first,
            second and further indices correspond.

    Example:
        >>> moved_along(np.array([0, 1, 2, 0, 1, 2]), np.array([1, 2, 0]))
        array([1, 2, 0, 4, 5, 3])
    """
    by_bundle = np.argsort(along, kind="stable")
    of_sorted = along[by_bundle]
    places = np.empty_like(by_bundle)
    places[by_bundle] = np.arange(along.size)
    occurrence = places - np.searchsorted(of_sorted, along)
    return by_bundle[np.searchsorted(of_sorted, moved[along]) + occurrence]


def reordered(values: np.ndarray, weight: ChanneledWeight, *, moved: np.ndarray) -> np.ndarray:
    """Return an array of a weight's shape with bundles in the places of others, as in `moved_along`."""
    for axis, along in weight.bundles_along.items():
        order = moved_along(along, moved)
        if not np.array_equal(order, np.arange(order.size)):
            values = values.take(order, axis)
    return values


def as_rows(values: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Return an array of a kernel's shape as rows of inputs: one row for each output and position."""
    matrix = to_matrix(values, kernel)
    return matrix.reshape(-1, matrix.shape[-1])


def inputs_of(cell: np.ndarray, weight: ChanneledWeight, *, axis: int, kernel: Kernel) -> np.ndarray:
    """Return the indices of each bundle of a cell among the inputs of a kernel, of shape (bundles, indices)."""
    along = weight.bundles_along[axis].reshape(shape_along(len(weight.shape), axis))
    bundles = as_rows(np.broadcast_to(along, weight.shape), kernel)[0]
    indices = np.flatnonzero(np.isin(bundles, cell))
    return indices[np.argsort(bundles[indices], kind="stable")].reshape(cell.size, -1)


def groups_of(indices: np.ndarray, m: int) -> np.ndarray:
    """Return the group of `m` inputs that each index is in, numbered by the first bundle of each group.

    Example:
        >>> groups_of(np.array([4, 5, 8, 0, 9]), 4)
        array([0, 0, 1, 2, 1])
    """
    _, firsts, groups = np.unique(indices // m, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(firsts))[groups]
