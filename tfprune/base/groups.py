"""Groups of samples, by class or by another value such as the speaker, and the interval of what one lost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

NORMAL = NormalDist()


@dataclass(frozen=True)
class SampleGroup:
    """The samples of one class, or of one value of a group.

    Attributes:
        grouping: What the samples are grouped by: `"class"`, or a name of `groups`.
        value: The class or the value, as text.
        inside: Whether each sample belongs to it, (samples,).
    """

    grouping: str
    value: str
    inside: np.ndarray


def class_groups(labels: np.ndarray, names: list[str]) -> list[SampleGroup]:
    """Return a group for each class that occurs."""
    return [SampleGroup("class", names[label], labels == label) for label in np.unique(labels)]


def read_groups(groups: Any, samples: int) -> list[SampleGroup]:
    """Return a group for each value of each grouping.

    Args:
        groups: A dict of arrays (samples,) by name, one such array, or None.
        samples: The number of samples.

    Raises:
        TypeError: If the values are not whole numbers, truth values or strings.
        ValueError: If an array has another length.
    """
    if groups is None:
        return []
    named = groups if isinstance(groups, Mapping) else {"group": groups}
    return [group for name, values in named.items() for group in _of_values(str(name), values, samples)]


def paired_interval(lost: int, gained: int, *, samples: int, level: float) -> tuple[float, float]:
    """Return the interval of Bonett and Price of the accuracy that was lost, from pairs of answers.

    It is the interval of Wald after one more loss and one more gain, so that few samples give a wide interval, even
    if none of them flipped.

    Args:
        lost: Samples that only the model before gets right.
        gained: Samples that only the model after gets right.
        samples: The number of samples.
        level: The coverage, such as 0.95.

    Source: D. G. Bonett and R. M. Price, "Adjusted Wald confidence interval for a difference of binomial proportions
    based on paired data", Journal of Educational and Behavioral Statistics 2012.
    """
    down, up = (lost + 1) / (samples + 2), (gained + 1) / (samples + 2)
    half = NORMAL.inv_cdf((1 + level) / 2) * math.sqrt((down + up - (down - up) ** 2) / (samples + 2))
    return max(-1.0, down - up - half), min(1.0, down - up + half)


def _of_values(name: str, values: Any, samples: int) -> list[SampleGroup]:
    array = np.asarray(values)
    if array.dtype.kind == "O" and all(isinstance(value, str) for value in array.flat):
        array = array.astype(str)
    if array.dtype.kind not in "biuSU":
        raise TypeError(
            f"Expected whole numbers, truth values or strings in groups[{name!r}]. Received: values of type "
            f"{array.dtype}. Put measured numbers into bins first, for example with numpy.digitize."
        )
    if array.shape != (samples,):
        raise ValueError(
            f"Expected one value for each of the {samples:,} samples in groups[{name!r}]. Received: an array of "
            f"shape {array.shape}."
        )
    if name == "class":
        raise ValueError("Expected another name than 'class' in `groups`: the classes of the labels have it.")
    distinct, place = np.unique(array, return_inverse=True)
    return [SampleGroup(name, _text(value), place == index) for index, value in enumerate(distinct)]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
