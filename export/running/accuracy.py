"""How often a file that tells classes is right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def check_labels(labels: Any) -> np.ndarray:
    """Return the number of the class of each sample, (samples,).

    Raises:
        ValueError: If they are something else than one whole number for each sample.
    """
    array = np.asarray(labels)
    column = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if column.ndim != 1 or not np.issubdtype(column.dtype, np.integer):
        advice = " Pass labels.argmax(axis=1)." if array.ndim == 2 else ""
        raise ValueError(
            f"Expected the number of its class for each sample in `labels`. Received: an array of shape "
            f"{array.shape} and type {array.dtype}.{advice}"
        )
    return column


def accuracy_of(outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> float:
    """Return the fraction of samples whose largest output is that of their class.

    Args:
        outputs: What a file gave, by the name of the output.
        labels: The number of the class of each sample, (samples,).

    Raises:
        ValueError: If there is not one output of shape (samples, classes), or a label is not one of the classes.
    """
    shapes = {name: array.shape for name, array in outputs.items()}
    output = next(iter(outputs.values()))
    if len(outputs) != 1 or output.ndim != 2 or output.shape[1] < 2 or len(output) != len(labels):
        raise ValueError(
            f"Expected one output of shape ({len(labels)}, classes) to compare with `labels`. Received: {shapes}."
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < output.shape[1]:
        raise ValueError(
            f"Expected `labels` from 0 to {output.shape[1] - 1}, the classes of the file. Received: from "
            f"{labels.min()} to {labels.max()}."
        )
    return float(np.mean(output.argmax(axis=1) == labels))
