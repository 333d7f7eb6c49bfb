"""Optimal brain surgery: choose which inputs of linear maps to remove, and update the other weights each time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from tfprune.solving.lazy_symmetric import LazySymmetric
from tfprune.solving.least_squares import damped_factor, inverse_of_lower

DAMPING = 1e-9
_PENDING = 128  # removals that are taken together
_LARGE = 1024  # inputs from which on it pays to drop the rows of those that are gone


class Surgeon:
    """Removes inputs of a linear map one by one, as if its other weights were updated each time.

    The costs need the inverse moments P and the products G = W^T W of the columns of the weights, not the weights.
    Without an input j, with u = P_j / sqrt(P_jj), P loses u u^T, and G loses a u^T + u a^T.

    Args:
        gram: The moments of the inputs, of shape (inputs, inputs).
        weights: The weights, of shape (outputs, inputs).
        channels: The indices of the inputs of each channel, of shape (channels, size). A channel goes as a whole; one
            that the map does not read has a row of -1.
        ridge: The number added to the diagonal, as a fraction of its mean.
    """

    def __init__(
        self, gram: np.ndarray, weights: np.ndarray, *, channels: np.ndarray, ridge: float = DAMPING
    ) -> None:
        factor = damped_factor(gram, ridge)
        # By the factor, whose inverse keeps the digits that the inverse of a nearly singular matrix loses.
        self._inverse = LazySymmetric(inverse_of_lower(factor), is_lower=True)
        # Dead inputs do nothing, so that they cost nothing and are the first to go.
        self._products = LazySymmetric(weights * (np.diag(gram) > 0).astype(np.float64))
        self._least = 1 / np.einsum("ij,ij->i", factor, factor)  # of each entry of P's diagonal, without rounding
        self._pending = np.zeros((2, _PENDING, len(gram)))  # u and a of the removals that are not subtracted yet
        self._count = 0
        self._left = np.ones(len(gram), dtype=bool)
        self._is_read = channels[:, 0] >= 0
        self._channels, self._places = np.flatnonzero(self._is_read), channels[self._is_read]
        self._inverse_blocks = self._inverse.diagonal_blocks(self._places)
        self._product_blocks = self._products.diagonal_blocks(self._places)

    def costs(self) -> np.ndarray:
        """Return by how much the squared error of all outputs would grow without each channel; infinity if gone."""
        costs = np.where(self._is_read, np.inf, 0.0)
        inverse, products = self._inverse_blocks, self._product_blocks
        here = self._left[self._places[:, 0]]
        if inverse.shape[1] == 1:
            cost = products[:, 0, 0] / np.maximum(inverse[:, 0, 0], self._least[self._places[:, 0]])
            costs[self._channels] = np.where(here, np.maximum(cost, 0), np.inf)
        else:
            solved = np.linalg.solve(inverse[here], products[here])
            costs[self._channels[here]] = np.trace(solved, axis1=1, axis2=2)
        return costs

    def remove(self, channel: int) -> None:
        """Remove a channel, input by input: all at once would lose digits where inputs depend on each other."""
        if not self._is_read[channel]:
            return
        for place in self._places[np.searchsorted(self._channels, channel)]:
            self._remove_input(place)
            if self._count == _PENDING:
                self._subtract()
        if self._count == 0 and len(self._left) > _LARGE and self._left.mean() < 0.9:
            self._drop_gone()

    def _remove_input(self, place: int) -> None:
        u, a = self._pending[:, : self._count]
        inverse = self._inverse.column(place, u, u) * self._left
        products = self._products.column(place, np.concatenate([a, u]), np.concatenate([u, a])) * self._left
        pivot = max(inverse[place], self._least[place])
        u = inverse / np.sqrt(pivot)
        a = products / np.sqrt(pivot) - products[place] / (2 * pivot) * u
        self._pending[:, self._count] = u, a
        self._count += 1
        ours, theirs = u[self._places], a[self._places]
        crossed = theirs[:, :, np.newaxis] * ours[:, np.newaxis, :]
        self._inverse_blocks -= ours[:, :, np.newaxis] * ours[:, np.newaxis, :]
        self._product_blocks -= crossed + crossed.transpose(0, 2, 1)
        self._left[place] = False

    def _subtract(self) -> None:
        u, a = self._pending
        self._inverse.subtract(u, u)
        self._products.subtract(np.concatenate([a, u]), np.concatenate([u, a]))
        self._count = 0

    def _drop_gone(self) -> None:
        places = np.flatnonzero(self._left)
        here = self._left[self._places[:, 0]]
        numbers = np.cumsum(self._left) - 1
        for matrix in (self._inverse, self._products):
            matrix.keep(places)
        self._channels, self._places = self._channels[here], numbers[self._places[here]]
        self._inverse_blocks, self._product_blocks = self._inverse_blocks[here], self._product_blocks[here]
        self._least, self._left = self._least[places], self._left[places]
        self._pending = np.zeros((2, _PENDING, places.size))


def removals(surgeons: Sequence[Surgeon], channels: int) -> Iterator[tuple[int, float]]:
    """Yield the channel that costs least, then the next, each with the squared error that it adds to those before it.

    Args:
        surgeons: The surgeons of all linear maps that read the channels.
        channels: The number of channels.
    """
    for _ in range(channels):
        costs = np.sum([surgeon.costs() for surgeon in surgeons], axis=0)
        cheapest = int(np.argmin(costs))
        yield cheapest, float(costs[cheapest])
        for surgeon in surgeons:
            surgeon.remove(cheapest)


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
    order = _own_order(gram, weights)
    gram, weights = gram[np.ix_(order, order)], weights[:, order]
    surgeon = Surgeon(gram, weights, channels=np.arange(order.size)[:, np.newaxis], ridge=ridge)
    gone = [index for index, _ in itertools.islice(removals([surgeon], order.size), order.size - keep)]
    mask = np.ones(order.size, dtype=bool)
    mask[order[gone]] = False
    return mask


def _own_order(gram: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return an order that the inputs themselves give, so that neither rounding nor ties depend on the given one."""
    power = np.diag(gram)
    _, which, counts = np.unique(power, return_inverse=True, return_counts=True)
    tied = np.flatnonzero(counts[which] > 1)
    rank = np.zeros(power.size, dtype=int)
    rank[tied[np.lexsort(np.vstack([np.sort(gram[:, tied], axis=0), weights[:, tied]]))]] = np.arange(tied.size)
    return np.lexsort([rank, power])
