"""The inputs of a Keras model: their names, shapes and types, and arrays brought into that form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.export.keras_side.preparing.half_precision import HALF_TYPES
from tfprune.keras_models.models.anatomy import check_keras
from tfprune.keras_models.models.layers import walk

OPEN_DIMENSION_LENGTH = 32  # length drawn for a dimension the model leaves open
LENGTHS = ("max_sequence_length", "sequence_length")  # of KerasHub's backbones and position embeddings
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # what a TensorFlow signature can hold


@dataclass(frozen=True)
class ModelInput:
    """One input of a model.

    Attributes:
        name: The key in a dict of inputs, else the name given to `keras.Input`.
        shape: Batch first; None where the model leaves a dimension open.
        dtype: NumPy's name of the type.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Signature:
    """The inputs of a model and how it wants them put together.

    Attributes:
        inputs: One entry per input, in Keras' order.
        form: `array` (one input), `list` or `dict`.
    """

    inputs: tuple[ModelInput, ...]
    form: str

    @property
    def batch(self) -> int | None:
        """The batch size the model was built for, None for any."""
        return self.inputs[0].shape[0]

    @property
    def names(self) -> list[str]:
        """Names of the inputs, in Keras' order."""
        return [entry.name for entry in self.inputs]

    def pack(self, values: Mapping[str, Any]) -> Any:
        """Put one value per name together as the model takes them."""
        if self.form == "dict":
            return {name: values[name] for name in self.names}
        ordered = [values[name] for name in self.names]
        return ordered if self.form == "list" else ordered[0]

    def arrays(self, batch: Any, where: str) -> dict[str, np.ndarray]:
        """Check a batch against the inputs.

        Args:
            batch: An array for one input, a list in Keras' order or a dict by name for several.
            where: The argument that holds the batch, for the message.

        Returns:
            One array per name, in the input's type.

        Raises:
            ValueError: If names, number, shapes, types or values do not fit, or the batch is empty.
        """
        arrays = {}
        for entry, value in zip(self.inputs, self._values(batch, where), strict=True):
            arrays[entry.name] = _as_input(value, entry, where)
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"Expected as many samples for every input in {where}. Received: {lengths}.")
        return arrays

    def random(self, samples: int, *, model: keras.Model) -> dict[str, np.ndarray]:
        """Draw the same inputs of a model every time: normal floats, and integers that its embeddings take."""
        rng, below, length = np.random.default_rng(0), smallest_vocabulary(model), _open_length(model)
        arrays = {}
        for entry in self.inputs:
            shape = (samples, *(size or length for size in entry.shape[1:]))
            if np.issubdtype(np.dtype(entry.dtype), np.floating):
                arrays[entry.name] = rng.standard_normal(shape).astype(entry.dtype)
            else:
                arrays[entry.name] = rng.integers(0, below, shape).astype(entry.dtype)
        return arrays

    def _values(self, batch: Any, where: str) -> list[Any]:
        if isinstance(batch, Mapping):
            if set(batch) != set(self.names):
                raise ValueError(
                    f"Expected the inputs {self.names} in {where}. Received: {sorted(map(str, batch))}. "
                    "Give one array under each name."
                )
            return [batch[name] for name in self.names]
        if len(self.inputs) == 1 and not isinstance(batch, tuple | list):
            return [batch]
        if not isinstance(batch, tuple | list) or len(batch) != len(self.inputs):
            received = f"{len(batch)} arrays" if isinstance(batch, tuple | list) else "a single array"
            if len(self.inputs) == 1:
                expected, advice = "one array", f"The model takes {self.names[0]!r} alone"
            else:
                expected = f"a list of {len(self.inputs)} arrays or a dict by name"
                advice = f"The model takes {self.names}, in this order"
            raise ValueError(f"Expected {expected} in {where}. Received: {received}. {advice}.")
        return list(batch)


def signature(model: keras.Model) -> Signature:
    """Read the inputs of a built model.

    Args:
        model: Sequential or Functional, with one input or a flat list or dict of them.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If `model` is not built, or a TFLite file cannot have its inputs, outputs or precision.
    """
    check_keras(model)
    _check_precision(model)
    structure = _structure(model)
    inputs = [_model_input(key, tensor, model.name) for key, tensor in _items(structure)]
    _check_outputs(model)
    batches = {entry.shape[0] for entry in inputs}
    if len(batches) > 1 or not batches <= {None, 1}:
        stateful = next((path for path, layer in walk(model) if getattr(layer, "stateful", False)), None)
        advice = (
            "`keras.Input(shape)`, which leaves the batch open"
            if stateful is None
            else f"`keras.Input(shape, batch_size=1)`, because {stateful!r} keeps states, and set its weights"
        )
        raise ValueError(
            f"Expected a batch of None or 1 in the inputs of {model.name!r}. "
            f"Received: {', '.join(map(str, sorted(batches, key=str)))}. Build the model with {advice}."
        )
    form = "dict" if isinstance(structure, dict) else "list" if isinstance(structure, list | tuple) else "array"
    return Signature(tuple(inputs), form)


def _check_precision(model: keras.Model) -> None:
    layers = [(path, layer) for path, layer in walk(model) if not isinstance(layer, keras.layers.InputLayer)]
    double = [path for path, layer in layers if layer.compute_dtype == "float64"]
    if double:
        raise ValueError(
            f"Expected a model that computes in float32 or half precision. Received: {model.name!r}, whose layer "
            f"{double[0]!r} computes in float64, for which TFLite has no operators. Build the model with "
            f"dtype='float32', and give it the weights with `set_weights`."
        )


def smallest_vocabulary(model: keras.Model) -> int:
    """Return the smallest `input_dim` of the model's embeddings, 2 when it has none."""
    sizes = [layer.input_dim for _, layer in walk(model) if isinstance(layer, keras.layers.Embedding)]
    return min(sizes, default=2)


def _open_length(model: keras.Model) -> int:
    """Return the length drawn for a dimension that the model leaves open, at most that of its position embeddings."""
    lengths = [getattr(part, name, None) for _, part in walk(model) for name in LENGTHS]
    return min([OPEN_DIMENSION_LENGTH, *(length for length in lengths if isinstance(length, int) and length > 0)])


def _structure(model: keras.Model) -> Any:
    """Return the symbolic input of the model: one tensor, or a list or dict of them."""
    if not model.built:
        raise ValueError(
            f"Expected a built model. Received: {model.name!r}, whose input shape is unknown. Start it with "
            "`keras.Input(shape)`, or call `model.build(input_shape)` first."
        )
    if isinstance(model, keras.Sequential):
        return model.inputs[0]
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"Expected a Sequential or Functional model. Received: {model.name!r} of class {type(model).__name__}. "
            "Give it named inputs with `x = keras.Input(shape)` and `keras.Model(x, tfprune.strip(model)(x))`."
        )
    return model.input


def _model_input(key: Any, tensor: Any, model: str) -> ModelInput:
    if not isinstance(tensor, keras.KerasTensor):
        raise ValueError(
            f"Expected one tensor, a flat list or a flat dict as the input of {model!r}. Received: a "
            f"{type(tensor).__name__} at {key!r}. Flatten the inputs: a TFLite file cannot nest them."
        )
    name = key if isinstance(key, str) else tensor.name
    if not FILE_NAME.fullmatch(name):
        raise ValueError(
            f"Expected input names of letters, digits, dots, hyphens and underscores in {model!r}. "
            f"Received: {name!r}. Rename it with `keras.Input(shape, name=...)`."
        )
    if tensor.dtype == "string":
        raise ValueError(
            f"Expected inputs of numbers in {model!r}. Received: {name!r} of strings. Look the strings up before "
            "the model: no built-in operator of TFLite does it."
        )
    return ModelInput(name, tuple(tensor.shape), "float32" if tensor.dtype in HALF_TYPES else tensor.dtype)


def _check_outputs(model: keras.Model) -> None:
    structure = model.outputs if isinstance(model, keras.Sequential) else model.output
    for key, tensor in _items(structure):
        if not isinstance(tensor, keras.KerasTensor):
            raise ValueError(
                f"Expected one tensor, a flat list or a flat dict as the output of {model.name!r}. Received: a "
                f"{type(tensor).__name__} at {key!r}. Flatten the outputs: a TFLite file cannot nest them."
            )


def _items(structure: Any) -> list[tuple[Any, Any]]:
    """Return the entries of a flat structure with their keys or indices."""
    if isinstance(structure, dict):
        return list(structure.items())
    return list(enumerate(structure if isinstance(structure, list | tuple) else [structure]))


def _as_input(value: Any, entry: ModelInput, where: str) -> np.ndarray:
    """Return the value as an array of the input's type, or raise a ValueError that says why it does not fit."""
    array = np.asarray(value)
    dtype = np.dtype(entry.dtype)
    fits = len(array.shape) == len(entry.shape) and all(
        expected in (None, size) for size, expected in zip(array.shape[1:], entry.shape[1:], strict=True)
    )
    if not fits or not array.size:
        shape = ", ".join(["samples", *("any" if size is None else str(size) for size in entry.shape[1:])])
        has_samples = array.ndim == len(entry.shape) and len(array)
        advice = "" if has_samples else " The first dimension counts the samples, at least 1."
        raise ValueError(
            f"Expected an array of shape ({shape}) for input {entry.name!r} in {where}. "
            f"Received: shape {array.shape}.{advice}"
        )
    is_float = np.issubdtype(dtype, np.floating)
    if array.dtype.kind not in ("fiub" if is_float else "iub"):
        raise ValueError(
            f"Expected {'numbers' if is_float else 'integers'} for input {entry.name!r} of type {dtype} in {where}. "
            f"Received: dtype {array.dtype}. Convert it first."
        )
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    if is_float and not np.isfinite(converted).all():
        raise ValueError(
            f"Expected finite numbers for input {entry.name!r} in {where}. Received: NaN, infinity or more than "
            f"{dtype} holds. Clean the data first."
        )
    if not is_float and not np.array_equal(converted, array):
        raise ValueError(
            f"Expected values that {dtype} holds for input {entry.name!r} in {where}. "
            f"Received: {array.min()} to {array.max()}. Check the data."
        )
    return converted
