"""Optimal brain surgery on inputs of linear maps, the order of columns for N:M masks, and the split of zeros."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tfprune.solving.least_squares import LazySymmetric, damped_factor, inverse_of_lower

# Optimal brain surgery: choose which inputs of linear maps to remove, and update the other weights each time.

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


def _greedy_obs(gram: np.ndarray, weights: np.ndarray, *, keep: int, ridge: float = DAMPING) -> np.ndarray:
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
        >>> _greedy_obs(np.diag([1.0, 4.0, 9.0]), np.array([[3.0, 1.0, 0.1]]), keep=2)
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


# The order of columns in which the largest scores of each row and group of columns add up to more.

_GROUPS_AT_ONCE = 256  # whose columns are exchanged in one step: time grows with the square
_MOST_ROWS = 1024
_LEAST_GAIN = 3e-5  # of the sum, in one round


def column_order(scores: np.ndarray, *, groups: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """Search for the order of columns with which the `n` largest scores of each row and group add up to most.

    One column is taken out of each group, and pairs of groups exchange theirs where both together gain; all other
    columns stay, so that these gains are exact and add up. It starts from the columns as they are, or from columns
    that were dealt out by their size, whichever is better. Of more than 1,024 rows it looks at some.

    Args:
        scores: The scores, of shape (rows, columns).
        groups: The number of the group that each column is in, of shape (columns,). Groups may differ in size.
        n: How many scores of a group are kept in each row.
        seed: Of the columns that are taken out.

    Returns:
        The column to put in place of each, of shape (columns,).

    Example:
        >>> scores = np.array([[3.0, 3.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
        >>> order = column_order(scores, groups=np.repeat([0, 1], 4), n=2)
        >>> scores[:, order].reshape(2, 4).astype(int)
        array([[3, 3, 1, 1],
               [3, 1, 1, 1]])

    Reference:
        Pool & Yu, 2021, "Channel Permutations for N:M Sparsity" (NeurIPS); Zhang et al., 2024, "Plug-and-Play"
        (ICLR), which takes one column out of each group as well, and assigns them all at once.
    """
    some = scores[:: -(-len(scores) // _MOST_ROWS)].astype(np.float32)
    columns = np.vstack([some.T - min(some.min(initial=0), 0), np.zeros((1, len(some)), np.float32)])
    slots = _slots(groups)
    start = max((slots, _dealt(columns, slots)), key=lambda held: _kept(columns, held, n))
    best = _improved(columns, start, n=n, seed=seed)
    order = np.empty(groups.size, dtype=np.int64)
    order[slots[slots < groups.size]] = best[slots < groups.size]
    return order


def _slots(groups: np.ndarray) -> np.ndarray:
    """Return the columns of each group, of shape (groups, largest group); the number of columns stands for none."""
    sizes = np.unique(groups, return_counts=True)[1]
    slots = np.full((sizes.size, sizes.max()), groups.size)
    slots[np.arange(sizes.max()) < sizes[:, np.newaxis]] = np.argsort(groups, kind="stable")
    return slots


def _dealt(columns: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Return the columns by their size, the largest in the first slots of all groups."""
    dealt = slots.T.copy()
    is_there = dealt < len(columns) - 1
    dealt[is_there] = np.argsort(-columns[:-1].sum(axis=1), kind="stable")
    return np.ascontiguousarray(dealt.T)


def _kept(columns: np.ndarray, held: np.ndarray, n: int) -> float:
    return sum(float(np.partition(columns[some], -n, axis=0)[-n:].sum(dtype=np.float64)) for some in held)


def _improved(columns: np.ndarray, start: np.ndarray, *, n: int, seed: int) -> np.ndarray:
    """Exchange columns until a round, which takes most pairs of columns out of two groups, gains little."""
    generator = np.random.default_rng(seed)
    held, sizes = start.copy(), (start < len(columns) - 1).sum(axis=1)
    least = _LEAST_GAIN * columns.sum(dtype=np.float64)
    gained = np.inf if len(held) > 1 else 0.0
    while gained > least:
        gained = 0.0
        for _ in range(2 * held.shape[1] ** 2):
            some = generator.permutation(len(held))[:_GROUPS_AT_ONCE]
            slot = generator.integers(sizes[some])
            gained += _exchange(columns, held, groups=some, slot=slot, n=n)
    return held


def _exchange(columns: np.ndarray, held: np.ndarray, *, groups: np.ndarray, slot: np.ndarray, n: int) -> float:
    """Exchange the columns in one slot of each of some groups, pair by pair, and return the gain."""
    before = held[groups, slot]
    moved = columns[before]
    gains = np.empty((groups.size, groups.size))
    for row, (group, place) in enumerate(zip(groups, slot, strict=True)):
        rest = columns[np.delete(held[group], place)]
        least = np.partition(rest, -n, axis=0)[-n]  # that a column has to exceed
        gains[row] = np.maximum(least, moved).sum(axis=1)
    both = gains + gains.T - gains.diagonal() - gains.diagonal()[:, np.newaxis]
    firsts, seconds = np.triu_indices(groups.size, 1)
    gained, is_free = 0.0, np.ones(groups.size, dtype=bool)
    for pair in np.argsort(-both[firsts, seconds]):
        first, second = firsts[pair], seconds[pair]
        if both[first, second] <= 0:
            break
        if is_free[first] and is_free[second]:
            held[groups[[first, second]], slot[[first, second]]] = before[[second, first]]
            is_free[[first, second]] = False
            gained += both[first, second]
    return gained


# Split zeros over the layers of a network, so that its outputs change least.

# Sparsities at which an error is measured. At the last one no weight can have fewer zeros than another.
LEVELS = np.array([0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99])
_FINE = np.linspace(0, LEVELS[-1], 100)
_HALVINGS = 60
SAMPLES_FELT = 16  # of which the outputs are compared while one weight alone has zeros
LEVEL_FELT = 3  # of `LEVELS`, the sparsity of that weight
TINY = 1e-15
_ROUNDING = 1e-12  # of the square of float32 values


@dataclass(frozen=True, eq=False)
class ErrorCurve:
    """The cost of zeros in one weight.

    Attributes:
        size: The number of its entries.
        zeros: The fraction that is zero already.
        errors: The squared error at each of `LEVELS`, with zeros in this weight alone.
    """

    size: int
    zeros: float
    errors: np.ndarray

    def scaled(self, error: float) -> ErrorCurve:
        """Return the curve of the network's outputs, which have this error at `LEVEL_FELT`."""
        return replace(self, errors=self.errors * error / max(self.errors[LEVEL_FELT], TINY))


def split_by_error(curves: Sequence[ErrorCurve], sparsity: float) -> list[float]:
    """Return the sparsity of each weight, of least summed error among those that give a sparsity of all together.

    Args:
        curves: What zeros in each weight cost.
        sparsity: The fraction of zeros of all weights together, in [0, 1).

    Example:
        >>> flat, steep = (ErrorCurve(100, 0.0, scale * LEVELS**2) for scale in (1.0, 100.0))
        >>> [round(share, 1) for share in split_by_error([flat, steep], 0.4)]
        [0.8, 0.0]
    """
    if sparsity > _FINE[-1]:  # where no error was measured
        return [max(sparsity, curve.zeros) for curve in curves]
    costs = np.stack([_on_fine_levels(curve) for curve in curves])
    sizes = np.array([curve.size for curve in curves], np.float64)
    wanted = sparsity * sizes.sum()
    low, high = -60.0, 60.0  # logarithms of what a zero may cost
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        gain = np.exp(middle) * sizes[:, np.newaxis] * _FINE
        shares = _FINE[np.argmin(costs - gain, axis=1)]
        low, high = (low, middle) if shares @ sizes >= wanted else (middle, high)
    gains = np.exp(high) * sizes[:, np.newaxis] * _FINE, np.exp(low) * sizes[:, np.newaxis] * _FINE
    above, below = (_FINE[np.argmin(costs - gain, axis=1)] for gain in gains)
    # Both sides of the last step: between them the zeros that are missing are spread evenly.
    span = (above - below) @ sizes
    part = 1.0 if span <= 0 else np.clip((wanted - below @ sizes) / span, 0, 1)
    floors = np.array([curve.zeros for curve in curves])
    return [float(share) for share in np.maximum(below + part * (above - below), floors)]


def output_error(dense: Sequence[np.ndarray], changed: Sequence[np.ndarray]) -> float:
    """Return the mean squared error of some outputs, each as a fraction of its variance; constant ones are left out.

    Example:
        >>> output_error([np.array([[0.0], [2.0]])], [np.array([[0.5], [2.5]])])
        0.25
    """
    parts = [
        float(np.square(values - outputs).mean()) / spread
        for outputs, values in zip(dense, changed, strict=True)
        if (spread := variation(outputs))
    ]
    return float(np.nan_to_num(np.mean(parts), nan=1.0, posinf=1.0))


def variation(values: np.ndarray) -> float:
    """Return the variance of an output over its samples, the mean of its entries; 0 where it is rounding alone."""
    spread = float(values.var(axis=0).mean()) if len(values) > 1 else float(values.var())
    return spread if spread > _ROUNDING * float(np.square(values).mean()) else 0.0


def _on_fine_levels(curve: ErrorCurve) -> np.ndarray:
    """Interpolate a curve, and keep its convex part: what lies above that is never the best choice."""
    errors = np.maximum.accumulate(np.maximum(curve.errors, TINY))
    # Errors grow about exponentially between two levels, and before the first with the square of the sparsity.
    fine = np.exp(np.interp(_FINE, LEVELS, np.log(errors))) * np.minimum(_FINE / LEVELS[0], 1) ** 2
    hull = [0]
    for index in range(1, len(_FINE)):
        while len(hull) > 1 and _slope(fine, hull[-2], hull[-1]) >= _slope(fine, hull[-1], index):
            hull.pop()
        hull.append(index)
    return np.where(curve.zeros > _FINE, 0, np.interp(_FINE, _FINE[hull], fine[hull]))


def _slope(errors: np.ndarray, start: int, end: int) -> float:
    return (errors[end] - errors[start]) / (_FINE[end] - _FINE[start])


# Split zeros over the blocks of a network by figures of each block: outliers of scores, and the tail of spectra.

_OUTLIER = 5.0  # times the mean: a score above that is an outlier
_WIDEST_DENSITIES = 0.08  # by which the density of a block may differ from the mean
_WIDEST_SPARSITIES = 0.2  # by which the sparsity of a block may differ from the mean, as a fraction of it
_SMALLEST = 1e-12  # of the largest eigenvalue: below that there is rounding alone


def outlier_ratio(scores: Sequence[np.ndarray]) -> float:
    """Return the fraction of the scores of a block that are above `_OUTLIER` times their mean.

    Example:
        >>> outlier_ratio([np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]), np.array([60.0])])
        0.125
    """
    mean = sum(float(each.sum()) for each in scores) / sum(each.size for each in scores)
    outliers = sum(int(np.count_nonzero(each > _OUTLIER * mean)) for each in scores)
    return outliers / sum(each.size for each in scores)


def split_by_outliers(ratios: Sequence[float], *, sizes: Sequence[int], sparsity: float) -> list[float]:
    """Give blocks with more outliers fewer zeros: densities follow the ratios, within twice `_WIDEST_DENSITIES`.

    Args:
        ratios: The `outlier_ratio` of each block.
        sizes: The number of weights of each block.
        sparsity: The fraction of zeros of all blocks together.

    Example:
        >>> [round(share, 2) for share in split_by_outliers([0.0, 0.1], sizes=[10, 10], sparsity=0.5)]
        [0.58, 0.42]

    Reference:
        Yin et al., 2024, "Outlier Weighed Layerwise Sparsity (OWL)", arXiv:2310.05175. Blocks of other sizes have the
        weight of their size in the mean here.
    """
    densities = 2 * _WIDEST_DENSITIES * _from_0_to_1(ratios)
    return [float(share) for share in sparsity + np.average(densities, weights=sizes) - densities]


def tail_exponent(matrix: np.ndarray) -> float:
    """Return the exponent of the power law that the larger half of the eigenvalues of W W^T follows.

    It is Hill's estimator: of n values at least x, 1 + n / sum(ln(value / x)), with their median as x. The heavier
    the tail, the smaller the exponent.

    Example:
        >>> round(tail_exponent(np.diag(np.exp([0.0, 1.0, 2.0, 3.0]) ** 0.5)), 6)
        3.0
    """
    values = np.square(np.linalg.svd(matrix, compute_uv=False))[::-1]
    logarithms = np.log(np.maximum(values, _SMALLEST * max(float(values[-1]), 1e-300)))
    tail = logarithms[len(values) // 2 :] - logarithms[len(values) // 2]
    return 1 + len(tail) / max(float(tail.sum()), _SMALLEST)


def split_by_tails(exponents: Sequence[float], *, sizes: Sequence[int], sparsity: float) -> list[float]:
    """Give blocks with a heavier tail fewer zeros: sparsities follow the exponents, within `_WIDEST_SPARSITIES`.

    Args:
        exponents: The mean `tail_exponent` of the weights of each block.
        sizes: The number of weights of each block.
        sparsity: The fraction of zeros of all blocks together.

    Example:
        >>> [round(share, 2) for share in split_by_tails([2.0, 3.0], sizes=[10, 10], sparsity=0.5)]
        [0.4, 0.6]

    Reference:
        Lu et al., 2024, "AlphaPruning: Using Heavy-Tailed Self Regularization Theory for Improved Layer-wise Pruning
        of Large Language Models", arXiv:2410.10912.
    """
    shares = 1 + _WIDEST_SPARSITIES * (2 * _from_0_to_1(exponents) - 1)
    return [float(share) for share in sparsity * shares / np.average(shares, weights=sizes)]


def _from_0_to_1(values: Sequence[float]) -> np.ndarray:
    """Stretch values from 0 to 1; equal ones are all 0."""
    lowest, highest = min(values), max(values)
    return (np.asarray(values) - lowest) / ((highest - lowest) or 1.0)
