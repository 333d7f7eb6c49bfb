"""Lists of arrays and of masks, as clients and server exchange them: checked, and counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Arrays = list[np.ndarray]
Masks = list[np.ndarray | None]  # None: all entries


def check_arrays(value: Any, argument: str, *, like: Sequence[np.ndarray] | None = None) -> Arrays:
    """Return the arrays of a model.

    Args:
        value: The value to check.
        argument: The name of the argument, for the message.
        like: Arrays whose number and shapes they must have; None takes any.

    Raises:
        TypeError: If they are not a list of numbers.
        ValueError: If their number or shapes are others.

    Example:
        >>> check_arrays([[1.0, 2.0]], "server")[0].shape
        (2,)
    """
    arrays = _each(value, argument, "arrays, as get_weights() returns them")
    for index, array in enumerate(arrays):
        if array is None or not np.issubdtype(array.dtype, np.number) and array.dtype != bool:
            raise TypeError(f"Expected `{argument}` to hold arrays of numbers. Received: {array!r} at index {index}.")
    if like is not None:
        _check_shapes(arrays, argument, like)
    return arrays


def check_masks(value: Any, argument: str, *, like: Sequence[np.ndarray] | None = None) -> Masks:
    """Return masks as booleans; None stands for all entries of an array.

    Args:
        value: The value to check: None for masks that hide nothing, else a list.
        argument: The name of the argument, for the message.
        like: The arrays that the masks are for; None takes any shapes.

    Raises:
        TypeError: If they are not a list.
        ValueError: If a mask holds something other than 0 and 1, or their number or shapes are others.

    Example:
        >>> check_masks([[1, 0], None], "masks")
        [array([ True, False]), None]
    """
    if value is None and like is not None:
        return [None] * len(like)
    masks = _each(value, argument, "masks, None for an array of which all entries are kept")
    for index, mask in enumerate(masks):
        if mask is not None and mask.dtype != bool and not np.isin(mask, (0, 1)).all():
            raise ValueError(
                f"Expected `{argument}` to hold zeros and ones. Received: {mask.dtype} at index {index} with other "
                f"values. Pass weight != 0 for the mask of a weight."
            )
    if like is not None:
        _check_shapes(masks, argument, like)
    return [None if mask is None else mask.astype(bool) for mask in masks]


def check_each(parts: Any, argument: str, *, count: int | None = None) -> list[Any]:
    """Return a list with an entry for each client.

    Args:
        parts: The value to check.
        argument: The name of the argument, for the message.
        count: The number of clients; None takes any number above 0.

    Raises:
        TypeError: If it is not iterable.
        ValueError: If there are not `count`, or none.
    """
    if isinstance(parts, (str, bytes)) or not isinstance(parts, Iterable):
        raise TypeError(f"Expected `{argument}` to be a list, one entry for each. Received: {type(parts).__name__}.")
    entries = list(parts)
    if len(entries) != count if count is not None else not entries:
        expected = f"{count} entries" if count is not None else "an entry for each client"
        raise ValueError(f"Expected `{argument}` to hold {expected}. Received: {len(entries)}.")
    return entries


def kept_entries(array: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return the entries of an array under its mask, in row-major order."""
    return array.ravel() if mask is None else array[mask]


def count_unmasked(arrays: Sequence[np.ndarray], masks: Sequence[np.ndarray | None]) -> int:
    """Count the entries that masks keep."""
    return sum(
        array.size if mask is None else int(np.count_nonzero(mask)) for array, mask in zip(arrays, masks, strict=True)
    )


def masked(arrays: Sequence[np.ndarray], masks: Sequence[np.ndarray | None]) -> Arrays:
    """Return copies of arrays, with zeros where their masks are 0."""
    return [
        array.copy() if mask is None else np.where(mask, array, array.dtype.type(0))
        for array, mask in zip(arrays, masks, strict=True)
    ]


def _each(value: Any, argument: str, content: str) -> list[Any]:
    if isinstance(value, (str, bytes, dict, np.ndarray)) or not isinstance(value, Iterable):
        raise TypeError(
            f"Expected `{argument}` to be a list of {content}. Received: {type(value).__name__}. Pass one entry for "
            f"each weight of the model."
        )
    return [None if entry is None else np.asarray(entry) for entry in value]


def _check_shapes(values: list[Any], argument: str, like: Sequence[np.ndarray]) -> None:
    if len(values) != len(like):
        raise ValueError(
            f"Expected `{argument}` to hold {len(like)} entries, one for each weight of the model. Received: "
            f"{len(values)}."
        )
    for index, (value, other) in enumerate(zip(values, like, strict=True)):
        if value is not None and value.shape != other.shape:
            raise ValueError(
                f"Expected `{argument}` to have the shape {other.shape} at index {index}. Received: {value.shape}. "
                f"Clients and server need the same model."
            )
