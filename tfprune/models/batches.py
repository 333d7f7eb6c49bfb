"""Data, read batch by batch, each checked before it reaches the model."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np

_ROWS = 32  # of arrays in one batch, as in `fit` and `predict`
_EMPTY = "Expected `data` with at least one sample. Received: none. Is an iterator used up?"


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
    is_known = isinstance(data, (Iterable, keras.utils.PyDataset)) or hasattr(data, "shape")
    if isinstance(data, str) or not is_known:
        raise TypeError(
            f"Expected `data` to be a tuple (x, y) of arrays, a data set, or an iterable of batches. Received: an "
            f"object of type {type(data).__name__}."
        )
    endless = hasattr(data, "cardinality") and int(data.cardinality()) == -1
    if endless or (isinstance(data, keras.utils.PyDataset) and data.num_batches is None):
        raise ValueError(
            "Expected `data` to end. Received a data set without end, as after repeat(). Pass a part of it, such as "
            "data.take(100)."
        )


def batches(data: Any, *, rows: int = _ROWS) -> Iterator[Batch]:
    """Yield the batches of arrays, a data set or an iterable.

    Args:
        data: A tuple (x,), (x, y) or (x, y, sample weights) of arrays, or x alone, cut into batches; a
            `tf.data.Dataset`, a `keras.utils.PyDataset` or an iterable, of batches in one of these forms.
        rows: Samples in a batch of arrays.

    Raises:
        ValueError: For data without a sample.
    """
    is_empty = True
    for batch in _read(data, rows):
        if size_of(batch):
            is_empty = False
            yield batch
    if is_empty:
        raise ValueError(_EMPTY)


def _read(data: Any, rows: int) -> Iterator[Batch]:
    if hasattr(data, "shape") or isinstance(data, dict):
        data = (data,)
    if isinstance(data, tuple):
        yield from _cut(_as_batch(data), rows)
    elif isinstance(data, keras.utils.PyDataset):
        yield from (_as_batch(data[place]) for place in range(data.num_batches))
    else:
        yield from map(_as_batch, data)


def _as_batch(value: Any) -> Batch:
    parts = value if isinstance(value, tuple) else (value,)
    if not 1 <= len(parts) <= 3:
        raise ValueError(f"Expected batches (x,), (x, y) or (x, y, sample weights). Received: {len(parts)} parts.")
    return Batch(*keras.tree.map_structure(np.asarray, parts, none_is_leaf=False))


def _cut(whole: Batch, rows: int) -> Iterator[Batch]:
    for start in range(0, size_of(whole), rows):
        part = operator.itemgetter(slice(start, start + rows))
        yield Batch(*keras.tree.map_structure(part, tuple(whole), none_is_leaf=False))


def _arrays(structure: Any) -> list[np.ndarray]:
    return [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]


def size_of(batch: Batch) -> int:
    """Return the number of samples in a batch.

    Raises:
        ValueError: If its arrays differ in it.
    """
    sizes = sorted({array.shape[0] if array.ndim else 0 for array in _arrays(tuple(batch))})
    if len(sizes) > 1:
        raise ValueError(f"Expected the arrays of `data` to have the same number of samples. Received: {sizes}.")
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
                f"{_listed(received)}."
            )
    for array in _arrays(tuple(batch)):
        if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
            raise ValueError("Expected finite numbers in `data`. Received: NaN or infinity. Clean the data first.")


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
            "Expected `data` with class labels, which the criterion compares. Received: inputs only. Pass (x, y)."
        )
    if not isinstance(batch.y, np.ndarray):
        raise ValueError(f"Expected one array of class labels in `data`. Received: a {type(batch.y).__name__}.")
    labels = batch.y
    if labels.ndim == 2 and labels.shape[1] > 1:
        is_one_hot = np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()
        labels = labels.argmax(axis=1) if is_one_hot else labels
    labels = labels.reshape(-1) if labels.shape[1:] == (1,) else labels
    if labels.ndim != 1 or not np.array_equal(labels, np.asarray(labels).astype(np.int64)):
        raise ValueError(
            f"Expected class labels in `data`: integers of shape (samples,), or one-hot. Received: shape "
            f"{batch.y.shape}, dtype {batch.y.dtype}."
        )
    return labels.astype(np.int64)


class Batches:
    """Data for a graph model that are read again and again.

    Args:
        data: As `batches` takes them, no iterator.
        model: The model.
        batch_size: Samples in a batch of arrays; a data set has batches of its own.

    Raises:
        TypeError: For data of another type, or that can be read once only.
        ValueError: For a data set without end.
    """

    def __init__(self, data: Any, model: keras.Model, *, batch_size: int) -> None:
        check_source(data)
        if isinstance(data, Iterator):
            raise TypeError(
                f"Expected `data` that can be read again and again. Received: an iterator of type "
                f"{type(data).__name__}. Pass a list of its batches."
            )
        self._data, self._model, self._rows = data, model, batch_size

    def __iter__(self) -> Iterator[tuple[list[np.ndarray], Any]]:
        """Yield the arrays for the inputs of the model, in order, and the targets, None if there are none.

        Raises:
            ValueError: If there are no data, they do not fit the model, or have NaN or infinity.
        """
        names = [tensor.name for tensor in self._model.inputs]
        for batch in batches(self._data, rows=self._rows):
            check_batch(batch, self._model)
            is_named = isinstance(batch.x, dict) and set(names) <= batch.x.keys()
            yield _arrays([batch.x[name] for name in names] if is_named else batch.x), batch.y
