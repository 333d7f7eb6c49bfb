"""Least squares on streamed statistics: the weights that keep an output when some of its inputs go.

Weights are matrices of outputs by inputs. Memory does not grow with the number of samples: only their second moments
are kept, in double precision.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np

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
