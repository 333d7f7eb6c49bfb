"""Whether two models, layers or functions return the same, and how far apart their outputs are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np


@dataclass(frozen=True)
class Tolerance:
    """How far apart two outputs may be and still count as the same.

    Attributes:
        relative: Fraction of the expected entry.
        of_largest: Fraction of the largest entry of the expected array.
        absolute: Difference that is allowed everywhere.
        nan_is_same: Whether NaN equals NaN.
    """

    relative: float = 0.0
    of_largest: float = 0.0
    absolute: float = 0.0
    nan_is_same: bool = False


EXACT = Tolerance()
ROUNDED = Tolerance(relative=1e-3, of_largest=1e-4)  # the same sums in another order, through many layers


def as_arrays(outputs: Any) -> list[np.ndarray]:
    """Return the tensors in a structure as arrays of float32."""
    leaves = keras.tree.flatten(outputs)
    return [np.asarray(keras.ops.convert_to_numpy(leaf)).astype(np.float32, copy=False) for leaf in leaves]


def same_outputs(outputs: Any, expected: Any, *, tolerance: Tolerance = ROUNDED) -> bool:
    """Tell whether two structures of tensors have the same number of tensors, their shapes, and their values.

    Example:
        >>> same_outputs([keras.ops.ones(2)], [keras.ops.ones(2) * 1.0001])
        True
        >>> same_outputs([keras.ops.ones(2)], [keras.ops.ones(3)])
        False
    """
    arrays, others = as_arrays(outputs), as_arrays(expected)
    return len(arrays) == len(others) and all(
        _is_close(array, other, tolerance) for array, other in zip(arrays, others, strict=True)
    )


def _is_close(array: np.ndarray, expected: np.ndarray, tolerance: Tolerance) -> bool:
    if array.shape != expected.shape:
        return False
    largest = np.abs(expected[np.isfinite(expected)]).max(initial=0)
    atol = tolerance.absolute + tolerance.of_largest * largest
    return np.allclose(array, expected, rtol=tolerance.relative, atol=atol, equal_nan=tolerance.nan_is_same)


class LargestDifference:
    """The largest difference of any output over several batches, as a fraction of the largest expected entry.

    Example:
        >>> difference = LargestDifference()
        >>> difference.add([keras.ops.ones(2)], [keras.ops.full((2,), 2.0)])
        >>> difference.fraction
        0.5
    """

    def __init__(self) -> None:
        self._largest = self._apart = 0.0

    def add(self, outputs: Any, expected: Any) -> None:
        """Take the outputs of one batch, and what they are compared with."""
        for array, other in zip(as_arrays(outputs), as_arrays(expected), strict=True):
            self._largest = max(self._largest, float(np.abs(other).max(initial=0)))
            self._apart = max(self._apart, float(np.abs(array - other).max(initial=0)))

    @property
    def fraction(self) -> float:
        """The difference; it is absolute where only zeros are expected."""
        return self._apart / self._largest if self._largest else self._apart


def difference_in_words(difference: float | None, *, is_same: bool | None, samples: int) -> str:
    """Return a sentence on the outputs of two models; without a difference they were not compared.

    Example:
        >>> difference_in_words(0.5, is_same=False, samples=64)
        'The outputs differ by up to 5.0e-01 on 64 samples.'
    """
    if difference is None:
        return "The outputs were not compared: pass samples."
    measured = f"{difference:.1e} on {f'{samples} samples' if samples else 'random numbers'}"
    return f"The outputs {f'are the same (difference {measured})' if is_same else f'differ by up to {measured}'}."
