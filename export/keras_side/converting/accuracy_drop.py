"""Compare the accuracy of a file with that of its Keras model, on labeled samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.base.limit import GroupLimits, Limit, largest_drop
from tfprune.export.device.running.evaluate import DATA, TIMEOUT, labeled_limit, limit_mode
from tfprune.export.device.running.inputs import arrays_of
from tfprune.export.device.running.metrics import measure
from tfprune.export.device.running.verify import Run, run_in_child
from tfprune.export.file.files.source import Source
from tfprune.export.file.model_file import ModelFile
from tfprune.export.keras_side.converting.calibration_data import read_check_on
from tfprune.export.keras_side.preparing.signature import Signature
from tfprune.export.micro.interpreter import run_by_name
from tfprune.export.micro.micro import Micro
from tfprune.export.rewriting.export_report import AccuracyDrop, accuracy_drops


@dataclass(frozen=True)
class LabeledSamples:
    """Samples by the names of the inputs, their labels, and what a file may lose on them."""

    x: dict[str, np.ndarray]
    y: Any
    metric: Any
    limit: Limit


def read_max_drop(max_drop: Any, inputs: Signature) -> LabeledSamples | None:
    """Read a limit and its labeled data, before any work is done; None measures nothing.

    Raises:
        TypeError: If it is not a limit, or its data holds no samples with labels.
        ValueError: If it has no data, its samples do not fit the inputs, or there is no such metric.
    """
    if max_drop is None:
        return None
    metric, x, y = labeled_limit(max_drop)
    return LabeledSamples(read_check_on(x, inputs, argument=DATA), y, metric, max_drop)


def accuracy_drop(
    file: ModelFile,
    data: LabeledSamples | None,
    *,
    expected: Sequence[np.ndarray],
    micro: Micro | None = None,
) -> tuple[AccuracyDrop, ...]:
    """Measure a file and the model it was made from, and refuse it if it lost too much.

    Args:
        file: The file.
        data: What `read_max_drop` returned; None measures nothing.
        expected: The model's outputs for them, in the order of the file's.
        micro: The microcontroller that the file is for; None for a file that any interpreter runs.

    Returns:
        What was lost, for each output.

    Raises:
        ValueError: If an output lost more than is allowed, the file does not run on the samples, or answers do not
            fit the outputs.
    """
    if data is None:
        return ()
    run = _run_file(micro)(file, data.x, timeout=TIMEOUT)
    if run.reason:
        raise ValueError(
            f"Expected a file that runs on the data of `max_drop`. Received: {run.reason}. Nothing was written."
        )
    outputs = dict(zip(run.outputs, expected, strict=True))
    before, after = (measure(each, data.y, metrics=data.metric) for each in (outputs, run.outputs))
    lost = accuracy_drops(before, after, mode=limit_mode(data.limit))
    for output in lost:
        most = largest_drop(data.limit, output.before)
        if most is not None and not output.drop <= most:
            raise ValueError(
                f"Expected a file that loses at most max_drop={most:g} of {output.metric!r} on the data of "
                f"the Limit. Received: a file with {output.file:.4f}, where the Keras model has {output.before:.4f}: "
                f"it loses {output.drop:.4f}. Nothing was written. Try another value of `quantize`, more calibration "
                "data, or allow more with `max_drop`."
            )
    _check_groups(outputs, run.outputs, data)
    return lost


def _check_groups(outputs: dict[str, np.ndarray], of_file: dict[str, np.ndarray], data: LabeledSamples) -> None:
    """Refuse a file that lost too much of a class or group.

    Raises:
        ValueError: If it did, or the labels are not classes of one output.
    """
    limits = GroupLimits.of(data.limit, outputs, data.y)
    worst = None if limits is None else limits.worst(of_file)
    if worst is not None and worst.excess > 0:
        raise ValueError(
            f"Expected a file that keeps the limit of each class and group on the data of the Limit. Received: "
            f"{worst}. Nothing was written. Try another value of `quantize`, more calibration data of this group, or "
            "allow more."
        )


def file_outputs(source: Source | ModelFile, x: Any, *, micro: Micro | None = None) -> dict[str, np.ndarray]:
    """Run a file on samples, where it is meant to run.

    Args:
        source: A path, the content of a file, or a file that is open.
        x: The samples, as `evaluate` takes them.
        micro: The microcontroller that the file is for; None for a file that any interpreter runs.

    Returns:
        The outputs by name.

    Raises:
        ValueError: If the file does not run on the samples.
    """
    file = ModelFile.open(source)
    names = [info.name for info in file.graph.inputs]
    run = _run_file(micro)(file, dict(zip(names, arrays_of(x, names=names), strict=True)), timeout=TIMEOUT)
    if run.reason:
        raise ValueError(f"Expected a file that runs on the samples. Received: one that does not: {run.reason}.")
    return run.outputs


def _run_file(micro: Micro | None) -> Callable[..., Run]:
    return run_in_child if micro is None else run_by_name
