"""Compare the accuracy of a file with that of its Keras model, on labeled samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.base.spec import check_number
from tfprune.export.device.running.evaluate import TIMEOUT, samples_and_answers
from tfprune.export.device.running.inputs import arrays_of
from tfprune.export.device.running.metrics import check_metrics, is_error, measure
from tfprune.export.device.running.verify import Run, run_in_child
from tfprune.export.file.tflite.reader import read
from tfprune.export.keras_side.converting.calibration_data import read_check_on
from tfprune.export.keras_side.preparing.signature import Signature
from tfprune.export.micro.interpreter import run_by_name
from tfprune.export.micro.micro import Micro
from tfprune.export.rewriting.export_report import AccuracyDrop


@dataclass(frozen=True)
class EvaluateOn:
    """Samples by the names of the inputs, their answers, and how they are compared with outputs."""

    x: dict[str, np.ndarray]
    y: Any
    metric: str
    max_drop: float


def read_evaluate_on(data: Any, inputs: Signature, *, metric: Any, max_drop: Any) -> EvaluateOn | None:
    """Read samples and answers, and check what they are compared by, before any work is done.

    Raises:
        TypeError: If `data` holds no samples with answers, or `metric` is not a name.
        ValueError: If samples do not fit the inputs, the metric is not known, or `max_drop` is negative.
    """
    if not isinstance(metric, str):
        raise TypeError(
            f"Expected the name of a metric in `metric`. Received: {metric!r} of {type(metric).__name__}."
        )
    check_metrics(metric)
    check_number(max_drop, "max_drop", least=0)
    if data is None:
        return None
    x, y = samples_and_answers(data, argument="evaluate_on")
    return EvaluateOn(read_check_on(x, inputs, argument="evaluate_on"), y, metric, max_drop)


def accuracy_drop(
    content: bytes,
    data: EvaluateOn | None,
    *,
    expected: Sequence[np.ndarray],
    micro: Micro | None = None,
) -> tuple[AccuracyDrop, ...]:
    """Measure a file and the model it was made from, and refuse it if it lost too much.

    Args:
        content: The plain file.
        data: What `read_evaluate_on` returned; None measures nothing.
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
    run = _run_file(micro)(content, data.x, timeout=TIMEOUT)
    if run.reason:
        raise ValueError(f"Expected a file that runs on `evaluate_on`. Received: {run.reason}. Nothing was written.")
    outputs = dict(zip(run.outputs, expected, strict=True))
    before, after = (measure(each, data.y, metrics=data.metric) for each in (outputs, run.outputs))
    sign = -1 if is_error(data.metric) else 1
    lost = [AccuracyDrop(name, before[name], after[name], sign * (before[name] - after[name])) for name in before]
    for output in lost:
        if not output.drop <= data.max_drop:
            raise ValueError(
                f"Expected a file that loses at most max_drop={data.max_drop:g} of {output.metric!r} on "
                f"`evaluate_on`. Received: one with {output.file:.4f}, where the Keras model has {output.keras:.4f}: "
                f"it loses {output.drop:.4f}. Nothing was written. Try another value of `quantize`, more calibration "
                "data, or allow more with `max_drop`."
            )
    return tuple(lost)


def file_metrics(
    content: bytes, data: tuple[Any, Any], *, metric: str, micro: Micro | None = None
) -> dict[str, float]:
    """Run a file on samples whose answers are known, where it is meant to run, and measure how good its outputs are.

    Args:
        content: The plain file.
        data: A tuple (x, y), as `evaluate` takes it.
        metric: The name of a metric.
        micro: The microcontroller that the file is for; None for a file that any interpreter runs.

    Returns:
        The metric, for each output by its name if there are several.

    Raises:
        ValueError: If the file does not run on the samples, or answers do not fit the outputs.
    """
    x, y = data
    names = [info.name for info in read(content).inputs]
    run = _run_file(micro)(content, dict(zip(names, arrays_of(x, names=names), strict=True)), timeout=TIMEOUT)
    if run.reason:
        raise ValueError(f"Expected a file that runs on the samples. Received: one that does not: {run.reason}.")
    return measure(run.outputs, y, metrics=metric)


def _run_file(micro: Micro | None) -> Callable[..., Run]:
    return run_in_child if micro is None else run_by_name
