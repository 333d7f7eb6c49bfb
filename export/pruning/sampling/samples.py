"""The samples that a file is pruned on: checked, drawn if asked for by name, and split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfprune.export.device.running.inputs import arrays_of, random_inputs
from tfprune.export.file.report import TensorInfo, shape_text
from tfprune.export.file.tflite.model import Model

RANDOM, RANDOM_ROWS = "random", 64
LEAST_SAMPLES, MAX_HELD = 3, 64  # two to prune on, which differ, and one to hold out
HELD_PART = 8  # every eighth sample is held out
FEW = 64

WARN_RANDOM = (
    "the samples are random numbers, not data: the accuracy may drop by 4 to 16 points more than with data, and the "
    "errors above say little. Pass samples as the file will see them."
)


def check_samples(samples: Any, model: Model) -> list[np.ndarray]:
    """Return an array for each input of a file.

    Args:
        samples: What `prune_tflite` takes.
        model: The file.

    Raises:
        TypeError: If there are none.
        ValueError: If they do not fit the inputs, or are the same for all samples.
    """
    if samples is None:
        raise TypeError(
            "Expected samples as the file will see them, a few hundred, without labels. Received: samples=None. If "
            "there are none at all, samples='random' draws numbers, which costs accuracy."
        )
    if isinstance(samples, str):
        return _random(samples, model)
    arrays = arrays_of(samples, names=[info.name for info in model.inputs])
    for info, array in zip(model.inputs, arrays, strict=True):
        _check_array(info, array)
    rows = {len(array) for array in arrays if array.ndim}
    if len(rows) != 1 or min(rows) < LEAST_SAMPLES:
        raise ValueError(
            f"Expected at least {LEAST_SAMPLES} samples, the same number for each input. Received: "
            f"{', '.join(shape_text(array.shape) for array in arrays)}."
        )
    if all((array == array[:1]).all() for array in arrays):
        raise ValueError(
            "Expected samples that differ from each other. Received: samples that are all the same. Pass data as the "
            "file will see them."
        )
    return arrays


def held_out(arrays: Sequence[np.ndarray], model: Model) -> int:
    """Return how many samples at the end are held out: whole batches where the file has a fixed one."""
    rows = min(len(array) for array in arrays if array.ndim)
    batch = max((info.shape[0] or 1 for info in model.inputs if info.shape), default=1)
    held = min(max(rows // HELD_PART // batch, 1) * batch, MAX_HELD * batch)
    if rows - held < batch:
        raise ValueError(
            f"Expected samples for two runs of the file at least, which takes {batch} at once. Received: {rows}."
        )
    return held


def warnings_of(samples: Any, *, fitted: int, others: Sequence[str]) -> tuple[str, ...]:
    """Return what makes the result less reliable, and the warnings of the process that ran the file."""
    if isinstance(samples, str):
        return WARN_RANDOM, *others
    few = [f"{fitted} samples are few: with 256 the outputs stay closer."] if fitted < FEW else []
    return *others, *few


def _random(name: str, model: Model) -> list[np.ndarray]:
    if name != RANDOM:
        raise ValueError(f"Expected samples as arrays, or samples='random'. Received: samples={name!r}.")
    batch = max((info.shape[0] or 1 for info in model.inputs if info.shape), default=1)
    infos = [TensorInfo(info.name, (None, *info.shape[1:]), info.dtype) for info in model.inputs]
    return random_inputs(infos, model.outputs, rows=RANDOM_ROWS * batch)


def _check_array(info: TensorInfo, array: np.ndarray) -> None:
    wanted = info.shape
    fits = array.ndim == len(wanted) and all(
        length in (None, given) for length, given in zip(wanted[1:], array.shape[1:], strict=True)
    )
    if not fits or not array.size:
        shape = shape_text((None, *wanted[1:]))
        raise ValueError(
            f"Expected samples of shape {shape} for input {info.name!r}. Received: {shape_text(array.shape)}."
        )
    if array.dtype.kind not in "biuf":
        raise TypeError(f"Expected numbers for input {info.name!r}. Received: values of type {array.dtype}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"Expected finite numbers for input {info.name!r}. Received: NaN or infinity.")
