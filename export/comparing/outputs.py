"""Outputs of one side of a comparison: of a file, of a model, or recorded ones."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfprune.export.device.running.verify import run_in_child
from tfprune.export.file.files.source import source_name


def outputs_of(side: Any, x: Any, *, argument: str, output: str | int | None, timeout: float) -> np.ndarray:
    """Return one output of a side for all samples, batch first.

    Args:
        side: A file (a path or its bytes), an object with `predict` such as a Keras model or a `Runner`, or the
            outputs themselves.
        x: The samples; None if the outputs are recorded.
        argument: The name of the argument, for errors.
        output: The name or the index of the output, if there are several.
        timeout: Seconds after which a file is stopped.

    Raises:
        TypeError: If `side` is something else.
        ValueError: If there are no samples to run it on, it does not run, or its outputs are not finite numbers.
    """
    if can_run(side) and x is None:
        raise ValueError(
            f"Expected samples for `{argument}` to run on. Received: data=(None, y). Pass (x, y), or the recorded "
            "outputs of both."
        )
    if _is_file(side):
        outputs: Any = _run(side, x, argument=argument, timeout=timeout)
    else:
        outputs = _predict(side, x) if hasattr(side, "predict") else side
    return _checked(_select(outputs, argument, output), argument)


def can_run(side: Any) -> bool:
    """Tell whether a side runs on samples, as a file and a model do, and is not recorded outputs."""
    return _is_file(side) or hasattr(side, "predict")


def _is_file(side: Any) -> bool:
    return isinstance(side, (str, os.PathLike, bytes, bytearray, memoryview))


def _run(source: Any, x: Any, *, argument: str, timeout: float) -> dict[str, np.ndarray]:
    run = run_in_child(source, x, timeout=timeout)
    if run.reason:
        raise ValueError(
            f"Expected a file in `{argument}` that runs on the samples. Received: {source_name(source)}: "
            f"{run.reason}. Check it with `tfprune verify`."
        )
    return run.outputs


def _predict(model: Any, x: Any) -> Any:
    """Call a model without the progress bar that Keras has."""
    if "verbose" in inspect.signature(model.predict).parameters:
        return model.predict(x, verbose=0)
    return model.predict(x)


def _select(outputs: Any, argument: str, output: str | int | None) -> Any:
    """Return the output of that name or index, or the only one.

    Raises:
        ValueError: If there are several and none was chosen, or the chosen one does not exist.
    """
    named = isinstance(outputs, Mapping)
    if not named and not _is_list_of_outputs(outputs):
        return outputs
    names = [*outputs] if named else [*range(len(outputs))]
    if output is None and len(names) == 1:
        return outputs[names[0]]
    if output in names:
        return outputs[output]
    if named and isinstance(output, int) and 0 <= output < len(names):
        return outputs[names[output]]
    raise ValueError(
        f"Expected `output` to choose one of the outputs {names} of `{argument}`. Received: output={output!r}. "
        "Compare several outputs one after the other."
    )


def _is_list_of_outputs(outputs: Any) -> bool:
    """Tell a list of outputs from a list of rows: the outputs are arrays with samples along the first axis."""
    return isinstance(outputs, (list, tuple)) and all(
        isinstance(each, np.ndarray) and each.ndim > 1 for each in outputs
    )


def _checked(outputs: Any, argument: str) -> np.ndarray:
    array = np.asarray(outputs)
    if array.dtype.kind not in "biuf" or not array.ndim or not len(array):
        raise TypeError(
            f"Expected `{argument}` to be a .tflite file, a Keras model, or recorded outputs with samples along the "
            f"first axis. Received: {type(outputs).__name__} of shape {array.shape} and type {array.dtype}."
        )
    real = array if array.ndim > 2 else array.astype(np.float64)  # scores of tokens are many
    broken = np.flatnonzero(~np.isfinite(real.reshape(len(real), -1)).all(axis=1))
    if len(broken):
        raise ValueError(
            f"Expected finite outputs of `{argument}`. Received: NaN or infinity in {len(broken):,} of "
            f"{len(real):,} samples, the first of them sample {broken[0]}. Repair the model before you compare it."
        )
    return real
