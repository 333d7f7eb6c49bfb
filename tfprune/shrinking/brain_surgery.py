"""Optimal brain surgery: choose which inputs of linear maps to remove, and update the other weights each time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from tfprune.reconstruction.least_squares import damped

DAMPING = 1e-9


class Surgeon:
    """Removes inputs of a linear map one by one, and updates its other weights each time.

    Args:
        gram: The moments of the inputs, of shape (inputs, inputs).
        weights: The weights, of shape (outputs, inputs).
        channels: The indices of the inputs of each channel, of shape (channels, size). A channel goes as a whole.
        ridge: The number added to the diagonal, as a fraction of its mean.
    """

    def __init__(
        self, gram: np.ndarray, weights: np.ndarray, *, channels: np.ndarray, ridge: float = DAMPING
    ) -> None:
        # By the factor, whose inverse keeps the digits that the inverse of a nearly singular matrix loses.
        factor = np.linalg.inv(np.linalg.cholesky(damped(gram, ridge)).T)
        self._inverse = factor @ factor.T
        self._weights = weights.astype(np.float64)
        self._channels = channels

    def costs(self, left: np.ndarray) -> np.ndarray:
        """Return by how much the squared error of all outputs would grow without each of some channels."""
        inputs = self._channels[left]
        blocks = self._inverse[inputs[:, :, np.newaxis], inputs[:, np.newaxis, :]]
        weights = self._weights.T[inputs]  # (channels, size, outputs)
        return np.einsum("cso,cso->c", weights, np.linalg.solve(blocks, weights))

    def remove(self, channel: int) -> None:
        """Remove a channel, input by input: all at once would lose digits where inputs depend on each other."""
        for index in self._channels[channel]:
            row = self._inverse[index] / self._inverse[index, index]
            self._weights -= np.outer(self._weights[:, index], row)
            self._inverse -= np.outer(self._inverse[index], row)
            self._inverse[index] = self._inverse[:, index] = 0


def removals(surgeons: Sequence[Surgeon], channels: int) -> Iterator[tuple[int, float]]:
    """Yield the channel that costs least, then the next, each with the squared error that it adds to those before it.

    Args:
        surgeons: The surgeons of all linear maps that read the channels.
        channels: The number of channels.
    """
    left = np.arange(channels)
    while left.size:
        costs = np.sum([surgeon.costs(left) for surgeon in surgeons], axis=0)
        cheapest = int(np.argmin(costs))
        yield int(left[cheapest]), float(costs[cheapest])
        for surgeon in surgeons:
            surgeon.remove(int(left[cheapest]))
        left = np.delete(left, cheapest)


def greedy_obs(gram: np.ndarray, weights: np.ndarray, *, keep: int, ridge: float = DAMPING) -> np.ndarray:
    """Choose which inputs of a linear map to keep: remove the cheapest, update the other weights, and so on.

    The score of an input is the sum over the outputs of w^2 / [H^-1]_jj, with w and H^-1 of the inputs that are left.
    Permuted inputs give the same choice, permuted.

    Args:
        gram: The moments of the inputs, of shape (inputs, inputs).
        weights: The weights, of shape (outputs, inputs).
        keep: The number of inputs to keep.
        ridge: The number added to the diagonal, as a fraction of its mean.

    Returns:
        Booleans, one for each input: whether it is kept.

    Example:
        >>> greedy_obs(np.diag([1.0, 4.0, 9.0]), np.array([[3.0, 1.0, 0.1]]), keep=2)
        array([ True,  True, False])

    Reference:
        Hassibi & Stork, 1993; greedy inside of blocks as Kuznedelev et al., 2023, "CAP", arXiv:2210.09223.
    """
    # In an order that the inputs themselves give, so that neither rounding nor ties depend on the one they came in.
    order = np.lexsort(np.vstack([np.sort(gram, axis=0), weights, np.diag(gram)]))
    gram, weights = gram[np.ix_(order, order)], weights[:, order]
    surgeon = Surgeon(gram, weights, channels=np.arange(order.size)[:, np.newaxis], ridge=ridge)
    gone = [index for index, _ in itertools.islice(removals([surgeon], order.size), order.size - keep)]
    kept = np.ones(order.size, dtype=bool)
    kept[order[gone]] = False
    return kept
