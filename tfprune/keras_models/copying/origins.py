"""Where the weights of a model come from, if it was made of another one: whole weights, or means of their slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

Groups = Sequence[Sequence[int]]
MadeOf = tuple[keras.Variable, int, Groups]  # a weight, and the groups of slices along an axis; no groups: all of it


@dataclass(frozen=True)
class Origin:
    """Where the values of a weight come from.

    Attributes:
        weight: The index of a weight among the weights of the other model.
        axis: The axis along which it was cut into slices.
        groups: The slices whose mean each new slice is; empty for a weight that was copied whole.
    """

    weight: int
    axis: int = 0
    groups: tuple[tuple[int, ...], ...] = ()

    def follow(self, value: np.ndarray) -> np.ndarray:
        """Return what a value of the shape of the old weight is for the new one.

        Example:
            >>> Origin(0, groups=((0,), (1, 2), (0,))).follow(np.array([1.0, 2.0, 4.0]))
            array([1., 3., 1.])
        """
        return mean_of_groups(value, self.groups, axis=self.axis) if self.groups else value

    def add_back(self, value: np.ndarray, total: np.ndarray) -> None:
        """Add a gradient of the new weight to that of the old one: the transpose of `follow`.

        Example:
            >>> total = np.zeros(3)
            >>> Origin(0, groups=((0,), (1, 2), (0,))).add_back(np.array([1.0, 2.0, 4.0]), total)
            >>> total
            array([5., 1., 1.])
        """
        if not self.groups:
            total += value
            return
        sums = np.moveaxis(total, self.axis, 0)  # a view
        for part, group in zip(np.moveaxis(value, self.axis, 0), self.groups, strict=True):
            sums[list(group)] += part / len(group)


Origins = tuple[Origin | None, ...]


def mean_of_groups(value: np.ndarray, groups: Groups, *, axis: int) -> np.ndarray:
    """Return the means of groups of entries along an axis; the union of masks."""
    parts = [np.take(value, list(group), axis) for group in groups]
    if value.dtype == bool:
        return np.stack([part.any(axis) for part in parts], axis)
    # In float64 the mean of equal numbers is the number itself.
    means = [part.take(0, axis) if part.shape[axis] == 1 else part.astype(np.float64).mean(axis) for part in parts]
    return np.stack(means, axis if axis >= 0 else value.ndim + axis).astype(value.dtype)


def read_origins(source: keras.layers.Layer, target: keras.layers.Layer, *, made_of: Mapping[int, MadeOf]) -> Origins:
    """Return the origin of each weight of a model or layer, by its index; None where it has none.

    Args:
        source: The model or layer that it was made of.
        target: The model or layer.
        made_of: What its weights were made of, by their ids.
    """
    indices = {id(weight): index for index, weight in enumerate(source.weights)}

    def origin(weight: keras.Variable) -> Origin | None:
        old, axis, groups = made_of.get(id(weight), (None, 0, ()))
        return Origin(indices[id(old)], axis, tuple(map(tuple, groups))) if id(old) in indices else None

    return tuple(map(origin, target.weights))
