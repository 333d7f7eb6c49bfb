"""The data that evidence is gathered from, batch by batch, each checked before it reaches the model."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

_ROWS = 32  # of arrays in one batch, as in `fit` and `predict`


class Batch(NamedTuple):
    """Inputs, and what is known of them; any may be a structure of arrays."""

    x: Any
    y: Any = None
    sample_weight: Any = None


def check_source(data: Any) -> None:
    """Refuse what holds no batches.

    Raises:
        TypeError: If it is none of what `batches` takes.
        ValueError: For a data set without end.
    """
    if isinstance(data, (str, dict)) or not (
        isinstance(data, (Iterable, keras.utils.PyDataset)) or hasattr(data, "shape")
    ):
        raise TypeError(
            f"Expected `data` to be a tuple (x, y) of arrays, a data set, or an iterable of batches. Received: an "
            f"object of type {type(data).__name__}"
        )
    endless = hasattr(data, "cardinality") and int(data.cardinality()) == -1
    if endless or (isinstance(data, keras.utils.PyDataset) and data.num_batches is None):
        raise ValueError(
            "Expected `data` to end. Received a data set without end, as after repeat(). Pass a part of it, such as "
            "data.take(100)"
        )


def batches(data: Any) -> Iterator[Batch]:
    """Yield the batches of arrays, a data set or an iterable.

    Args:
        data: A tuple (x,), (x, y) or (x, y, sample weights) of arrays, or x alone, cut into batches of 32; a
            `tf.data.Dataset`, a `keras.utils.PyDataset` or an iterable, of batches in one of these forms.
    """
    if hasattr(data, "shape"):
        data = (data,)
    if isinstance(data, tuple):
        yield from _cut(_as_batch(data))
    elif isinstance(data, keras.utils.PyDataset):
        yield from (_as_batch(data[place]) for place in range(data.num_batches))
    else:
        yield from map(_as_batch, data)


def _as_batch(value: Any) -> Batch:
    parts = value if isinstance(value, tuple) else (value,)
    if not 1 <= len(parts) <= 3:
        raise ValueError(f"Expected batches (x,), (x, y) or (x, y, sample weights). Received: {len(parts)} parts")
    return Batch(*keras.tree.map_structure(np.asarray, parts, none_is_leaf=False))


def _cut(whole: Batch) -> Iterator[Batch]:
    for start in range(0, size_of(whole), _ROWS):
        rows = slice(start, start + _ROWS)
        yield Batch(*keras.tree.map_structure(operator.itemgetter(rows), tuple(whole), none_is_leaf=False))


def _arrays(structure: Any) -> list[np.ndarray]:
    return [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]


def size_of(batch: Batch) -> int:
    """Return the number of samples in a batch.

    Raises:
        ValueError: If its arrays differ in it.
    """
    sizes = sorted({array.shape[0] if array.ndim else 0 for array in _arrays(tuple(batch))})
    if len(sizes) > 1:
        raise ValueError(f"Expected the arrays of `data` to have the same number of samples. Received: {sizes}")
    return sizes[0] if sizes else 0


def check_batch(batch: Batch, model: keras.layers.Layer) -> None:
    """Refuse a batch that the model cannot take.

    Raises:
        ValueError: If its arrays differ in length, have another shape than the model's inputs, or hold NaN or
            infinity.
    """
    size_of(batch)
    arrays = _arrays(batch.x)
    inputs = getattr(model, "inputs", None)  # subclassed models have none
    if inputs:
        expected = [tuple(one.shape) for one in inputs]
        received = [array.shape for array in arrays]
        if len(expected) != len(received) or not all(map(_fits, received, expected)):
            raise ValueError(
                f"Expected `data` with inputs of shape {_listed(expected)}, as {model.name!r} takes. Received: "
                f"{_listed(received)}"
            )
    for array in _arrays(tuple(batch)):
        if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
            raise ValueError("Expected finite numbers in `data`. Received: NaN or infinity. Clean the data first")


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(b in (None, a) for a, b in zip(shape, expected, strict=True))


def _listed(shapes: list[tuple]) -> str:
    return ", ".join(map(str, shapes)) or "none"


def classes_of(batch: Batch) -> np.ndarray:
    """Return the class of each sample of a batch, (samples,).

    Raises:
        ValueError: If there are no labels, or they are neither integers nor one-hot.
    """
    if batch.y is None:
        raise ValueError(
            "Expected `data` with class labels, which the criterion compares. Received: inputs only. Pass (x, y)"
        )
    if not isinstance(batch.y, np.ndarray):
        raise ValueError(f"Expected one array of class labels in `data`. Received: a {type(batch.y).__name__}")
    labels = batch.y
    if labels.ndim == 2 and labels.shape[1] > 1:
        is_one_hot = np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()
        labels = labels.argmax(axis=1) if is_one_hot else labels
    labels = labels.reshape(-1) if labels.shape[1:] == (1,) else labels
    if labels.ndim != 1 or not np.array_equal(labels, np.asarray(labels).astype(np.int64)):
        raise ValueError(
            f"Expected class labels in `data`: integers of shape (samples,), or one-hot. Received: shape "
            f"{batch.y.shape}, dtype {batch.y.dtype}"
        )
    return labels.astype(np.int64)
