"""Run a file on samples whose answers are known, as `model.evaluate` does with a Keras model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tfprune.base.limit import Limit, refuse_limit_of_size
from tfprune.base.spec import check_drop, check_number
from tfprune.export.device.running.evaluate_report import EvaluateReport
from tfprune.export.device.running.metrics import check_metrics, measure, metric_mode
from tfprune.export.device.running.verify import run_in_child
from tfprune.export.file.files.source import Source, source_name

TIMEOUT = 3600.0  # seconds: a slow board, and many samples
DEFAULT_METRIC = "accuracy"
DATA = "max_drop.data"  # the name of the data of a limit in messages


def evaluate(source: Source, data: Any, *, metrics: Any = "accuracy", timeout: float = TIMEOUT) -> EvaluateReport:
    """Run a file in a process of its own, and measure how good its outputs are.

    Use it to compare a file with what `model.evaluate` printed for the model: the metrics have the same names and
    mean the same. Neither Keras nor TensorFlow is needed.

    Args:
        source: A path, or the bytes of a .tflite file: plain, gzip, xz or packed.
        data: A tuple (x, y), or batches of such tuples. `x` is what `Runner.predict` takes; `y` has an array for each
            output, as `model.evaluate` takes it. Integer inputs and outputs of a file are real numbers here.
        metrics: A name or a list of names: `"accuracy"` (one output, classes by number, or one-hot rows, as Keras
            chooses), `"binary_accuracy"`, `"categorical_accuracy"`, `"sparse_categorical_accuracy"`, and these two
            with `top_k` before `categorical`, for 5 classes; `"mae"` and `"mse"`. Metrics of Keras are taken as
            well, and functions of labels and outputs, which return a number, or one for each sample. For a file of
            several outputs, a dict by the name of the output may give each its own.
        timeout: Seconds after which the process is stopped. Default an hour.

    Returns:
        The metrics by name; of several outputs, behind the name of the output and an underscore.

    Raises:
        TypeError: If `source` is neither a path nor bytes, `data` holds no samples with answers, or a metric is
            something else.
        ValueError: If the file does not run on the samples, a metric is not known, or the answers do not fit.

    Example:
        >>> x, y = images, model.predict(images, verbose=0).argmax(axis=1)
        >>> report = tfprune.export.evaluate("digits.tflite", (x, y))
        >>> report.metrics
        {'accuracy': 1.0}
    """
    check_metrics(metrics)
    check_number(timeout, "timeout", above=0)
    x, y = samples_and_answers(data, argument="data")
    run = run_in_child(source, x, timeout=timeout)
    if run.reason:
        raise ValueError(
            f"Expected a file that runs on the samples. Received: {source_name(source)}: {run.reason}. "
            "Check it with `tfprune verify`."
        )
    rows = len(next(iter(run.outputs.values())))
    return EvaluateReport(metrics=measure(run.outputs, y, metrics=metrics), samples=rows, runtime=run.runtime)


def metric_of(limit: Limit) -> Any:
    """Return the metric that a limit bounds.

    Raises:
        ValueError: If there is no such metric, or `mode` is not its direction, or is needed.
    """
    metric = DEFAULT_METRIC if limit.metric is None else limit.metric
    check_metrics(metric, "metric")
    metric_mode(metric, limit.mode)
    return metric


def limit_mode(limit: Limit) -> str:
    """Return `"max"` if a larger value of the metric of a limit is better, else `"min"`."""
    return metric_mode(metric_of(limit), limit.mode)


def labeled_limit(max_drop: Any) -> tuple[Any, Any, Any]:
    """Return the metric of a limit, for `measure`, and x and y of its labeled data.

    Raises:
        TypeError: If it is not a limit, or its data holds no samples with labels.
        ValueError: If it has no data, there is no such metric, or it cannot drop by so much.
    """
    if not isinstance(max_drop, Limit):
        raise TypeError(
            "Expected `max_drop` to be a Limit with the labeled data that the file is measured on. Received: "
            f"max_drop={max_drop!r}. Pass max_drop=tfprune.Limit(0.01, data=(x, y))."
        )
    refuse_limit_of_size(max_drop)
    metric = metric_of(max_drop)
    check_drop(max_drop.max_drop, "max_drop", metric=metric)
    if max_drop.data is None:
        raise ValueError(
            f"Expected labeled data in the Limit, on which the file is measured. Received: max_drop={max_drop!r}. "
            "Add data=(x, y) to it."
        )
    metric = metric if max_drop.output is None else {max_drop.output: metric}
    return metric, *samples_and_answers(max_drop.data, argument=DATA)


def samples_and_answers(data: Any, *, argument: str) -> tuple[Any, Any]:
    """Return x and y of a tuple, or those of all batches joined.

    Raises:
        TypeError: If there are none.
    """
    if isinstance(data, tuple) and len(data) == 2:
        return data
    is_whole = isinstance(data, (str, bytes, Mapping, np.ndarray)) or not isinstance(data, Iterable)
    batches = [] if is_whole else [*data]
    if not batches or not all(isinstance(batch, tuple) and len(batch) == 2 for batch in batches):
        raise TypeError(
            f"Expected `{argument}` to be a tuple (x, y), or batches of such tuples. Received: {_received(data)}. "
            f"Pass (x, y), samples and their labels."
        )
    return tuple(_joined([*parts]) for parts in zip(*batches, strict=True))


def _received(data: Any) -> str:
    size = f" of {len(data)}" if isinstance(data, (list, tuple)) else ""
    return f"a {type(data).__name__}{size}"


def _joined(parts: list[Any]) -> Any:
    """Join batches of arrays, of lists of arrays, or of dicts of arrays."""
    if isinstance(parts[0], Mapping):
        return {name: _joined([part[name] for part in parts]) for name in parts[0]}
    if isinstance(parts[0], (list, tuple)):
        return [_joined([*same]) for same in zip(*parts, strict=True)]
    return np.concatenate([np.asarray(part) for part in parts])
