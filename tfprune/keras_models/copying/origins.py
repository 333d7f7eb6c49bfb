"""Where the weights of a model come from, if it was made of another one: whole weights, or means of their slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

Groups = Sequence[Sequence[int]]
Shares = Sequence[Sequence[float]]  # of the slices of each group in their mean; none: equal ones
# A weight, and the groups of slices along an axis with their shares; no groups: all of it.
MadeOf = tuple[keras.Variable, int, Groups, Shares]


@dataclass(frozen=True)
class Origin:
    """Where the values of a weight come from.

    Attributes:
        weight: The index of a weight among the weights of the other model.
        axis: The axis along which it was cut into slices.
        groups: The slices whose mean each new slice is; empty for a weight that was copied whole.
        shares: The share of each of them in the mean; empty for equal ones.
    """

    weight: int
    axis: int = 0
    groups: tuple[tuple[int, ...], ...] = ()
    shares: tuple[tuple[float, ...], ...] = ()

    def follow(self, value: np.ndarray) -> np.ndarray:
        """Return what a value of the shape of the old weight is for the new one.

        Example:
            >>> Origin(0, groups=((0,), (1, 2), (0,))).follow(np.array([1.0, 2.0, 4.0]))
            array([1., 3., 1.])
        """
        return mean_of_groups(value, self.groups, axis=self.axis, shares=self.shares) if self.groups else value

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
        shares = self.shares or [[1 / len(group)] * len(group) for group in self.groups]
        for part, group, own in zip(np.moveaxis(value, self.axis, 0), self.groups, shares, strict=True):
            sums[list(group)] += np.multiply.outer(own, part)


Origins = tuple[Origin | None, ...]


def mean_of_groups(value: np.ndarray, groups: Groups, *, axis: int, shares: Shares = ()) -> np.ndarray:
    """Return the means of groups of entries along an axis, by their shares if there are some; the union of masks."""
    parts = [np.take(value, list(group), axis) for group in groups]
    if value.dtype == bool:
        return np.stack([part.any(axis) for part in parts], axis)
    weights: Sequence[Sequence[float] | None] = shares or [None] * len(parts)
    # In float64 the mean of equal numbers is the number itself.
    means = [
        part.take(0, axis) if part.shape[axis] == 1 else np.average(part.astype(np.float64), axis, own)
        for part, own in zip(parts, weights, strict=True)
    ]
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
        old, axis, groups, shares = made_of.get(id(weight), (None, 0, (), ()))
        if id(old) not in indices:
            return None
        return Origin(indices[id(old)], axis, tuple(map(tuple, groups)), tuple(map(tuple, shares)))

    return tuple(map(origin, target.weights))
