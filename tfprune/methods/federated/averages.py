"""Averages over the owners of an entry: the mean, and means that a few owners cannot move far."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tfprune.base.spec import Spec, check_count, check_number


@dataclass(frozen=True)
class Mean(Spec):
    """The mean, weighted by the clients: one client of a large weight decides alone.

    Example:
        >>> Mean()(np.array([[2.0], [4.0]]), np.array([[True], [True]]), np.array([1.0, 3.0]))[0]
        array([3.5])
    """

    _EXAMPLES = "TrimmedMean(0.2)"

    def __call__(self, values: np.ndarray, owned: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Average values, (clients, ...), over those that are owned.

        Args:
            values: The values of each client, in float64.
            owned: Which of them count, of the same shape.
            shares: The weight of each client.

        Returns:
            The averages, and where there are any.
        """
        parts = np.where(owned, shares.reshape(-1, *[1] * (values.ndim - 1)), 0.0)
        weight, total = parts.sum(axis=0), (parts * np.where(owned, values, 0.0)).sum(axis=0)
        return np.divide(total, weight, out=np.zeros(weight.shape), where=weight > 0), weight > 0


@dataclass(frozen=True)
class TrimmedMean(Mean):
    """Average each entry without its largest and smallest values, as a defense against malicious clients.

    All owners of an entry count equally, whatever weights they claim; those of weight 0 do not count. It tolerates as
    many malicious clients among the owners of an entry as it drops values at either end.

    Args:
        trim: The fraction of the owners to drop at either end, rounded up, in (0, 0.5]. Default 0.5, the median.
        min_owners: An entry with fewer owners keeps the value of the server, because with two owners nobody can tell
            which one is wrong. At least 1; default 3. With 1, an entry with one owner gets the value of this client.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range.

    Example:
        >>> values, owned = np.array([[1.0], [2.0], [9e9]]), np.ones((3, 1), bool)
        >>> TrimmedMean(0.2)(values, owned, np.ones(3))[0]
        array([2.])

    Reference:
        Yin et al., 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
        arXiv:1803.01498, definitions 1 and 2.
    """

    trim: float = 0.5
    min_owners: int = 3

    def __post_init__(self) -> None:
        self._hold(
            trim=check_number(self.trim, "trim", above=0, most=0.5, meaning="the fraction dropped at either end"),
            min_owners=check_count(self.min_owners, "min_owners", least=1),
        )

    def __call__(self, values: np.ndarray, owned: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        present = owned & (shares > 0).reshape(-1, *[1] * (values.ndim - 1))
        ordered = np.sort(np.where(present, values, math.inf), axis=0)
        count = present.sum(axis=0)
        dropped = np.minimum(np.ceil(self.trim * count).astype(int), np.maximum(count - 1, 0) // 2)
        rank = np.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1))
        is_used = (rank >= dropped) & (rank < count - dropped)
        total = np.where(is_used, ordered, 0.0).sum(axis=0)
        return total / np.maximum(count - 2 * dropped, 1), count >= self.min_owners


AVERAGES: dict[str, type[Mean]] = {"mean": Mean, "median": TrimmedMean}  # whose default is the median
