"""Zeros in the matrices of one weight, and new values for its other entries: SparseGPT, ALPS, Wanda and RIA."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from tfprune.patterns import NM, Block, Pattern
from tfprune.solving.least_squares import GramMoments, Grid, damped_factor, inverse_of_lower, solve
from tfprune.solving.surgery import LEVEL_FELT, LEVELS, TINY

# Masks of single weights from the moments of their inputs, with the other weights updated or not.

_COLUMNS_AT_ONCE = 128  # as in the paper
_COLUMNS_IN_CACHE = 16  # that are updated one by one before those after them


def wanda_mask(
    moments: GramMoments, weights: np.ndarray, *, pattern: Pattern, sparsity: float, positions: int = 1
) -> np.ndarray:
    """Mask the weights whose product with the norm of their input is smallest, output by output.

    Blocks of several outputs are compared with those of the same outputs.

    Args:
        moments: The moments of the inputs.
        weights: The weights, of shape (outputs, inputs), positions before inputs.
        pattern: `Unstructured()`, `NM(n, m)` or `Block(rows, cols)`.
        sparsity: The fraction of zeros.
        positions: The number of positions of the kernel.

    Returns:
        Booleans of the shape of the weights.

    Example:
        >>> from tfprune.patterns import Unstructured
        >>> moments = GramMoments(3, 2)
        >>> moments.add_inputs(np.diag([10.0, 1.0, 0.1]))
        >>> weights = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
        >>> wanda_mask(moments, weights, pattern=Unstructured(), sparsity=2 / 3).astype(int)
        array([[1, 0, 0],
               [1, 0, 0]])

    Reference:
        Sun et al., 2024, "A Simple and Effective Pruning Approach for Large Language Models", arXiv:2306.11695.
    """
    scores = _wanda_scores(moments, weights)
    rows = pattern.rows if isinstance(pattern, Block) else len(scores) if isinstance(pattern, NM) else 1
    parts = (scores[start : start + rows] for start in range(0, len(scores), rows))
    masks = [pattern(part.reshape(len(part), positions, -1), sparsity) for part in parts]
    return np.concatenate(masks).reshape(scores.shape)


def _wanda_scores(moments: GramMoments, weights: np.ndarray) -> np.ndarray:
    """Return the size of each weight times the norm of its input, of the shape of the weights."""
    power = moments.gram.diagonal()[: weights.shape[1]]  # without the input of the bias
    return np.abs(weights) * np.sqrt(power)


def ria_mask(
    moments: GramMoments, weights: np.ndarray, *, pattern: Pattern, sparsity: float, positions: int = 1
) -> np.ndarray:
    """Mask the weights that matter least among those of their output and of their input, in the whole matrix.

    The score of a weight is its share in the sizes of its output plus that in the sizes of its input, times the root
    of the norm of its input. No input and no output loses all of its weights as easily as with `wanda_mask`.

    Args:
        moments: The moments of the inputs.
        weights: The weights, of shape (outputs, inputs), positions before inputs.
        pattern: `Unstructured()`, `NM(n, m)` or `Block(rows, cols)`.
        sparsity: The fraction of zeros.
        positions: The number of positions of the kernel.

    Returns:
        Booleans of the shape of the weights.

    Example:
        >>> from tfprune.patterns import Unstructured
        >>> moments = GramMoments(2, 2)
        >>> moments.add_inputs(np.eye(2))
        >>> ria_mask(moments, np.array([[4.0, 1.0], [3.0, 2.0]]), pattern=Unstructured(), sparsity=0.5).astype(int)
        array([[1, 0],
               [0, 1]])

    Reference:
        Zhang et al., 2024, "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models"
        (ICLR), with the exponent 1/2 of the norm.
    """
    sizes = np.abs(weights)
    sums = sizes.sum(axis=1, keepdims=True), sizes.sum(axis=0, keepdims=True)
    shares = sum(np.divide(sizes, total, out=np.zeros_like(sizes), where=total > 0) for total in sums)
    scores = shares * moments.gram.diagonal()[: weights.shape[1]] ** 0.25
    return pattern(scores.reshape(len(scores), positions, -1), sparsity).reshape(sizes.shape)


def _sparse_gpt(
    moments: GramMoments,
    weights: np.ndarray,
    *,
    inputs: int,
    pattern: Pattern,
    sparsity: float,
    ridge: float,
    positions: int = 1,
    grid: Grid | None = None,
    factor: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mask weights column by column, and update those of later columns to make up for the removed ones.

    Args:
        moments: The moments of the inputs.
        weights: The weights, of shape (outputs, inputs), positions before inputs, and a bias as a last input.
        inputs: The number of inputs that may be removed: all but the one of the bias.
        pattern: `Unstructured()`, `NM(n, m)` or `Block(rows, cols)`.
        sparsity: The fraction of zeros.
        ridge: The number added to the diagonal, as a fraction of its mean.
        positions: The number of positions of the kernel.
        grid: The values that weights may have, the bias aside: later weights then make up for the rounding as well.
            Its anchors stay. None leaves weights unrounded.
        factor: What `_elimination_factor` returns for the moments; None computes it.

    Returns:
        The mask and the weights, both of the shape of the weights.

    Example:
        >>> from tfprune.patterns import Unstructured
        >>> moments = GramMoments(2, 1)
        >>> moments.add_inputs(np.array([[1.0, 1.0], [2.0, 2.0]]))
        >>> weights = np.array([[1.0, 3.0]])
        >>> mask, updated = _sparse_gpt(
        ...     moments, weights, inputs=2, pattern=Unstructured(), sparsity=0.5, ridge=1e-9
        ... )
        >>> mask, updated.round(3)
        (array([[False,  True]]), array([[0., 4.]]))

    Reference:
        Frantar & Alistarh, 2023, "SparseGPT", arXiv:2301.00774, algorithm 1; section 3.5 joins it
        with rounding.
    """
    mask, updated = np.ones(weights.shape, dtype=bool), weights.astype(np.float64)
    factor = _elimination_factor(moments, ridge) if factor is None else factor
    width = pattern.cols if isinstance(pattern, Block) else 1
    # Whole groups and blocks are compared at once.
    step = pattern.m if isinstance(pattern, NM) else max(_COLUMNS_AT_ONCE // width, 1) * width
    for columns in _chunks(inputs, inputs // positions, step):
        start, stop = columns.start, columns.stop
        length = min(inputs // positions, stop - start)  # of the columns of one position
        costs = _removal_costs(updated[:, columns], factor[columns, columns], width=width, length=length)
        if grid is not None and grid.anchors is not None:
            # Larger than all others together, so that the mean of a block is, too.
            costs = np.where(grid.anchors[:, columns], costs.sum() + 1, costs)
        mask[:, columns] = pattern(costs.reshape(len(costs), -1, length), sparsity).reshape(costs.shape)
        removed = np.zeros((len(updated), stop - start))
        for first in range(start, stop, _COLUMNS_IN_CACHE):
            last = min(first + _COLUMNS_IN_CACHE, stop)
            for column in range(first, last):
                here = slice(column, column + 1)
                rounded = updated[:, here] if grid is None else grid.nearest(updated[:, here], here)
                left = np.where(mask[:, here], rounded, 0)
                removed[:, column - start] = (updated[:, here] - left)[:, 0] / factor[column, column]
                updated[:, column:last] -= np.outer(removed[:, column - start], factor[column, column:last])
                updated[:, here] = left
            updated[:, last:stop] -= removed[:, first - start : last - start] @ factor[first:last, last:stop]
        updated[:, stop:] -= removed @ factor[columns, stop:]
    return mask, np.where(mask, updated, 0)


def _removal_costs(weights: np.ndarray, factor: np.ndarray, *, width: int, length: int) -> np.ndarray:
    """Return what removing `width` neighboring weights of an output costs, in parts whose sum it is.

    Blocks lie within a position, which has `length` columns. The cost of one weight is the square of it divided by
    its diagonal entry of the factor. In a block, each weight counts as it is after those before it were removed.
    """
    if width == 1:
        return np.square(weights / factor.diagonal())
    costs = np.empty_like(weights)
    for first in range(0, weights.shape[1], length):
        for start in range(first, first + length, width):
            block = slice(start, min(start + width, first + length))
            costs[:, block] = np.square(np.linalg.solve(factor[block, block].T, weights[:, block].T).T)
    return costs


def _elimination_factor(moments: GramMoments, ridge: float) -> np.ndarray:
    """Return the upper triangle whose row j says, up to its scale, how inputs after j make up for input j.

    It is the first row of the inverse of the moments of the inputs from j on.
    """
    return inverse_of_lower(damped_factor(moments.gram[::-1, ::-1], ridge))[::-1, ::-1]


def _chunks(inputs: int, length: int, step: int) -> Iterator[slice]:
    """Yield the columns that are compared at once: whole positions, or a part of one that is longer than a step."""
    at_once = max(step // length, 1) * length
    for first in range(0, inputs, at_once):
        last = min(first + at_once, inputs)
        yield from (slice(start, min(start + step, last)) for start in range(first, last, step))


# ALPS: which weights to remove and new values for the others, found together by ADMM on the inputs' moments.

_MOST_STEPS = 300
_LEAST_STEPS = 30  # after which a support that hardly changes is taken
_PENALTY = 0.1  # that weights pay for entries outside the support, at the beginning
_STEPS_BETWEEN = 3  # updates of the penalty
_HARDLY = 3e-4  # of the kept entries
# What the penalty is multiplied by where more than this part of the support has changed, as in the paper.
_FACTORS = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
_LOWER = 5  # what it is divided by where it holds the support from the beginning
_LEAST_PENALTY = 1e-9  # a support that has not moved by then never will: hardly any entry goes
_GRADIENT_STEPS = 10
_EXACT = 512  # inputs up to which it computes in double precision: single precision takes half of the time


def _alps(
    moments: GramMoments,
    weights: np.ndarray,
    *,
    inputs: int,
    pattern: Pattern,
    sparsity: float,
    ridge: float,
    positions: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the entries to keep and their values together, so that the outputs change least.

    Use it above 60 % zeros, where masks that are chosen column by column cost more. It takes an eigendecomposition of
    the moments and some tens of products with them.

    Args:
        moments: The moments of the inputs, and the outputs that are wanted.
        weights: The weights, of shape (outputs, inputs), positions before inputs, and a bias as a last input.
        inputs: The number of inputs that may be removed: all but the one of the bias.
        pattern: `Unstructured()`, `NM(n, m)` or `Block(rows, cols)`.
        sparsity: The fraction of zeros.
        ridge: How strongly the new weights are pulled towards the old ones: the number added to the diagonal, as a
            fraction of its mean.
        positions: The number of positions of the kernel.

    Returns:
        The mask and the weights, both of the shape of the weights.

    Raises:
        ValueError: If the moments are not finite.

    Example:
        >>> from tfprune.patterns import Unstructured
        >>> moments = GramMoments(2, 1)
        >>> moments.add_inputs(np.array([[1.0, 1.0], [2.0, 2.0]]))
        >>> weights = np.array([[1.0, 3.0]])
        >>> moments = moments.aimed_at(weights)
        >>> mask, updated = _alps(moments, weights, inputs=2, pattern=Unstructured(), sparsity=0.5, ridge=1e-9)
        >>> mask, updated.round(3)
        (array([[False,  True]]), array([[0., 4.]]))

    Reference:
        Meng, Behdin, Wang & Mazumder, 2024, "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large
        Language Models", arXiv:2406.07831, algorithms 1 and 2. The gradient steps have their own length for each
        output here; in the paper all outputs share one.
    """
    if not np.isfinite(moments.gram).all():
        raise ValueError(
            "Expected finite moments of the inputs. Received: NaN or infinity; check the data and weights."
        )
    gram, cross, scales = _system(moments, weights, ridge)

    def kept(values: np.ndarray) -> np.ndarray:
        mask = np.ones(values.shape, dtype=bool)
        squares = np.square(values[:, :inputs]).reshape(len(values), positions, -1)
        mask[:, :inputs] = pattern(squares, sparsity).reshape(len(values), inputs)
        return mask

    values = _constrained(gram, cross, (weights * scales).astype(gram.dtype), kept=kept)
    mask = kept(values)
    return mask, _on_support(gram, cross, values * mask, mask=mask, steps=_GRADIENT_STEPS) / scales


def _system(moments: GramMoments, weights: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the moments of inputs and of outputs, scaled so that the inputs are of one size, and these scales."""
    damping = ridge * np.trace(moments.gram) / len(moments.gram)
    diagonal = moments.gram.diagonal() + damping
    scales = np.sqrt(np.where(diagonal > 0, diagonal, 1))
    dtype = np.float64 if len(scales) <= _EXACT else np.float32
    gram = ((moments.gram + damping * np.eye(len(scales))) / np.outer(scales, scales)).astype(dtype)
    return gram, ((moments.cross + damping * weights) / scales).astype(dtype), scales


def _constrained(
    gram: np.ndarray, cross: np.ndarray, weights: np.ndarray, *, kept: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return weights near their best values of the wanted number of entries, by the alternating direction method."""
    spectrum, vectors = np.linalg.eigh(gram)
    first = weights * kept(weights)
    sparse, dual, penalty = first, np.zeros_like(weights), _PENALTY
    inverse = (vectors / (spectrum + penalty)) @ vectors.T
    support, has_moved = sparse != 0, False
    for step in range(1, _MOST_STEPS + 1):
        dense = (cross - dual + penalty * sparse) @ inverse
        shifted = dense + dual / penalty
        sparse = shifted * kept(shifted)
        dual += penalty * (dense - sparse)
        if step % _STEPS_BETWEEN:
            continue
        changed = int(np.count_nonzero((sparse != 0) != support)) / max(int(np.count_nonzero(support)), 1)
        support = sparse != 0
        has_moved |= changed > _FACTORS[1][0]
        if has_moved and (not changed or (step >= _LEAST_STEPS and changed < _HARDLY)) or penalty < _LEAST_PENALTY:
            break
        if has_moved:
            penalty *= next(factor for least, factor in _FACTORS if changed > least)
        else:  # the support is that of the largest weights, because the penalty is too large
            penalty /= _LOWER
            sparse, dual, support = first, np.zeros_like(weights), first != 0
        inverse = (vectors / (spectrum + penalty)) @ vectors.T
    return sparse


def _on_support(
    gram: np.ndarray, cross: np.ndarray, weights: np.ndarray, *, mask: np.ndarray, steps: int
) -> np.ndarray:
    """Return values of least error for the entries of a mask, by conjugate gradients, each output by itself."""
    residual = (cross - weights @ gram) * mask
    direction, size = residual, np.einsum("oi,oi->o", residual, residual)
    for _ in range(steps):
        image = direction @ gram
        curvature = np.einsum("oi,oi->o", direction, image)
        length = np.divide(size, curvature, out=np.zeros_like(size), where=curvature > 0)
        weights = weights + length[:, np.newaxis] * direction
        residual = residual - length[:, np.newaxis] * (image * mask)
        before, size = size, np.einsum("oi,oi->o", residual, residual)
        ratio = np.divide(size, before, out=np.zeros_like(size), where=before > 0)
        direction = residual + ratio[:, np.newaxis] * direction
    return weights


# Zeros in the matrices of one weight, and new values for its other entries: the step of each layer, in order.

RIDGE = 0.1  # of the mean square of the inputs
_RIDGE_WITHOUT = 0.001  # the same where whole inputs go: the others have to change more than around single zeros
RIDGE_KEPT = 0.01  # the same where all zeros are chosen, and the entries between them are solved for at once
_STEPS_KEPT = 20  # of conjugate gradients for them
_STEPS_COMPARED = 5  # enough where an error is only compared with those of other layers
_THREADS = 2  # each takes a few copies of the weights
_OUTPUTS_OF_SHAPE = 128  # of which the shape of an error curve is measured: its height is that of all outputs


class ZeroSolver:
    """The dense matrices of one weight, one for each of its groups, and how they get zeros.

    Args:
        weights: The matrices, of shape (groups, outputs, inputs): positions before inputs, and a bias last.
        inputs: The number of inputs that may be removed: all but the one of the bias.
        positions: The number of positions of the kernel.
        ridge: The number added to the diagonal of the moments, as a fraction of its mean.
        ridge_kept: The same for a last solution for all kept entries of an output at once, if they are not rounded:
            column by column, an entry makes up for those before it only. None for no such solution.

    Reference:
        Frantar & Alistarh, 2023, "SparseGPT", arXiv:2301.00774.
    """

    def __init__(
        self,
        weights: np.ndarray,
        *,
        inputs: int,
        positions: int = 1,
        ridge: float = RIDGE,
        ridge_kept: float | None = None,
    ) -> None:
        self.weights = weights.astype(np.float64)
        self.inputs, self.positions, self._ridge, self._ridge_kept = inputs, positions, ridge, ridge_kept

    def refit(self, moments: Sequence[GramMoments]) -> np.ndarray:
        """Return dense weights that come closer to the outputs that the moments ask for."""
        return self._solved(moments, self.weights, np.ones(self.weights.shape, bool), ridge=self._ridge)

    def _solved(
        self, moments: Sequence[GramMoments], weights: np.ndarray, free: np.ndarray, *, ridge: float
    ) -> np.ndarray:
        groups = zip(moments, weights, free, strict=True)
        return np.stack([solve(sums, own, free=each, ridge=ridge) for sums, own, each in groups])

    def masking(
        self, moments: Sequence[GramMoments], start: np.ndarray, *, pattern: Pattern
    ) -> Callable[..., np.ndarray]:
        """Return a function from a sparsity, a grid for each group or None, outputs and steps to weights with zeros.

        The steps are how often the kept entries are improved, where they are solved for at once.

        Args:
            moments: What the weight sees, and what it should return, for each group.
            start: The dense weights to start from: those of `refit`, or the weights themselves.
            pattern: The shape of the zeros.
        """
        factors = [_elimination_factor(sums, self._ridge) for sums in moments]

        def masked(
            sparsity: float,
            grids: Sequence[Grid] | None = None,
            outputs: np.ndarray | slice = slice(None),
            steps: int = _STEPS_KEPT,
        ) -> np.ndarray:
            solved = np.empty_like(self.weights[:, outputs])
            for group, sums in enumerate(_of(moments, outputs)):
                mask, updated = _sparse_gpt(
                    sums,
                    start[group][outputs],
                    inputs=self.inputs,
                    pattern=pattern,
                    sparsity=sparsity,
                    ridge=self._ridge,
                    positions=self.positions,
                    grid=None if grids is None else grids[group],
                    factor=factors[group],
                )
                as_it_was = self.weights[group][outputs].copy()
                if grids is None and self._ridge_kept is not None:
                    gram, cross, scales = _system(sums, updated, self._ridge_kept)
                    updated = _on_support(gram, cross, updated * scales, mask=mask, steps=steps) / scales
                if grids is not None:
                    as_it_was[:, : self.inputs] = grids[group].nearest(as_it_was[:, : self.inputs])
                solved[group] = sums.better(np.where(mask, as_it_was, 0), updated)
            return solved

        return masked

    def by_alps(
        self, moments: Sequence[GramMoments], start: np.ndarray, *, pattern: Pattern, sparsity: float
    ) -> np.ndarray:
        """Return weights with zeros whose places and values are found together.

        Args:
            moments: As in `masking`.
            start: As in `masking`.
            pattern: The shape of the zeros.
            sparsity: The fraction of zeros.
        """
        solved = np.empty_like(self.weights)
        for group, sums in enumerate(moments):
            mask, updated = _alps(
                sums,
                start[group],
                inputs=self.inputs,
                pattern=pattern,
                sparsity=sparsity,
                ridge=self._ridge,
                positions=self.positions,
            )
            solved[group] = sums.better(np.where(mask, self.weights[group], 0), updated)
        return solved

    def without(self, moments: Sequence[GramMoments], kept: np.ndarray) -> np.ndarray:
        """Return weights that are zero for some inputs of all outputs, with new values for the others.

        Args:
            moments: What the weight sees, and what it should return, for each group.
            kept: Whether each input is kept, of shape (inputs,), without the bias.
        """
        free = np.ones(self.weights.shape, dtype=bool)
        free[..., : self.inputs] = kept
        return self._solved(moments, self.weights * free, free, ridge=_RIDGE_WITHOUT)

    def at_levels(self, moments: Sequence[GramMoments], *, pattern: Pattern) -> tuple[np.ndarray, np.ndarray]:
        """Return the weights at `LEVEL_FELT`, with zeros in this weight alone, and the errors at each of `LEVELS`.

        The error at `LEVEL_FELT` is that of all outputs, and the others relate to it as they do for some outputs.
        """
        masked = self.masking(moments, self.weights, pattern=pattern)
        at_level = masked(float(LEVELS[LEVEL_FELT]), steps=_STEPS_COMPARED)
        outputs = _outputs_of_shape(moments, pattern)
        some = _of(moments, outputs)

        def measured(level: float) -> float:
            return relative_error(some, masked(float(level), outputs=outputs, steps=_STEPS_COMPARED))

        with ThreadPoolExecutor(_THREADS) as pool:  # NumPy gives up Python's lock
            errors = np.array([*pool.map(measured, LEVELS)])
        return at_level, errors * relative_error(moments, at_level) / max(errors[LEVEL_FELT], TINY)


def _outputs_of_shape(moments: Sequence[GramMoments], pattern: Pattern) -> np.ndarray:
    """Return outputs of all sizes, from the one of most energy on; whole blocks of them for a pattern of blocks."""
    height = pattern.rows if isinstance(pattern, Block) else 1
    energy = np.sum([sums.energy for sums in moments], axis=0)
    blocks = np.argsort(-np.add.reduceat(energy, np.arange(0, len(energy), height)))
    count = min(len(blocks), max(_OUTPUTS_OF_SHAPE // height, 1))
    starts = np.sort(blocks[np.arange(count) * len(blocks) // count]) * height
    outputs = (starts[:, np.newaxis] + np.arange(height)).ravel()
    return outputs[outputs < len(energy)]


def _of(moments: Sequence[GramMoments], outputs: np.ndarray | slice) -> list[GramMoments]:
    return [sums.of(outputs) for sums in moments]


def relative_error(moments: Sequence[GramMoments], weights: np.ndarray) -> float:
    """Return the squared error of the outputs of all groups, as a fraction of their squares."""
    energy = sum(float(sums.energy.sum()) for sums in moments) or 1.0
    pairs = zip(moments, weights, strict=True)
    return sum(float(sums.errors(each).sum()) * sums.count for sums, each in pairs) / energy


# Choose by the loss per saved cost how far to go with each of several kinds of removals.

Levels = dict[str, int]
_MORE = 2  # levels of one kind alone, beyond the one at which its first step says that the target is met


@dataclass(frozen=True)
class Candidate:
    """A model from which some parts are removed.

    Attributes:
        levels: How many steps of each kind were done.
        costs: What the model costs, by the name of the limit.
        loss: The loss of its outputs.
    """

    levels: Levels
    costs: Mapping[str, float]
    loss: float


def _lack(costs: Mapping[str, float], targets: Mapping[str, float]) -> float:
    """Return how far costs are above their targets, as fractions of these, added up; 0 if all are met.

    Example:
        >>> _lack({"bytes": 150.0, "parameters": 10.0}, {"bytes": 100.0, "parameters": 20.0})
        0.5
    """
    return sum(max(costs[name] / target - 1, 0.0) for name, target in targets.items())


class GreedyLevels:
    """A search that takes, again and again, the step with the least rise of the loss per saved cost.

    Args:
        most: The largest level of each kind.
        measure: Builds the model for some levels and measures it.
        targets: The limits, by name.
    """

    def __init__(self, most: Levels, measure: Callable[[Levels], Candidate], *, targets: Mapping[str, float]) -> None:
        self._most, self._measure, self._targets = most, measure, targets
        self._known: dict[tuple[int, ...], Candidate] = {}
        self.whole = self.measured(dict.fromkeys(most, 0))

    def measured(self, levels: Levels) -> Candidate:
        """Return the model for some levels, measured once; a loss that is not a number is infinite."""
        key = tuple(levels[kind] for kind in self._most)
        if key not in self._known:
            candidate = self._measure(levels)
            self._known[key] = replace(candidate, loss=math.inf) if math.isnan(candidate.loss) else candidate
        return self._known[key]

    def lack_of(self, candidate: Candidate) -> float:
        """Return how far a model is from the targets."""
        return _lack(candidate.costs, self._targets)

    def walk(self) -> list[Candidate]:
        """Return the models after each step, until the targets are met or nothing is left to remove.

        The rise of the loss per saved cost of a kind is measured again only when it is the least: what a step costs
        rarely falls when other parts are gone. A step without a rise is taken before others are tried.
        """
        path, rates = [self.whole], dict.fromkeys(self._most, -math.inf)
        while self.lack_of(path[-1]):
            steps: dict[str, Candidate] = {}
            while (kind := min(rates, key=lambda kind: rates[kind])) not in steps:
                steps[kind], rates[kind] = self._step(path[-1], kind)
                if rates[kind] <= 0:
                    break
            if rates[kind] == math.inf:
                break
            path.append(steps[kind])
        return path

    def _step(self, now: Candidate, kind: str) -> tuple[Candidate, float]:
        """Return the model after the next step of a kind that saves something, and its rise of the loss per cost."""
        before = self.lack_of(now)
        for level in range(now.levels[kind] + 1, self._most[kind] + 1):
            after = self.measured({**now.levels, kind: level})
            if saved := max(before - self.lack_of(after), 0.0):
                return after, (after.loss - now.loss) / saved
        return now, math.inf

    def undone(self, path: list[Candidate]) -> list[Candidate]:
        """Return a path with steps taken back that the targets do not need, if the loss is lower without them."""
        path = list(path)
        for kind in sorted(self._most, key=self._saved):
            while path[-1].levels[kind] and self._fits(path[-1], kind):
                less = self.measured({**path[-1].levels, kind: path[-1].levels[kind] - 1})
                if self.lack_of(less) or less.loss > path[-1].loss:
                    break
                path.append(less)
        return path

    def _fits(self, candidate: Candidate, kind: str) -> bool:
        """Return True if the targets leave as much free as a level of a kind saves, by its first step."""
        first = self._first(kind)
        level = max(first.levels[kind], 1)
        return all(
            candidate.costs[name] + (self.whole.costs[name] - first.costs[name]) / level <= target
            for name, target in self._targets.items()
        )

    def _first(self, kind: str) -> Candidate:
        return self._step(self.whole, kind)[0]

    def _saved(self, kind: str) -> float:
        return self.lack_of(self.whole) - self.lack_of(self._first(kind))

    def alone(self, kind: str) -> Candidate | None:
        """Return the model that meets the targets by one kind alone; None if it cannot."""
        first = self._first(kind)
        saved, level = self._saved(kind), first.levels[kind]
        if not saved:
            return None
        needed = max(math.ceil(self.lack_of(self.whole) / saved * level - 1e-9), 1)
        for count in range(needed, min(needed + _MORE, self._most[kind]) + 1):
            candidate = self.measured({**self.whole.levels, kind: count})
            if not self.lack_of(candidate):
                return candidate
        return None
