"""Samples: those that the integer converter observes, and those on which a file is compared with Keras, and how."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.export.keras_side.preparing.half_precision import HALF_TYPES
from tfprune.export.keras_side.preparing.saved_model import states_at_start
from tfprune.export.keras_side.preparing.signature import Signature
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.batches import batches, check_holds_arrays, check_kind, check_source

MOST_SAMPLES = 500  # ranges settle long before; every sample costs an invocation and space in the job's file
BATCH_ROWS = 32  # bounds the memory of one call of the model
RANDOM_SAMPLES = 8


def read_calibration(data: Any, signature: Signature) -> list[dict[str, np.ndarray]]:
    """Read the first samples of what a user passed as `calibration`; labels are left out.

    Args:
        data: Anything that `batches` reads; it may be endless.
        signature: The inputs of the model.

    Returns:
        The batches, each with one array per input, by name; at most 500 samples together.

    Raises:
        TypeError: If `data` holds no batches.
        ValueError: If there is no sample, or a batch does not fit the inputs.
    """
    check_kind(data, argument="calibration")
    parts: list[dict[str, np.ndarray]] = []
    remaining = MOST_SAMPLES
    for arrays in _named_arrays(data, signature, argument="calibration", rows=BATCH_ROWS):
        parts.append({name: array[:remaining] for name, array in arrays.items()})
        remaining -= _length(parts[-1])
        if remaining <= 0:
            break
    return parts


def read_check_on(data: Any, signature: Signature, *, argument: str = "check_on") -> dict[str, np.ndarray]:
    """Read all samples of what a user passed as `check_on`; labels are left out.

    Args:
        data: Anything that `batches` reads.
        signature: The inputs of the model.
        argument: What the user calls it.

    Returns:
        One array per input, by name.

    Raises:
        TypeError: If `data` holds no batches.
        ValueError: If there is no sample, it never ends, a batch does not fit the inputs, or batches differ in shape.
    """
    check_source(data, argument=argument)
    parts = list(_named_arrays(data, signature, argument=argument, rows=None))
    for name in signature.names:
        shapes = {part[name].shape[1:] for part in parts}
        if len(shapes) > 1:
            raise ValueError(
                f"Expected samples of one shape for input {name!r} in `{argument}`. Received: "
                f"{', '.join(map(str, sorted(shapes)))}. Pad them to one length."
            )
    return {name: np.concatenate([part[name] for part in parts]) for name in signature.names}


def choose_check_on(
    check_on: Any, signature: Signature, *, batches: Sequence[dict[str, np.ndarray]] | None, model: keras.Model
) -> dict[str, np.ndarray]:
    """Read the samples on which a file is compared with Keras: the user's, calibration data, or random numbers.

    Args:
        check_on: Samples of the user; None takes others.
        signature: The inputs of the model.
        batches: The calibration data, of which the first batch is taken; None or empty draws random numbers.
        model: The model, whose embeddings bound random integers.

    Raises:
        TypeError, ValueError: As `read_check_on` does.
    """
    if check_on is not None:
        return read_check_on(check_on, signature)
    return batches[0] if batches else signature.random(RANDOM_SAMPLES, model=model)


def count_inputs(model: keras.Model) -> int:
    """Return the number of inputs of a model; 1 if it does not tell."""
    return len(getattr(model, "inputs", None) or [model])


def labeled_arrays(data: Any, *, inputs: int, argument: str) -> tuple[Any, Any]:
    """Read all samples and labels into arrays, as Keras takes them.

    Args:
        data: A tuple (x, y), a dataset, or an iterable of batches (x, y).
        inputs: The number of inputs of the model.
        argument: What the user calls it.

    Raises:
        TypeError: If it is something else.
        ValueError: If there is no sample, or no label for each, it never ends, samples have weights, or batches
            differ in shape.
    """
    if (isinstance(data, tuple) and len(data) != 2) or hasattr(data, "shape"):
        received = f"{len(data)} parts" if isinstance(data, tuple) else f"an object of type {type(data).__name__}"
        raise TypeError(
            f"Expected `{argument}` to be a tuple (x, y) of samples and labels, a dataset, or batches (x, y). "
            f"Received: {received}."
        )
    x, y = data if isinstance(data, tuple) else _joined(data, inputs=inputs, argument=argument)
    check_holds_arrays((x, y), argument=argument)
    sizes = sorted({len(array) for array in keras.tree.flatten((x, y))})
    if len(sizes) > 1 or sizes == [0]:
        received = " and ".join(map(str, sizes))
        raise ValueError(f"Expected samples in `{argument}`, and a label for each. Received: {received} of them.")
    return x, y


def _joined(data: Any, *, inputs: int, argument: str) -> tuple[Any, Any]:
    check_source(data, argument=argument)
    parts = [*batches(data, rows=None, inputs=inputs, argument=argument)]
    if any(part.y is None or part.sample_weight is not None for part in parts):
        received = "samples only" if any(part.y is None for part in parts) else "sample weights, too"
        raise ValueError(f"Expected batches (x, y) of samples and labels in `{argument}`. Received: {received}.")
    shapes = {tuple(array.shape[1:] for array in keras.tree.flatten((part.x, part.y))) for part in parts}
    if len(shapes) > 1:
        raise ValueError(
            f"Expected batches of one shape in `{argument}`. Received: samples and labels of shapes "
            f"{', '.join(map(str, sorted(shapes)))}. Pad them to one length."
        )
    return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *((part.x, part.y) for part in parts))


def split(calibration: Iterable[Mapping[str, np.ndarray]], *, rows: int = 1) -> list[dict[str, np.ndarray]]:
    """Split batches into batches of `rows` samples; the last sample fills up the last batch."""
    samples = [
        {name: array[row : row + 1] for name, array in batch.items()}
        for batch in calibration
        for row in range(_length(batch))
    ]
    groups = [samples[start : start + rows] for start in range(0, len(samples), rows)]
    full = [[*group, *group[-1:] * (rows - len(group))] for group in groups]
    return [{name: np.concatenate([each[name] for each in group]) for name in group[0]} for group in full]


def _named_arrays(
    data: Any, signature: Signature, *, argument: str, rows: int | None
) -> Iterator[dict[str, np.ndarray]]:
    parts = batches(data, rows=rows, inputs=len(signature.inputs), argument=argument)
    for index, batch in enumerate(parts):
        yield signature.arrays(batch.x, f"batch {index} of `{argument}`")


def _length(batch: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(batch.values())))


def predict(
    model: keras.Model, data: Mapping[str, np.ndarray], *, inputs: Signature, argument: str
) -> list[np.ndarray]:
    """Predict samples as `model.predict` does, in the order of the file's outputs.

    Args:
        model: A model without wrappers.
        data: Samples by the names of the inputs.
        inputs: The inputs of the model.
        argument: What the user calls the samples.

    Raises:
        ValueError: If an output has no finite value on the samples: a file could not be compared with it.
    """
    # Called directly: `predict` compiles a function for every export. Compiled code may give numbers where this
    # does not, and they are what the user sees.
    outputs = _in_batches(functools.partial(model, training=False), model, data, inputs)
    if not all(np.isfinite(output).all() for output in outputs):
        graph = Anatomy.of(model).graph or model  # without what a class of the user's does around `call`
        outputs = _in_batches(graph.predict_on_batch, model, data, inputs)
    for place, output in enumerate(outputs):
        if output.size and not np.isfinite(output).any():
            raise ValueError(
                f"Expected `{argument}` to give finite outputs of {model.name!r}. Received: samples for which all "
                f"values of output {place} are NaN or infinity. Pass samples for which model.predict gives numbers."
            )
    return outputs


def _in_batches(
    call: Callable[[Any], Any], model: keras.Model, data: Mapping[str, np.ndarray], inputs: Signature
) -> list[np.ndarray]:
    rows, step = _length(data), inputs.batch or BATCH_ROWS
    parts = ({name: array[start : start + step] for name, array in data.items()} for start in range(0, rows, step))
    with states_at_start(model):
        chunks = [_outputs(call(inputs.pack(part))) for part in parts]
    return [np.concatenate(arrays) for arrays in zip(*chunks, strict=True)]


def _outputs(outputs: Any) -> list[np.ndarray]:
    if isinstance(outputs, Mapping):
        outputs = [outputs[name] for name in sorted(outputs)]
    outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
    return [_as_numpy(output) for output in outputs]


def _as_numpy(output: Any) -> np.ndarray:
    is_half = keras.backend.standardize_dtype(output.dtype) in HALF_TYPES
    return keras.ops.convert_to_numpy(keras.ops.cast(output, "float32") if is_half else output)
