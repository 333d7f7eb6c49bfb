"""Samples, and what LiteRT gives for them on this machine: what a page compares the browser with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.export.device.running.inputs import arrays_of, batch_inputs, random_inputs
from tfprune.export.device.running.verify import run_in_child
from tfprune.export.file.report import TensorInfo, shape_text
from tfprune.export.file.tflite.model import Model

MOST_RUNS = 4
MOST_BYTES = 2**24  # of the inputs and outputs of all runs of a file


@dataclass(frozen=True)
class RecordedRuns:
    """What a file was run on, and what it gave.

    Attributes:
        runs: For each run the arrays of `inputs` and `outputs`, in the file's order.
        runtime: The interpreter and its version.
    """

    runs: tuple[dict[str, list[np.ndarray]], ...]
    runtime: str


def record_runs(path: Path, model: Model, *, samples: Any, timeout: float) -> RecordedRuns:
    """Run a file with fixed shapes on samples, in a process of its own.

    Args:
        path: The file.
        model: What it holds.
        samples: The samples, batch first; None draws random numbers.
        timeout: Seconds after which the process is stopped.

    Raises:
        TypeError: If the samples are not numbers.
        ValueError: If samples do not fit the file, a run is too large for a page, or the file does not run on them.
    """
    name = repr(str(path))
    arrays = _arrays(model, samples, runs=_most_runs(model, name), name=name)
    done = run_in_child(path, arrays, timeout=timeout)
    if done.reason:
        raise ValueError(f"Expected a file that runs on the samples. Received: {name}: {done.reason}.")
    outputs = [done.outputs[info.name] for info in model.outputs]
    for info, output in zip(model.outputs, outputs, strict=True):
        if not np.isfinite(output).all():
            raise ValueError(
                f"Expected finite outputs, to compare those of the browser with. Received: {name}, whose output "
                f"{info.name!r} has values that are not finite. Pass samples of the kind that the model is for."
            )
    sides = {"inputs": (model.inputs, arrays), "outputs": (model.outputs, outputs)}
    parts = {
        side: [array.astype(info.dtype).reshape(-1, _size(info)) for info, array in zip(*values, strict=True)]
        for side, values in sides.items()
    }
    count = len(parts["inputs"][0])
    runs = tuple({side: [part[number] for part in parts[side]] for side in parts} for number in range(count))
    return RecordedRuns(runs, done.runtime)


def _size(info: TensorInfo) -> int:
    return math.prod(length or 1 for length in info.shape)


def _most_runs(model: Model, name: str) -> int:
    """Return how many runs fit into a page; a file without a batch is run once."""
    infos = (*model.inputs, *model.outputs)
    size = sum(_size(info) * np.dtype(info.dtype).itemsize for info in infos)
    if size > MOST_BYTES:
        raise ValueError(
            f"Expected inputs and outputs of at most {MOST_BYTES:,} bytes. Received: {name} with {size:,}. "
            "Use a file with a smaller batch."
        )
    has_batch = all(batch_inputs(model.inputs, model.outputs))
    return min(MOST_RUNS, MOST_BYTES // max(1, size)) if has_batch else 1


def _arrays(model: Model, samples: Any, *, runs: int, name: str) -> list[np.ndarray]:
    """Return an array for each input, with the rows of some whole runs."""
    has_batch = all(batch_inputs(model.inputs, model.outputs))
    batch = (model.inputs[0].shape[0] if has_batch else 1) or 1
    if samples is None:
        return random_inputs(model.inputs, model.outputs, rows=runs * batch)
    arrays = arrays_of(samples, names=[info.name for info in model.inputs])
    if not has_batch:
        return arrays
    whole = min(len(array) if array.ndim else 0 for array in arrays) // batch
    if not whole:
        wanted = ", ".join(f"{info.name!r} {shape_text(info.shape)}" for info in model.inputs)
        raise ValueError(f"Expected samples for at least one run of {name}: {wanted}. Received: fewer.")
    return [array[: batch * min(whole, runs)] for array in arrays]
