"""Statistics of units by class for an analysis of variance, added up batch by batch in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_CONSTANT = 1e-12  # of a unit's mean: a smaller standard deviation is a rounding error


class ClassMoments:
    """Count, mean and squared deviations of each unit within each class.

    Batches are merged by the formula for two sets, on deviations from their own means, so that a large common offset
    does not reduce the precision. Memory grows with classes times units, not with samples.

    Attributes:
        labels: The classes seen, in the order of the rows below.
        counts: The number of samples of each class, (classes,).
        means: The mean of each unit in each class, (classes, units).
        squares: The sum of squared deviations from the mean of the class, (classes, units).

    Args:
        units: The number of units.

    Example:
        >>> moments = ClassMoments(2)
        >>> moments.add(np.array([[1.0, 5.0], [2.0, 5.0]]), np.array([0, 1]))
        >>> moments.add(np.array([[3.0, 5.0], [4.0, 5.0]]), np.array([0, 1]))
        >>> moments.f_statistic()
        array([0.5, 0. ])

    Reference:
        Chan, Golub & LeVeque, 1983, "Algorithms for computing the sample variance", The American Statistician 37(3).
    """

    def __init__(self, units: int) -> None:
        self.labels: list[int] = []
        self.counts = np.zeros(0)
        self.means = np.zeros((0, units))
        self.squares = np.zeros((0, units))

    def add(self, values: np.ndarray, labels: np.ndarray) -> None:
        """Add a batch.

        Args:
            values: The values of the units, (samples, units).
            labels: The class of each sample, integers.
        """
        classes, codes = np.unique(np.asarray(labels), return_inverse=True)
        values, member = np.asarray(values, dtype=np.float64), np.eye(len(classes))[codes.ravel()].T
        counts = member.sum(axis=1)
        # Relative to the first sample: a large common offset would cost the sums their digits.
        means = values[0] + member @ (values - values[0]) / counts[:, None]
        squares = member @ np.square(values - means[codes.ravel()])
        self._merge(self._rows(classes), counts[:, None], means, squares)

    def _rows(self, classes: np.ndarray) -> list[int]:
        new = [label for label in classes.tolist() if label not in self.labels]
        self.labels += new
        self.counts = np.append(self.counts, np.zeros(len(new)))
        empty = np.zeros((len(new), self.means.shape[1]))
        self.means, self.squares = np.vstack([self.means, empty]), np.vstack([self.squares, empty])
        return [self.labels.index(label) for label in classes.tolist()]

    def _merge(self, rows: list[int], counts: np.ndarray, means: np.ndarray, squares: np.ndarray) -> None:
        before = self.counts[rows][:, None]
        total, apart = before + counts, np.where(before > 0, means - self.means[rows], 0.0)
        self.means[rows] = np.where(before > 0, self.means[rows] + apart * counts / total, means)
        self.squares[rows] += squares + np.square(apart) * before * counts / total
        self.counts[rows] = total[:, 0]

    def grouped(self, kinds: Mapping[int, Any]) -> ClassMoments:
        """Return the moments of groups of classes, without another pass over the data.

        Args:
            kinds: The group of each class, such as a broader kind. Groups are numbered in the order of the classes
                seen.

        Raises:
            ValueError: If a class is not in `kinds`.

        Example:
            >>> moments = ClassMoments(1)
            >>> moments.add(np.array([[1.0], [3.0], [8.0]]), np.array([0, 1, 2]))
            >>> moments.grouped({0: "leaf", 1: "leaf", 2: "stem"}).means.ravel()
            array([2., 8.])
        """
        missing = [label for label in self.labels if label not in kinds]
        if missing:
            raise ValueError(
                f"Expected `kinds` with a group for each class. Received: none for {missing}. Add these classes."
            )
        numbers = {name: number for number, name in enumerate(dict.fromkeys(kinds[each] for each in self.labels))}
        merged = ClassMoments(self.means.shape[1])
        for row, label in enumerate(self.labels):
            of_group = merged._rows(np.array([numbers[kinds[label]]]))
            merged._merge(of_group, self.counts[[row], None], self.means[[row]], self.squares[[row]])
        return merged

    @property
    def size(self) -> int:
        """The number of samples."""
        return int(self.counts.sum())

    def mean(self) -> np.ndarray:
        """Return the mean of each unit over all samples."""
        first = self.means[0]
        return first + self.counts @ (self.means - first) / self.size

    def between(self) -> np.ndarray:
        """Return the squared deviations of the class means from the mean, weighted by count, 0 for constant units."""
        return np.where(self._is_constant(), 0.0, self._between())

    def within(self) -> np.ndarray:
        """Return the squared deviations from the class means, 0 for constant units."""
        return np.where(self._is_constant(), 0.0, self.squares.sum(axis=0))

    def _between(self) -> np.ndarray:
        return self.counts @ np.square(self.means - self.mean())

    def _is_constant(self) -> np.ndarray:
        deviation = np.sqrt((self._between() + self.squares.sum(axis=0)) / self.size)
        return deviation <= _CONSTANT * np.abs(self.mean())

    def variance(self) -> np.ndarray:
        """Return the variance of each unit over all samples of all classes."""
        return (self.between() + self.within()) / self.size

    def discrimination(self) -> np.ndarray:
        """Return squared deviations between classes divided by those within classes, S_B / (S_W + 1e-8)."""
        return self.between() / (self.within() + 1e-8)

    def complexity(self) -> float:
        """Return the difference of the classes in direction: 1 minus the mean cosine of their means, over pairs.

        It is 0 if all class means have the same direction, and 2 at most. With embeddings as units, it is the task
        complexity of PMP-DACIS, for `allocation.LayerThreshold`.

        Raises:
            ValueError: If there are fewer than two classes.
        """
        classes = len(self.labels)
        if classes < 2:
            raise ValueError(f"Expected samples of at least two classes. Received: {classes}. Pass more data.")
        norms = np.linalg.norm(self.means, axis=1, keepdims=True)
        units = self.means / np.maximum(norms, np.finfo(np.float64).tiny)
        return float(1 - (units @ units.T)[np.triu_indices(classes, 1)].mean())

    def f_statistic(self) -> np.ndarray:
        """Return the F of a one-way analysis of variance: 0 for constant units, infinite where classes are constant.

        Raises:
            ValueError: If there are fewer than two classes, or not more samples than classes.
        """
        classes = len(self.labels)
        if classes < 2 or self.size <= classes:
            raise ValueError(
                f"Expected samples of at least two classes, and more samples than classes. Received: {self.size} "
                f"samples of {classes} classes. Pass more data, of all classes."
            )
        between, within = self.between() / (classes - 1), self.within() / (self.size - classes)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(between > 0, between / within, 0.0)
