"""What a file is run on: arrays of the caller, on their way to another process, or random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfprune.export.file.report import TensorInfo

MAX_RANDOM_NUMBERS = 2**26  # numbers of a random input: 256 MiB
OPEN_DIMENSION_LENGTH = 8  # length drawn for a dimension, other than the batch, that a file leaves open


def random_inputs(inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], *, rows: int) -> list[np.ndarray]:
    """Draw the same numbers in [0, 1) every time, integers from {0, 1}.

    Args:
        inputs: The inputs of the file.
        outputs: Its outputs, which show whether a fixed first dimension is a batch.
        rows: Length of the first dimension where it is a batch; other free dimensions get a length of 8.

    Raises:
        ValueError: If one would have more than 2^26 numbers: what a file says of its inputs may be a lie.
    """
    batched = zip(inputs, batch_inputs(inputs, outputs), strict=True)
    return [_random_input(info, rows if has_batch else None) for info, has_batch in batched]


def batch_inputs(inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> list[bool]:
    """Tell for each input whether its first dimension is a batch: free, or alike in all inputs and outputs."""
    lengths = {info.shape[0] for info in (*inputs, *outputs) if info.shape}
    return [bool(info.shape) and (info.shape[0] is None or len(lengths) == 1) for info in inputs]


def _random_input(info: TensorInfo, rows: int | None) -> np.ndarray:
    generator = np.random.default_rng(0)
    shape = [OPEN_DIMENSION_LENGTH if length is None else length for length in info.shape]
    if rows is not None:
        shape[0] = rows
    if math.prod(shape) > MAX_RANDOM_NUMBERS:
        raise ValueError(
            f"Expected an input {info.name!r} of at most {MAX_RANDOM_NUMBERS:,} numbers to draw at random. Received: "
            f"the shape {tuple(shape)}. Give inputs of your own, if the file is sound."
        )
    if info.dtype in ("int32", "int64", "uint32", "uint64", "bool"):
        return generator.integers(0, 2, shape)  # rows of a table of unknown length: two it has
    return generator.random(shape, np.float32)


def arrays_of(inputs: Any, *, names: Sequence[str]) -> list[np.ndarray]:
    """Return an array for each input of a file, in the order of their names.

    Raises:
        ValueError: If there is another number of arrays, or they have other names.
    """
    if isinstance(inputs, Mapping):
        received = [*inputs]
        values = [inputs[name] for name in names] if set(received) == set(names) else []
    else:
        values = [*inputs] if isinstance(inputs, (list, tuple)) else [inputs]
        received = [f"{len(values)} arrays"]
    if len(values) != len(names):
        raise ValueError(
            f"Expected an array for each of the inputs {[*names]}. Received: {', '.join(map(str, received))}."
        )
    return [np.asarray(value) for value in values]


def is_by_signature(values: Any) -> bool:
    """Tell whether inputs or outputs are given by signature, as a dict of dicts by name."""
    return isinstance(values, Mapping) and any(isinstance(value, Mapping) for value in values.values())


def by_output(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return inputs or outputs that are given by signature as one dict, by `signature/name`.

    Raises:
        TypeError: If one of them is not given by name.
    """
    wrong = [signature for signature, named in values.items() if not isinstance(named, Mapping)]
    if wrong:
        raise TypeError(
            f"Expected arrays by signature and name, such as {{'decode': {{'tokens': tokens}}}}. Received: "
            f"{type(values[wrong[0]]).__name__} for {wrong[0]!r}."
        )
    return {f"{signature}/{name}": array for signature, named in values.items() for name, array in named.items()}


def inputs_to_job(inputs: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """Return a form and arrays that `write_job` can write, and from which `inputs_from_job` makes the inputs again.

    Args:
        inputs: What `Runner.predict` takes, a dict of dicts by signature and name, or None for random numbers.
    """
    if inputs is None:
        return "random", {}
    if is_by_signature(inputs):
        return {signature: [*named] for signature, named in inputs.items()}, by_output(inputs)
    if isinstance(inputs, Mapping):
        return "dict", {str(name): array for name, array in inputs.items()}
    form, arrays = ("list", inputs) if isinstance(inputs, (list, tuple)) else ("array", [inputs])
    return form, {str(index): array for index, array in enumerate(arrays)}


def inputs_from_job(form: Any, arrays: dict[str, np.ndarray], *, draw: Callable[[], Any]) -> Any:
    """Return the inputs that `inputs_to_job` took apart; where there were none, those that are drawn."""
    if isinstance(form, dict):
        return {key: {name: arrays[f"{key}/{name}"] for name in names} for key, names in form.items()}
    if form == "random":
        return draw()
    values = list(arrays.values())
    return {"dict": arrays, "list": values, "array": values[0] if values else None}[form]
