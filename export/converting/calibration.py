"""Calibration data: what the integer converter observes to choose the ranges of activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tfprune.export.converting.signature import Signature

MOST_SAMPLES = 500  # ranges settle long before; every sample costs an invocation and space in the job's file


def read_batches(calibration: Any, signature: Signature) -> list[dict[str, np.ndarray]]:
    """Check calibration batches and give every array its input's name.

    Args:
        calibration: An iterable of batches, each an array (one input), or a list or dict of arrays. Reading
            stops after 500 samples.
        signature: The inputs of the model.

    Returns:
        The batches, in order, at most 500 samples together.

    Raises:
        ValueError: If it is an array instead of batches, is empty, or a batch does not fit the inputs.
    """
    example = _example(signature)
    is_array = hasattr(calibration, "shape")
    if is_array or isinstance(calibration, Mapping | str) or not isinstance(calibration, Iterable):
        shape = f" of shape {tuple(calibration.shape)}" if is_array else ""
        raise ValueError(
            f"Expected `calibration` to be a list or generator of batches, such as {example}. "
            f"Received: one {type(calibration).__name__}{shape}. Cut it into batches."
        )
    batches: list[dict[str, np.ndarray]] = []
    room = MOST_SAMPLES
    for position, batch in enumerate(calibration):
        arrays = signature.arrays(batch, f"calibration batch {position}")
        batches.append({name: array[:room] for name, array in arrays.items()})
        room -= _length(batches[-1])
        if room <= 0:
            break
    if not batches:
        raise ValueError(
            f"Expected `calibration` to hold at least one batch, such as {example}. Received: none. "
            "A generator that was read before is empty; make a new one."
        )
    return batches


def split(batches: Iterable[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """Split batches into single samples that keep a batch dimension of 1."""
    return [
        {name: array[row : row + 1] for name, array in batch.items()}
        for batch in batches
        for row in range(_length(batch))
    ]


def _length(batch: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(batch.values())))


def _example(signature: Signature) -> str:
    if signature.form == "array" or len(signature.inputs) == 1:
        return "[x[:32], x[32:64]]"
    if signature.form == "list":
        parts = ", ".join(f"x{index}[:32]" for index in range(len(signature.inputs)))
        return f"[[{parts}], ...]"
    return "[{" + ", ".join(f"{name!r}: x_{name}[:32]" for name in signature.names) + "}, ...]"
