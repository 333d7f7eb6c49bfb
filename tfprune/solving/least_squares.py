"""Least squares on streamed moments: weights that keep an output without some inputs; and the grids of rounding.

`GramMoments` gathers second moments of the inputs of a linear map. `Grid` and `Rounding` describe weights that a
file rounds.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tfprune.base.spec import ArgumentError, Spec, check_count

# Least squares on streamed statistics: the weights that keep an output when some of its inputs go.
#
# Weights are matrices of outputs by inputs. Memory does not grow with the number of samples: only their second
# moments are kept, in double precision.

RIDGE = 1e-5
_PRECISION = np.finfo(np.float64).eps
_BLOCK = 256  # rows that LAPACK gets at once


class GramMoments:
    """Second moments of the inputs of a linear map and of the outputs it should have, added up batch by batch.

    Args:
        inputs: The number of inputs; a bias is the weight of an input that is always 1.
        outputs: The number of outputs.

    Attributes:
        count: Rows seen so far.
        gram: The sum of x x^T, of shape (inputs, inputs).
        cross: The sum of y x^T, of shape (outputs, inputs).
        energy: The sum of y^2 for each output.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        self.count = 0
        self.gram = np.zeros((inputs, inputs))
        self.cross = np.zeros((outputs, inputs))
        self.energy = np.zeros(outputs)

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add rows of inputs, of shape (rows, inputs), and their outputs, of shape (rows, outputs)."""
        x, y = x.astype(np.float64, copy=False), y.astype(np.float64, copy=False)
        self.add_inputs(x)
        self.cross += y.T @ x
        self.energy += np.einsum("ro,ro->o", y, y)

    def add_inputs(self, x: np.ndarray) -> None:
        """Add rows of inputs alone, of shape (rows, inputs); `aimed_at` says what their outputs are."""
        x = x.astype(np.float64, copy=False)
        self.count += len(x)
        self.gram += x.T @ x

    def aimed_at(self, weights: np.ndarray) -> GramMoments:
        """Return the moments with the outputs that some weights make of the same inputs."""
        aimed = copy.copy(self)
        aimed.cross = weights @ self.gram
        aimed.energy = np.einsum("oi,oi->o", aimed.cross, weights)
        return aimed

    def of(self, outputs: np.ndarray | slice) -> GramMoments:
        """Return the moments of some of the outputs; those of the inputs are shared."""
        some = copy.copy(self)
        some.cross, some.energy = self.cross[outputs], self.energy[outputs]
        return some

    def errors(self, weights: np.ndarray) -> np.ndarray:
        """Return the mean squared error of each output of some weights."""
        quadratic = np.einsum("oi,oi->o", weights @ self.gram - 2 * self.cross, weights)
        return np.maximum(self.energy + quadratic, 0) / max(self.count, 1)

    def better(self, weights: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return for each output the row of weights with the smaller error, the first if both are equal."""
        is_better = self.errors(others) < self.errors(weights)  # False for NaN
        return np.where(is_better[:, np.newaxis], others, weights)


def solve(moments: GramMoments, weights: np.ndarray, *, free: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """Return the weights of least squared error among those that differ from the given ones in free entries only.

    With F the free entries of an output, H the moments of the inputs and c those of the inputs with it, its weights w
    change by the d that solves (H_FF + r I) d_F = (c - H w)_F, with r as `ridge` says, and then once more (iterated
    Tikhonov regularization). Directions with hardly any data stay as they are, and an output is left alone where its
    error would not be lower.

    Args:
        moments: The moments of the inputs and the wanted outputs.
        weights: The weights, of shape (outputs, inputs).
        free: Which entries may change: booleans of the shape of `weights`.
        ridge: The number added to the diagonal, as a fraction of its mean; it is raised where H is still singular.

    Returns:
        The weights, in double precision.

    Example:
        >>> moments = GramMoments(2, 1)
        >>> moments.add(np.array([[1.0, 1.0], [2.0, 2.0]]), np.array([[3.0], [6.0]]))
        >>> solve(moments, np.array([[1.0, 0.0]]), free=np.array([[True, False]])).round(6)
        array([[3., 0.]])

    Reference:
        Hassibi & Stork, 1993, "Second order derivatives for network pruning: Optimal Brain Surgeon".
    """
    solution = weights.astype(np.float64)
    alone, alike = _by_cost(list(_patterns(free)))
    factors = [_factor(moments, pattern, ridge) for pattern, _ in alone]
    some = np.unique(np.concatenate([pattern for pattern, _ in alike])) if alike else np.arange(0)
    inverse = (factor := _factor(moments, some, ridge)).T @ factor if alike else None
    for _ in range(2):  # the second time returns what the ridge held back in directions with data
        missing = moments.cross - solution @ moments.gram
        for (pattern, rows), factor in zip(alone, factors, strict=True):
            solution[np.ix_(rows, pattern)] += missing[np.ix_(rows, pattern)] @ factor.T @ factor
        if inverse is not None:
            _step_together(solution, missing[:, some] @ inverse, inverse, some=some, patterns=alike)
    return moments.better(weights, solution)


def _by_cost(patterns: list[tuple[np.ndarray, np.ndarray]]) -> tuple[list, list]:
    """Split patterns into those that get a factorization each, and those that share that of all their inputs."""
    size = max((len(pattern) for pattern, _ in patterns), default=0)
    alike = [(pattern, rows) for pattern, rows in patterns if 2 * len(pattern) > size]
    if len(alike) < 2:
        return patterns, []
    return [(pattern, rows) for pattern, rows in patterns if 2 * len(pattern) <= size], alike


def _step_together(
    solution: np.ndarray, steps: np.ndarray, inverse: np.ndarray, *, some: np.ndarray, patterns: list
) -> None:
    """Add steps that were solved for with all of some inputs, each held back to the pattern of its row.

    The inputs that a row lacks get no step, which changes the others by what the block inverse says (Hassibi & Stork,
    eq. 5, for several weights at once): the inverse is of the size of what is lacking, not of what is there.
    """
    for pattern, rows in patterns:
        lacking = np.flatnonzero(~np.isin(some, pattern))
        multipliers = np.linalg.solve(inverse[np.ix_(lacking, lacking)], steps[np.ix_(rows, lacking)].T)
        step = steps[rows] - multipliers.T @ inverse[lacking]
        step[:, lacking] = 0
        solution[np.ix_(rows, some)] += step


def _factor(moments: GramMoments, inputs: np.ndarray, ridge: float) -> np.ndarray:
    """Return the inverse of the lower Cholesky factor of the moments of some inputs."""
    return inverse_of_lower(damped_factor(moments.gram[np.ix_(inputs, inputs)], ridge))


def _patterns(free: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the indices of the free entries of each distinct row that has some, and the indices of equal rows."""
    distinct, which = np.unique(free, axis=0, return_inverse=True)
    for number, pattern in enumerate(distinct):
        if pattern.any():
            yield np.flatnonzero(pattern), np.flatnonzero(which.ravel() == number)


def damped_factor(gram: np.ndarray, ridge: float) -> np.ndarray:
    """Return the lower Cholesky factor of a matrix of moments, whose diagonal is raised until it safely has one.

    Args:
        gram: The moments, of shape (inputs, inputs).
        ridge: The number added to the diagonal, as a fraction of its mean; it is raised where that is not enough.

    Raises:
        ValueError: If the moments are not finite.
    """
    scale = np.trace(gram) / len(gram) or 1.0  # 1 where all inputs are dead
    if not np.isfinite(gram).all():
        raise ValueError(
            "Expected finite moments of the inputs. Received: NaN or infinity; check the data and weights."
        )
    while True:
        damped = gram.copy()
        damped[np.diag_indices(len(gram))] += ridge * scale
        try:
            factor = np.linalg.cholesky(damped)
            if factor.diagonal().min() ** 2 > len(gram) * _PRECISION * scale:
                return factor
        except np.linalg.LinAlgError:
            pass
        ridge = max(10 * ridge, len(gram) * _PRECISION)


def inverse_of_lower(factor: np.ndarray) -> np.ndarray:
    """Return the inverse of a lower triangle, by products of its blocks, which is where NumPy is fast.

    Example:
        >>> inverse_of_lower(np.array([[2.0, 0.0], [1.0, 1.0]]))
        array([[ 0.5,  0. ],
               [-0.5,  1. ]])
    """
    if len(factor) <= _BLOCK:
        return np.tril(np.linalg.inv(factor))
    half = len(factor) // 2
    inverse = np.zeros_like(factor)
    inverse[:half, :half] = inverse_of_lower(factor[:half, :half])
    inverse[half:, half:] = inverse_of_lower(factor[half:, half:])
    inverse[half:, :half] = -inverse[half:, half:] @ (factor[half:, :half] @ inverse[:half, :half])
    return inverse


# A large symmetric matrix from which outer products are subtracted late, many at a time.

_TILE = 512  # rows that are computed at once


class LazySymmetric:
    """A symmetric matrix, of which the blocks of rows up to their diagonal are held.

    Columns are asked for one by one, each with what has not been subtracted yet, and outer products are subtracted
    in one product of matrices: that is bound by arithmetic, where subtracting them one by one is bound by memory.

    Args:
        rows: A matrix R of which R^T R is held; with a lower triangle, zeros are not multiplied.
        is_lower: Whether R is a lower triangle.
    """

    def __init__(self, rows: np.ndarray, *, is_lower: bool = False) -> None:
        size = rows.shape[1]
        self._held = np.zeros((size, size))
        for tile, end in _tiles(size):
            some = rows[tile.start :] if is_lower else rows
            self._held[tile, :end] = some[:, tile].T @ some[:, :end]

    def __len__(self) -> int:
        return len(self._held)

    def diagonal_blocks(self, places: np.ndarray) -> np.ndarray:
        """Return the square blocks at some places, of shape (blocks, size), as (blocks, size, size)."""
        rows, columns = places[:, :, np.newaxis], places[:, np.newaxis, :]
        return self._held[np.maximum(rows, columns), np.minimum(rows, columns)]

    def column(self, place: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return a column of the matrix less `left.T @ right`, which is symmetric as a whole."""
        end = min((place // _TILE + 1) * _TILE, len(self._held))
        held = np.concatenate([self._held[place, :end], self._held[end:, place]])
        return held - left[:, place] @ right

    def subtract(self, left: np.ndarray, right: np.ndarray) -> None:
        """Subtract `left.T @ right`."""
        for tile, end in _tiles(len(self._held)):
            self._held[tile, :end] -= left[:, tile].T @ right[:, :end]

    def keep(self, places: np.ndarray) -> None:
        """Keep some rows and columns, in ascending order."""
        self._held = self._held[np.ix_(places, places)]
        for tile, _ in _tiles(len(self._held)):
            lower = np.tril(self._held[tile, tile])
            self._held[tile, tile] = lower + np.tril(lower, -1).T


def _tiles(size: int) -> Iterator[tuple[slice, int]]:
    for start in range(0, size, _TILE):
        end = min(start + _TILE, size)
        yield slice(start, end), end


# Rounding: the integers that weights become in a file, and the grids of real numbers that they stand for.

_ROUNDING_BLOCK = 32  # weights that share a scale in the 4-bit weights of a language model's file
_SCALE_FACTORS = np.linspace(1, 0.5, 26)  # of the scale that clips nothing, tried for 4 bits


@dataclass(frozen=True, eq=False)
class Grid:
    """The values that the weights of a matrix may have.

    Attributes:
        steps: The distance of two neighboring values, of shape (outputs, inputs) or (outputs, 1); infinite where 0 is
            the only value.
        largest: The largest integer; infinite if none is clipped.
        anchors: Where a weight has the largest integer, of shape (outputs, inputs). The scale of a file follows from
            the largest weight, so that these make it the one of the grid. None for none.
    """

    steps: np.ndarray
    largest: float = np.inf
    anchors: np.ndarray | None = None

    def nearest(self, weights: np.ndarray, inputs: slice = slice(None)) -> np.ndarray:
        """Return the nearest values of the grid.

        Args:
            weights: Weights of some inputs, of shape (outputs, inputs).
            inputs: Which inputs they are.
        """
        steps = self.steps if self.steps.shape[1] == 1 else self.steps[:, inputs]
        finite = np.where(np.isfinite(steps), steps, 1)
        integers = np.where(np.isfinite(steps), np.clip(np.rint(weights / finite), -self.largest, self.largest), 0)
        if self.anchors is not None:
            integers = np.where(self.anchors[:, inputs], np.copysign(self.largest, weights), integers)
        return integers * finite


@dataclass(frozen=True)
class Rounding(Spec):
    """The integers that weights become in a file, for `prune_weights`.

    Use it with `criterion="sparsegpt"` if the sparse model will be exported with 8-bit or 4-bit weights: the
    remaining weights then make up for the zeros and for the rounding together, and the file gets exactly these
    integers.

    Args:
        bits: 8, for `quantize="int8"` and `"dynamic"`, or 4, for `quantize="int4"`.
        block: The number of inputs of an output that share a scale: 32 for the 4-bit weights that `to_generator`
            writes; rows whose length is not a multiple of it then get 8 bits, as in the file. None (the default) for
            one scale for each output, as in the files of `to_tflite`.

    Raises:
        TypeError: If `bits` is not an integer.
        ValueError: If no file has such weights.

    Example:
        >>> import keras
        >>> from tfprune import prune_weights
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> samples = keras.random.normal((64, 8), seed=0)
        >>> sparse, report = prune_weights(model, samples, 0.5, criterion="sparsegpt", rounding=Rounding(4))
        >>> column = keras.ops.convert_to_numpy(sparse.layers[0].kernel)[:, 0]
        >>> integers = column / np.abs(column).max() * 7
        >>> bool(np.allclose(integers, integers.round(), atol=1e-4))
        True

    Reference:
        Frantar & Alistarh, 2023, "SparseGPT", arXiv:2301.00774, section 3.5; Frantar et al., 2022, "GPTQ",
        arXiv:2210.17323.
    """

    bits: int
    block: int | None = None

    def __post_init__(self) -> None:
        check_count(self.bits, "bits", least=1)
        if (self.bits, self.block) not in ((8, None), (4, None), (4, _ROUNDING_BLOCK)):
            raise ArgumentError(
                "bits",
                f"`bits` to be 8 or 4, and `block` to be None, or {_ROUNDING_BLOCK} with bits=4, as in files",
                str(self.bits),
                beside={"block": self.block},
            )


def grid_of(weights: np.ndarray, rounding: Rounding) -> Grid:
    """Return the grid on which a matrix loses least when each weight is rounded to its nearest value.

    Args:
        weights: The weights, of shape (outputs, inputs), without a bias.
        rounding: The integers that they become.

    Example:
        >>> weights = np.array([[0.7, -0.29, 0.0]])
        >>> grid_of(weights, Rounding(4)).nearest(weights).round(3)
        array([[ 0.7, -0.3,  0. ]])
    """
    length = rounding.block or weights.shape[1]
    is_blocked = rounding.block is not None and weights.shape[1] % length == 0
    bits = 8 if rounding.block is not None and not is_blocked else rounding.bits
    rows = weights.reshape(-1, length) if is_blocked else weights
    largest = 2 ** (bits - 1) - 1
    widest = np.abs(rows).max(axis=1, initial=0)
    steps = _best_steps(rows, widest / largest, largest=largest) if bits == 4 else widest / largest
    steps = _as_stored(steps, is_half=is_blocked)
    steps = np.where(steps > 0, steps, np.inf)
    anchors = np.zeros(rows.shape, dtype=bool)
    np.put_along_axis(anchors, np.abs(rows).argmax(axis=1)[:, np.newaxis], np.isfinite(steps)[:, np.newaxis], 1)
    columns = np.repeat(steps.reshape(len(weights), -1), length if is_blocked else 1, axis=1)
    return Grid(columns, largest, anchors.reshape(weights.shape))


def _best_steps(rows: np.ndarray, widest: np.ndarray, *, largest: int) -> np.ndarray:
    """Return the step of each row with the least squared error; the largest weight gets the largest integer."""
    best, least = widest, np.full(len(rows), np.inf)
    for factor in _SCALE_FACTORS:
        steps = np.where(widest > 0, widest * factor, 1)[:, np.newaxis]
        left = np.square(np.clip(np.rint(rows / steps), -largest, largest) * steps - rows).sum(axis=1)
        best, least = np.where(left < least, widest * factor, best), np.minimum(left, least)
    return best


def _as_stored(steps: np.ndarray, *, is_half: bool) -> np.ndarray:
    """Return steps as a file holds them: as float32, or as float16 of 8 bits, which is what XNNPACK reads."""
    if not is_half:
        return steps.astype(np.float32).astype(np.float64)
    bits = steps.astype(np.float32).view(np.uint32)
    return ((bits + 0x8000) & 0xFFFF0000).view(np.float32).astype(np.float16).astype(np.float64)
