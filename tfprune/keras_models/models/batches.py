"""Data, read batch by batch, each checked before it reaches the model."""

from __future__ import annotations

import itertools
import numbers
import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

_ROWS = 32  # of arrays in one batch, as in `fit` and `predict`


class Batch(NamedTuple):
    """Inputs, and what is known of them; any may be a structure of arrays.

    `classes` are the labels that criteria compare, where `y` numbers the classes of one episode only.
    """

    x: Any
    y: Any = None
    sample_weight: Any = None
    classes: Any = None


def check_kind(data: Any, *, argument: str = "data") -> None:
    """Refuse what holds no batches.

    Args:
        data: What the user passed.
        argument: The name it was passed under, for the message.

    Raises:
        TypeError: If `batches` cannot read it.
    """
    is_known = isinstance(data, (Iterable, keras.utils.PyDataset)) or hasattr(data, "shape")
    if isinstance(data, (str, bytes)) or not is_known:
        raise TypeError(
            f"Expected `{argument}` to be a tuple (x, y) of arrays, a dataset, or an iterable of batches. Received: "
            f"an object of type {type(data).__name__}."
        )


def check_source(data: Any, *, argument: str = "data") -> None:
    """Refuse what holds no batches, or never ends.

    Raises:
        TypeError: If `batches` cannot read it.
        ValueError: If it is a dataset without an end.
    """
    check_kind(data, argument=argument)
    endless = hasattr(data, "cardinality") and int(data.cardinality()) == -1
    if endless or (isinstance(data, keras.utils.PyDataset) and data.num_batches is None):
        raise ValueError(
            f"Expected `{argument}` to end. Received: a dataset without an end, as after repeat(). Pass a part of "
            f"it, such as {argument}.take(100)."
        )


def batches(
    data: Any, *, rows: int | None = _ROWS, inputs: int | None = None, argument: str = "data"
) -> Iterator[Batch]:
    """Yield the batches of arrays, a dataset or an iterable.

    Args:
        data: A tuple (x,), (x, y) or (x, y, sample weights) of arrays, or x alone, cut into batches; a
            `tf.data.Dataset`, a `keras.utils.PyDataset` or an iterable, of batches in one of these forms.
        rows: Samples in a batch of arrays; None takes all of them as one batch.
        inputs: Number of inputs of the model. With several, a list or tuple of arrays is x. With one, a batch may be
            a list [x, y], as PyTorch's loaders give it. None, if it is not known, takes a tuple as (x, y), a list
            of arrays in a batch as x.
        argument: The name that the user passed `data` under, for messages.

    Raises:
        TypeError: If a batch holds numbers in lists instead of arrays.
        ValueError: If there is no sample, a batch has more parts than (x, y, sample weights), or its arrays differ
            in length.
    """
    is_empty = True
    for batch in _read(data, rows, inputs, argument):
        if size_of(batch, argument=argument):
            is_empty = False
            yield batch
    if is_empty:
        raise ValueError(f"Expected `{argument}` with at least one sample. Received: none. Is an iterator used up?")


def _read(data: Any, rows: int | None, inputs: int | None, argument: str) -> Iterator[Batch]:
    if hasattr(data, "shape") or isinstance(data, (Mapping, tuple)) or _is_list_of_inputs(data, inputs):
        yield from _cut(_as_batch(data, inputs, argument), rows, argument)
    elif isinstance(data, keras.utils.PyDataset):
        indices = itertools.count() if data.num_batches is None else range(data.num_batches)
        yield from (_as_batch(data[index], inputs, argument) for index in indices)
    else:
        yield from (_as_batch(batch, inputs, argument) for batch in data)


def _is_list_of_inputs(value: Any, inputs: int | None) -> bool:
    """Tell whether a value is x of a model with several inputs: in (x, y), x would hold several arrays itself."""
    return (inputs or 0) > 1 and isinstance(value, (list, tuple)) and all(hasattr(part, "shape") for part in value)


def _as_batch(value: Any, inputs: int | None, argument: str) -> Batch:
    if isinstance(value, Batch):
        return Batch(*keras.tree.map_structure(np.asarray, tuple(value), none_is_leaf=False))
    has_parts = isinstance(value, tuple) or (inputs == 1 and isinstance(value, list))
    parts = tuple(value) if has_parts and not _is_list_of_inputs(value, inputs) else (value,)
    check_holds_arrays(parts, argument=argument)
    if not 1 <= len(parts) <= 3:
        raise ValueError(
            f"Expected batches (x,), (x, y) or (x, y, sample weights) in `{argument}`. Received: {len(parts)} parts."
        )
    parts = tuple(dict(part) if isinstance(part, Mapping) else part for part in parts)
    return Batch(*keras.tree.map_structure(np.asarray, parts, none_is_leaf=False))


def check_holds_arrays(structure: Any, *, argument: str) -> None:
    """Refuse numbers in lists, of which each would count as an array.

    Raises:
        TypeError: If there are any.
    """
    if any(isinstance(leaf, numbers.Number) for leaf in keras.tree.flatten(structure)):
        raise TypeError(
            f"Expected NumPy arrays in `{argument}`. Received: numbers in a list or tuple. Pass the numbers of each "
            f"input as one NumPy array, such as numpy.array(x)."
        )


def _cut(whole: Batch, rows: int | None, argument: str) -> Iterator[Batch]:
    size = size_of(whole, argument=argument)
    step = rows or size
    for start in range(0, size, step or 1):
        part = operator.itemgetter(slice(start, start + step))
        yield Batch(*keras.tree.map_structure(part, tuple(whole), none_is_leaf=False))


def _arrays(structure: Any) -> list[np.ndarray]:
    return [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]


def size_of(batch: Batch, *, argument: str = "data") -> int:
    """Return the number of samples in a batch.

    Raises:
        ValueError: If its arrays differ in it, or one is a single number.
    """
    arrays = _arrays(tuple(batch))
    if not all(array.ndim for array in arrays):
        raise ValueError(
            f"Expected batches in `{argument}`. Received: single samples, some of whose parts are numbers without an "
            f"axis. Batch a dataset first: {argument}.batch(32)."
        )
    sizes = sorted({array.shape[0] for array in arrays})
    if len(sizes) > 1:
        raise ValueError(
            f"Expected the arrays of `{argument}` to have the same number of samples. Received: {sizes}."
        )
    return sizes[0] if sizes else 0


def check_batch(batch: Batch, model: keras.layers.Layer, *, argument: str = "data") -> None:
    """Refuse a batch that the model cannot take.

    Raises:
        ValueError: If its arrays differ in length, have another shape than the model's inputs, or hold NaN or
            infinity.
    """
    size_of(batch, argument=argument)
    inputs = getattr(model, "inputs", None)  # subclassed models have none
    if inputs:
        expected = [tuple(tensor.shape) for tensor in inputs]
        received = [array.shape for array in _in_order(batch.x, inputs)]
        if len(expected) != len(received) or not all(map(_fits, received, expected)):
            raise ValueError(
                f"Expected `{argument}` with inputs of shape {_listed(expected)}, as {model.name!r} takes. Received: "
                f"{_listed(received)}."
            )
    for array in _arrays(tuple(batch)):
        if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
            raise ValueError(
                f"Expected finite numbers in `{argument}`. Received: NaN or infinity. Clean the data first."
            )


def _in_order(x: Any, inputs: list[keras.KerasTensor]) -> list[np.ndarray]:
    """Return the arrays for the inputs of a model in its order, which a dict need not have."""
    names = [tensor.name for tensor in inputs]
    is_named = isinstance(x, dict) and set(names) <= x.keys()
    return _arrays([x[name] for name in names] if is_named else x)


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        wanted in (None, size) for size, wanted in zip(shape, expected, strict=True)
    )


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
    labels = batch.y if batch.classes is None else batch.classes
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
        data: Anything that `batches` reads, except an iterator.
        model: The model.
        batch_size: Samples in a batch of arrays; a dataset is already batched.
        argument: The name that the user passed `data` under, for messages.
        is_for_loss: Whether a loss is measured, which sample weights would change.

    Raises:
        TypeError: If `data` is of another type, or can be read only once.
        ValueError: If `data` is a dataset without an end.
    """

    def __init__(
        self,
        data: Any,
        model: keras.Model,
        *,
        batch_size: int,
        argument: str = "data",
        is_for_loss: bool = False,
    ) -> None:
        check_source(data, argument=argument)
        if isinstance(data, Iterator):
            raise TypeError(
                f"Expected `{argument}` that can be read more than once. Received: an iterator of type "
                f"{type(data).__name__}. Pass a list of its batches."
            )
        self._data, self._model, self._rows, self._argument = data, model, batch_size, argument
        self._is_for_loss = is_for_loss

    def __iter__(self) -> Iterator[tuple[list[np.ndarray], Any]]:
        """Yield the arrays for the inputs of the model, in order, and the targets, None if there are none.

        Raises:
            ValueError: If there is no sample, the data do not fit the model, or they hold NaN or infinity.
            ValueError: If a loss is to be measured, and there are sample weights.
        """
        inputs = self._model.inputs
        for batch in batches(self._data, rows=self._rows, inputs=len(inputs), argument=self._argument):
            check_batch(batch, self._model, argument=self._argument)
            if self._is_for_loss and batch.sample_weight is not None:
                raise ValueError(
                    f"Expected (x, y) without sample weights in `{self._argument}`: the loss is the mean over all "
                    f"labels. Received: (x, y, sample weights). Leave the weights out, and for text pass full "
                    f"windows without padding."
                )
            yield _in_order(batch.x, inputs), batch.y
