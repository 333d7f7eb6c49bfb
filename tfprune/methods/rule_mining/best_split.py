"""The best split of some samples by a threshold on one unit: exact, although few of the units are sorted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

_BINS = 128
_FEW = 256  # samples that are sorted for all units: cheaper than bins
_ENTRIES = 2**22  # of an array in memory at once
_ROUNDING_ERROR = 1e-6


@dataclass(frozen=True)
class UnitSplit:
    """A threshold on a unit.

    Attributes:
        gain: The G statistic of the split: twice its samples times its mutual information with the labels, in nats.
        unit: The index of the unit.
        value: The threshold: samples at or below it are on one side.
    """

    gain: float
    unit: int
    value: float


class UnitValues:
    """The activations of a layer, ready to be split many times.

    Each unit is divided once into bins of about as many samples. The counts of the bins bound the gain of every
    threshold of a unit from above: mutual information is convex in the counts on one side, so inside a bin it is
    largest at a corner, where all samples of one class come first. Only units whose bound exceeds the best gain so
    far are sorted, so no better split is missed.

    Args:
        activations: Finite float32 numbers, (samples, units).
    """

    def __init__(self, activations: np.ndarray) -> None:
        self._values = np.ascontiguousarray(activations.T, dtype=np.float32)
        self.units, self.samples = self._values.shape
        self._bins = np.empty(self._values.shape, np.uint8)
        at = np.linspace(0, self.samples, _BINS + 1)[1:-1].astype(int)  # the last bin has no edge
        for values, bins in zip(self._values, self._bins, strict=True):
            bins[:] = np.searchsorted(np.sort(values)[at], values)  # a bin ends with its edge

    def values_of(self, unit: int) -> np.ndarray:
        """Return the activations of a unit, (samples,)."""
        return self._values[unit]

    def best_split(
        self,
        rows: np.ndarray,
        labels: np.ndarray,
        weights: np.ndarray,
        *,
        units: np.ndarray,
        least: float,
        error: float,
    ) -> UnitSplit | None:
        """Return the split of some samples with the largest gain, of several the one of the first unit.

        Args:
            rows: The indices of the samples.
            labels: Whether the concept is there, for all samples.
            weights: The weights of all samples.
            units: The indices of the units that may be asked, rising.
            least: The least weight of each side.
            error: The chance, at most, that a split is returned if no unit has to do with the labels.

        Returns:
            The split; None if none is significant.
        """
        node = _Node.of(rows, labels, weights, least)
        floor = _critical(error / (units.size * max(rows.size - 1, 1)))
        bounds, step = np.full(units.size, math.inf), max(_ENTRIES // rows.size, 1)
        if rows.size > _FEW:
            lowest, bounds = self._bounds(node, units)
            floor, step = max(floor, lowest), max(step // 16, 1)  # a few at once: each raises the floor
        best, ahead = None, np.argsort(-bounds, kind="stable")
        for start in range(0, ahead.size, step):
            some = ahead[start : start + step]
            some = np.sort(units[some[bounds[some] >= floor * (1 - _ROUNDING_ERROR)]])
            split = self._sorted(node, some) if some.size else None
            if split is not None and split.gain >= floor * (1 - _ROUNDING_ERROR):
                best = split if best is None else min(best, split, key=lambda each: (-each.gain, each.unit))
                floor = max(floor, best.gain)
        return best

    def _bounds(self, node: _Node, units: np.ndarray) -> tuple[float, np.ndarray]:
        """Return a gain that some threshold reaches, and for each unit one that no threshold exceeds."""
        lowest, bounds = 0.0, np.empty(units.size)
        step = max(_ENTRIES // node.rows.size, 1)
        for start in range(0, units.size, step):
            some = units[start : start + step]
            codes = self._bins[np.ix_(some, node.rows)] + np.arange(0, some.size * _BINS, _BINS)[:, None]
            with_it, without = (
                np.cumsum(_sums(codes[:, own], node.weights[own], some.size), axis=1)
                for own in (slice(node.positives), slice(node.positives, None))
            )
            edges = node.gains(with_it, without)
            lowest = max(lowest, float(np.where(node.is_split(with_it + without), edges, 0).max()))
            before = [np.pad(each[:, :-1], ((0, 0), (1, 0))) for each in (with_it, without)]
            corners = np.maximum(node.gains(with_it, before[1]), node.gains(before[0], without))
            bounds[start : start + step] = np.maximum(edges, corners).max(axis=1)
        return lowest, bounds

    def _sorted(self, node: _Node, units: np.ndarray) -> UnitSplit | None:
        """Return the best split of some units, from their sorted values."""
        values = self._values[np.ix_(units, node.rows)]
        order = np.argsort(values, axis=1)
        values, weights, has_it = (
            np.take_along_axis(values, order, axis=1),
            node.weights[order],
            order < node.positives,
        )
        left, with_it = np.cumsum(weights, axis=1), np.cumsum(weights * has_it, axis=1)
        can_split = (values[:, 1:] > values[:, :-1]) & node.is_split(left[:, :-1])
        gains = np.where(can_split, node.gains(with_it[:, :-1], (left - with_it)[:, :-1]), -1)
        row, at = np.unravel_index(int(gains.argmax()), gains.shape)
        if gains[row, at] <= 0:
            return None
        return UnitSplit(
            float(gains[row, at]), int(units[row]), (float(values[row, at]) + float(values[row, at + 1])) / 2
        )


@dataclass(frozen=True, eq=False)
class _Node:
    """The samples of a node: those with the concept first."""

    rows: np.ndarray
    weights: np.ndarray
    positives: int
    least: float

    @classmethod
    def of(cls, rows: np.ndarray, labels: np.ndarray, weights: np.ndarray, least: float) -> _Node:
        has_it = labels[rows]
        ordered = np.concatenate([rows[has_it], rows[~has_it]])
        return cls(ordered, weights[ordered], int(np.count_nonzero(has_it)), least)

    def is_split(self, left: np.ndarray) -> np.ndarray:
        """Tell whether both sides weigh enough."""
        least = self.least * (1 - _ROUNDING_ERROR)
        return (left >= least) & (self.weights.sum() - left >= least)

    def gains(self, with_it: np.ndarray, without: np.ndarray) -> np.ndarray:
        """Return the G statistic, from the weights with the concept and without it on one side."""
        positive, negative = self.weights[: self.positives].sum(), self.weights[self.positives :].sum()
        cells = (with_it, without, positive - with_it, negative - without)
        sides = (with_it + without, positive + negative - with_it - without)
        labels = _x_log_x(positive) + _x_log_x(negative) - _x_log_x(positive + negative)
        return 2 * (sum(map(_x_log_x, cells)) - sum(map(_x_log_x, sides)) - labels)


def _x_log_x(x: np.ndarray) -> np.ndarray:
    return x * np.log(np.maximum(x, 1e-300))


def _sums(codes: np.ndarray, weights: np.ndarray, units: int) -> np.ndarray:
    """Return the weights in each bin of each unit, (units, bins)."""
    spread = np.broadcast_to(weights, codes.shape).ravel()
    return np.bincount(codes.ravel(), spread, units * _BINS).reshape(units, _BINS)


def _critical(chance: float) -> float:
    """Return the value that a chi-squared variable of one degree of freedom exceeds with a chance."""
    return NormalDist().inv_cdf(chance / 2) ** 2
