"""Split zeros over the layers of a network, so that its outputs change least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

# Sparsities at which an error is measured. At the last one no weight can have fewer zeros than another.
LEVELS = np.array([0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99])
FINE = np.linspace(0, LEVELS[-1], 100)
HALVINGS = 60
SAMPLES_FELT = 16  # of which the outputs are compared while one weight alone has zeros
LEVEL_FELT = 3  # of `LEVELS`, the sparsity of that weight
TINY = 1e-15
ROUNDING = 1e-12  # of the square of float32 values


@dataclass(frozen=True, eq=False)
class ErrorCurve:
    """What zeros in one weight cost.

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
    if sparsity > FINE[-1]:  # where no error was measured
        return [max(sparsity, curve.zeros) for curve in curves]
    costs = np.stack([_on_fine_levels(curve) for curve in curves])
    sizes = np.array([curve.size for curve in curves], np.float64)
    wanted = sparsity * sizes.sum()
    low, high = -60.0, 60.0  # logarithms of what a zero may cost
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        gain = np.exp(middle) * sizes[:, np.newaxis] * FINE
        shares = FINE[np.argmin(costs - gain, axis=1)]
        low, high = (low, middle) if shares @ sizes >= wanted else (middle, high)
    gains = np.exp(high) * sizes[:, np.newaxis] * FINE, np.exp(low) * sizes[:, np.newaxis] * FINE
    above, below = (FINE[np.argmin(costs - gain, axis=1)] for gain in gains)
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
    return spread if spread > ROUNDING * float(np.square(values).mean()) else 0.0


def _on_fine_levels(curve: ErrorCurve) -> np.ndarray:
    """Interpolate a curve, and keep its convex part: what lies above that is never the best choice."""
    errors = np.maximum.accumulate(np.maximum(curve.errors, TINY))
    # Errors grow about exponentially between two levels, and before the first with the square of the sparsity.
    fine = np.exp(np.interp(FINE, LEVELS, np.log(errors))) * np.minimum(FINE / LEVELS[0], 1) ** 2
    hull = [0]
    for index in range(1, len(FINE)):
        while len(hull) > 1 and _slope(fine, hull[-2], hull[-1]) >= _slope(fine, hull[-1], index):
            hull.pop()
        hull.append(index)
    return np.where(curve.zeros > FINE, 0, np.interp(FINE, FINE[hull], fine[hull]))


def _slope(errors: np.ndarray, start: int, end: int) -> float:
    return (errors[end] - errors[start]) / (FINE[end] - FINE[start])
