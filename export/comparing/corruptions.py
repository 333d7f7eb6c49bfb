"""Corruptions of samples, such as noise and blur: a pruned model may have less margin for them than before.

Reference: Hendrycks & Dietterich, 2019, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", arXiv:1903.12261.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfprune.base.spec import check_number

Corruption = Callable[[np.ndarray], np.ndarray]
KERNEL = np.array([0.25, 0.5, 0.25])  # one pass of the blur along one axis


def noise(x: np.ndarray, amount: float) -> np.ndarray:
    """Add normal noise with `amount` times the standard deviation of the samples."""
    return x + amount * x.std() * np.random.default_rng(0).standard_normal(x.shape)


def blur(x: np.ndarray, amount: float) -> np.ndarray:
    """Average neighbors along height and width, or time, in `amount` passes."""
    for axis in _places(x):
        for _ in range(max(round(amount), 1)):
            padded = np.pad(x, [(int(dim == axis),) * 2 for dim in range(x.ndim)], mode="edge")
            parts = [np.take(padded, range(start, start + x.shape[axis]), axis=axis) for start in range(3)]
            x = sum(weight * part for weight, part in zip(KERNEL, parts, strict=True))
    return x


def gain(x: np.ndarray, amount: float) -> np.ndarray:
    """Multiply by `amount`."""
    return amount * x


def shift(x: np.ndarray, amount: float) -> np.ndarray:
    """Move the samples along their width or time by `amount` of its length, and repeat the first values."""
    axis = _places(x)[-1]
    source = np.maximum(np.arange(x.shape[axis]) - max(round(amount * x.shape[axis]), 1), 0)
    return np.take(x, source, axis=axis)


CORRUPTIONS: dict[str, tuple[Callable[[np.ndarray, float], np.ndarray], float]] = {
    "noise": (noise, 0.2),
    "blur": (blur, 1),
    "gain": (gain, 0.5),
    "shift": (shift, 0.1),
}


def corruptions_of(
    corruptions: str | Sequence[str] | Mapping[str, float | Corruption] | None,
) -> dict[str, Corruption]:
    """Return a function from samples to corrupted samples for each name.

    Args:
        corruptions: Names of `CORRUPTIONS`, or a dict from names to amounts, or to functions of the user.

    Raises:
        TypeError: If a value is neither a number nor a function.
        ValueError: If a name is not known and has no function.
    """
    names = (corruptions,) if isinstance(corruptions, str) else corruptions or ()
    amounts = names if isinstance(names, Mapping) else dict.fromkeys(names)
    functions: dict[str, Corruption] = {}
    for name, amount in amounts.items():
        if callable(amount):
            functions[name] = amount
        elif name in CORRUPTIONS:
            function, default = CORRUPTIONS[name]
            value = default if amount is None else check_number(amount, f"corruptions[{name!r}]", least=0)
            functions[name] = _known(function, value)
        else:
            raise ValueError(
                f"Expected `corruptions` to be names out of {', '.join(map(repr, CORRUPTIONS))}, or a dict with a "
                f"function from samples to samples for any other name. Received: {name!r}."
            )
    return functions


def corrupted(x: Any, corruption: Corruption, *, name: str) -> np.ndarray:
    """Return corrupted samples of the same shape and type.

    Raises:
        TypeError: If the samples are not one array of measured numbers.
        ValueError: If the function returns another shape.
    """
    is_measured = isinstance(x, np.ndarray) and (x.dtype.kind == "f" or x.dtype in (np.uint8, np.int8, np.int16))
    if not is_measured:
        kind = f"an array of {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
        raise TypeError(
            "Expected one array of measured numbers as samples for `corruptions`: floats, or integers of 8 or 16 "
            f"bits. Received: {kind}."
        )
    values = np.asarray(corruption(x))
    if values.shape != x.shape:
        raise ValueError(
            f"Expected corruption {name!r} to return samples of shape {x.shape}. Received: {values.shape}."
        )
    return values.astype(x.dtype)


def _known(function: Callable[[np.ndarray, float], np.ndarray], amount: float) -> Corruption:
    """Return a corruption that stays within the range of the samples, and between integers rounds."""

    def corruption(x: np.ndarray) -> np.ndarray:
        values = np.clip(function(x.astype(np.float32), amount), x.min(), x.max())
        return values if x.dtype.kind == "f" else np.rint(values)

    return corruption


def _places(x: np.ndarray) -> list[int]:
    """Return the axes of places: all between samples and channels."""
    if x.ndim < 3:
        raise ValueError(
            "Expected samples of shape (samples, ..., channels) with a height and width, or a time, for 'blur' and "
            f"'shift'. Received: {x.shape}."
        )
    return [*range(1, x.ndim - 1)]
