"""The variables of a file that keeps values from one run to the next: what it reads from them in each run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tfprune.export.device.running.quantization_error import plain_interpreter
from tfprune.export.file.tflite.canonical_order import indices_of
from tfprune.export.file.tflite.editor import load_objects
from tfprune.export.pruning.layers.pieces import Pieces


def has_variables(content: bytes) -> bool:
    """Tell whether the first graph of a plain file reads variables."""
    return bool(Pieces(load_objects(content)).variables)


def with_variables(content: bytes, runs: list[Mapping[int, np.ndarray]]) -> list[Mapping[int, np.ndarray]]:
    """Return the inputs of each run together with what the file reads from its variables, where it has some.

    The runs follow each other, from the first values of the variables on.

    Args:
        content: The plain file.
        runs: The inputs of each run of its first graph, by tensor.

    Raises:
        ValueError: If a run of the file takes any number of samples, which would all see the same variables.
    """
    pieces = Pieces(load_objects(content))
    if not pieces.variables:
        return runs
    for tensor in (pieces.graph.tensors[index] for index in indices_of(pieces.graph.inputs)):
        if tensor.shapeSignature is not None and len(tensor.shapeSignature) and tensor.shapeSignature[0] < 0:
            raise ValueError(
                "Expected a file that takes one sample in each run, because it keeps values from run to run. "
                f"Received: input {(tensor.name or b'').decode(errors='replace')!r} for any number of samples. "
                "Export the model with a batch of 1"
            )
    interpreter = plain_interpreter(content, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    followed: list[Mapping[int, np.ndarray]] = []
    for run in runs:
        for index, array in run.items():
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        followed.append({**run, **{index: interpreter.get_tensor(index) for index in pieces.variables}})
    return followed
