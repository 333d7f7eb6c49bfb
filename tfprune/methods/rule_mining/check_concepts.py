"""Concepts as users give them: 0 or 1 for each sample, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def check_concepts(concepts: Any, *, count: int) -> dict[str, np.ndarray]:
    """Return each concept as booleans, (samples,).

    Raises:
        TypeError: If it is not a dict of names.
        ValueError: If it is empty, an array has another shape, is neither 0 nor 1 everywhere, or is the same
            everywhere.
    """
    if not isinstance(concepts, Mapping) or not all(isinstance(name, str) for name in concepts):
        raise TypeError(
            f"Expected `concepts` to be a dict from names to arrays of 0 and 1. Received: an object of type "
            f"{type(concepts).__name__}."
        )
    if not concepts:
        raise ValueError("Expected `concepts` with at least one concept. Received: none.")
    return {name: _as_booleans(name, np.asarray(values), count) for name, values in concepts.items()}


def _as_booleans(name: str, values: np.ndarray, count: int) -> np.ndarray:
    if values.shape != (count,):
        raise ValueError(
            f"Expected one 0 or 1 for each of the {count} `samples` as concepts[{name!r}]. Received: an array "
            f"of shape {values.shape}."
        )
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        wrong = [value for value in np.unique(values).tolist() if value not in (0, 1)]
        raise ValueError(f"Expected 0 or 1 for each sample as concepts[{name!r}]. Received: {wrong[:3]}.")
    labels = values.astype(bool)
    check_both(name, labels, where="`samples`")
    return labels


def check_both(name: str, labels: np.ndarray, *, where: str) -> None:
    """Refuse a concept that all samples have, or none.

    Raises:
        ValueError: Naming the concept and where it is looked for.
    """
    there = int(np.count_nonzero(labels))
    if there in (0, labels.size):
        raise ValueError(
            f"Expected samples with {name!r} and without it among {where}. Received: {there} with it of "
            f"{labels.size}. Pass more samples, or leave the concept out."
        )


def with_negations(labels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add `not c` for each concept `c`, unless there is a concept of that name already."""
    return dict(labels) | {negation(name): ~values for name, values in labels.items() if negation(name) not in labels}


def negation(concept: str) -> str:
    """Return the name of the samples without a concept."""
    return f"not {concept}"
