"""Metrics of a file's outputs by the names that Keras gives them, in NumPy: a device has no Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfprune.base.spec import check_choice

Function = Callable[[np.ndarray, np.ndarray], float]
TOP_K = 5  # classes that may hold the right one
METRIC_METHODS = ("update_state", "result", "name")  # what a metric of Keras has
METRIC_BATCH_ROWS = 1024  # at once for a metric of Keras, which copies them


def measure(outputs: Mapping[str, np.ndarray], targets: Any, *, metrics: Any) -> dict[str, float]:
    """Compare outputs with what they should be.

    Args:
        outputs: What a file gave, by the name of the output.
        targets: One array; for several outputs a list in their order, or a dict by name.
        metrics: A name in `NAMES`, an object with `update_state`, `result` and `name` such as a metric of Keras, a
            function of labels and outputs, or a list of these. For several outputs a dict by name may give each its
            own.

    Returns:
        The metrics by name, behind the name of the output and an underscore if there are several, as in Keras.

    Raises:
        TypeError: If a metric is something else.
        ValueError: If a name is not known, or targets do not fit the outputs.
    """
    values = {}
    by_output = _targets(targets, [*outputs])
    for output, own_metrics in _metrics(metrics, [*outputs]).items():
        for metric in own_metrics:
            name = metric_name(metric)
            key = name if len(outputs) == 1 else f"{output}_{name}"
            values[key] = _value(metric, by_output[output], outputs[output])
    return values


def metric_name(metric: Any) -> str:
    """Return the name of a metric, without the number that Keras gives to the second one of a class."""
    if isinstance(metric, str):
        return metric
    if not _is_keras_like(metric):
        return str(getattr(metric, "__name__", type(metric).__name__))
    name, _, number = str(metric.name).rpartition("_")
    is_numbered = number.isdecimal() and name.replace("_", "") == type(metric).__name__.lower()
    return name if is_numbered else str(metric.name)


def metric_mode(metric: Any, mode: str | None = None) -> str:
    """Return `"max"` if a larger value of a metric is better, `"min"` if a smaller one is.

    Args:
        metric: A metric, as `measure` takes it.
        mode: What the user says; None takes what is known of the metrics of Keras.

    Raises:
        ValueError: If the mode is not known, or the user says the other one.
    """
    names = {metric} if isinstance(metric, str) else {each.__name__ for each in type(metric).__mro__}
    usual_mode = next((each for each, better in BETTER.items() if names & better), None)
    if mode is None and usual_mode is None:
        raise ValueError(
            f"Expected `mode` with the metric {metric_name(metric)!r}, of which it is not known whether larger or "
            "smaller is better. Received: mode=None. Pass mode='max' or mode='min'."
        )
    if mode is not None and usual_mode not in (None, mode):
        raise ValueError(
            f"Expected mode={usual_mode!r} for {metric_name(metric)!r}. Received: mode={mode!r}. Leave it out."
        )
    return mode or str(usual_mode)


def check_metrics(metrics: Any, argument: str = "metrics") -> None:
    """Refuse what is not a metric.

    Raises:
        TypeError: If it is neither a name nor a function nor an object that can be updated.
        ValueError: If there is no metric of that name.
    """
    several = metrics.values() if isinstance(metrics, Mapping) else [metrics]
    for metric in (metric for each in several for metric in _listed(each)):
        if isinstance(metric, str):
            others = "or a metric of Keras" if argument == "metrics" else ""
            check_choice(metric, argument, choices=NAMES, others=others)
        elif isinstance(metric, type) or not (callable(metric) or _is_keras_like(metric)):
            raise TypeError(
                f"Expected names of metrics, functions of labels and outputs, or objects with "
                f"{', '.join(METRIC_METHODS)}. Received: {metric!r} of type {type(metric).__name__}."
            )


def _is_keras_like(metric: Any) -> bool:
    return all(hasattr(metric, name) for name in METRIC_METHODS)


def check_labels(labels: Any) -> np.ndarray:
    """Return the number of the class of each sample, (samples,).

    Raises:
        ValueError: If they are something else than one whole number for each sample.
    """
    array = np.asarray(labels)
    column = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if column.ndim != 1 or not np.issubdtype(column.dtype, np.integer):
        advice = " Pass labels.argmax(axis=1)." if array.ndim == 2 else ""
        raise ValueError(
            f"Expected the number of its class for each sample in `labels`. Received: an array of shape "
            f"{array.shape} and type {array.dtype}.{advice}"
        )
    return column


def classification_accuracy(outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> float:
    """Return the fraction of samples whose largest output is that of their class.

    Args:
        outputs: What a file gave, by the name of the output.
        labels: The number of the class of each sample, (samples,).

    Raises:
        ValueError: If there is not one output of shape (samples, classes), or a label is not one of the classes.
    """
    shapes = {name: array.shape for name, array in outputs.items()}
    output = next(iter(outputs.values()))
    if len(outputs) != 1 or output.ndim != 2 or output.shape[1] < 2 or len(output) != len(labels):
        raise ValueError(
            f"Expected one output of shape ({len(labels)}, classes) to compare with `labels`. Received: {shapes}."
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < output.shape[1]:
        raise ValueError(
            f"Expected `labels` from 0 to {output.shape[1] - 1}, the classes of the file. Received: from "
            f"{labels.min()} to {labels.max()}."
        )
    return _sparse(labels, output)


def _metrics(metrics: Any, names: list[str]) -> dict[str, Sequence[Any]]:
    check_metrics(metrics)
    if not isinstance(metrics, Mapping):
        return {name: _listed(metrics) for name in names}
    _check_names(metrics, names, argument="metrics", whole=False)
    return {name: _listed(metrics[name]) for name in names if name in metrics}


def _listed(metrics: Any) -> Sequence[Any]:
    return metrics if isinstance(metrics, (list, tuple)) else [metrics]


def _targets(targets: Any, names: list[str]) -> dict[str, np.ndarray]:
    if isinstance(targets, Mapping):
        _check_names(targets, names, argument="y", whole=True)
        return {name: np.asarray(targets[name]) for name in names}
    if len(names) == 1:
        return {names[0]: np.asarray(targets)}
    arrays = [*targets] if isinstance(targets, (list, tuple)) else [targets]
    if len(arrays) != len(names):
        raise ValueError(f"Expected `y` for each of the outputs {names}. Received: {len(arrays)} of them.")
    return dict(zip(names, map(np.asarray, arrays), strict=True))


def _check_names(given: Mapping[str, Any], names: list[str], *, argument: str, whole: bool) -> None:
    if set(given) - set(names) or (whole and set(given) != set(names)):
        raise ValueError(f"Expected `{argument}` by the names of the outputs, {names}. Received: {list(given)}.")


def _value(metric: Any, y_true: np.ndarray, y_pred: np.ndarray) -> float:
    if len(y_true) != len(y_pred):
        raise ValueError(f"Expected `y` with as many rows as `x`, {len(y_pred)}. Received: {len(y_true)}.")
    if isinstance(metric, str):
        return NAMES[metric](y_true, y_pred)
    if not _is_keras_like(metric):  # a function returns one number, or one for each sample
        return float(np.mean(np.asarray(metric(y_true, y_pred))))
    if hasattr(metric, "reset_state"):
        metric.reset_state()
    for start in range(0, len(y_pred), METRIC_BATCH_ROWS):
        metric.update_state(y_true[start : start + METRIC_BATCH_ROWS], y_pred[start : start + METRIC_BATCH_ROWS])
    value = np.asarray(metric.result())
    if value.size != 1:
        raise ValueError(
            f"Expected a metric of one number. Received: {metric_name(metric)!r} of shape {value.shape}. Pass one "
            "that averages over classes, such as average='macro'."
        )
    return float(value.item())


def _accuracy(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Choose as Keras does between one output, classes by number, and classes as one-hot rows."""
    if y_pred.shape[-1:] in ((), (1,)):
        return _binary(y_true, y_pred)
    by_number = y_true.ndim < y_pred.ndim or y_true.shape[-1] == 1
    return _sparse(y_true, y_pred) if by_number else _categorical(y_true, y_pred)


def _binary(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    y_true, y_pred = _alike(y_true, y_pred)
    return float(np.mean((y_pred > 0.5) == y_true))


def _sparse(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    return float(np.mean(_classes(y_true, y_pred) == y_pred.argmax(axis=-1)))


def _categorical(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    y_true, y_pred = _alike(y_true, y_pred)
    return float(np.mean(y_true.argmax(axis=-1) == y_pred.argmax(axis=-1)))


def _sparse_top(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    right = np.take_along_axis(y_pred, _classes(y_true, y_pred)[..., None].astype(np.int64), axis=-1)
    return float(np.mean(np.count_nonzero(y_pred > right, axis=-1) < TOP_K))


def _top(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    y_true, y_pred = _alike(y_true, y_pred)
    return _sparse_top(y_true.argmax(axis=-1), y_pred)


def _absolute(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    y_true, y_pred = _alike(y_true, y_pred)
    return float(np.mean(np.abs(y_pred - y_true)))


def _squared(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    y_true, y_pred = _alike(y_true, y_pred)
    return float(np.mean(np.square(y_pred - y_true)))


def _classes(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    """Return the number of the class of each score."""
    labels = y_true[..., 0] if y_true.ndim == y_pred.ndim and y_true.shape[-1] == 1 else y_true
    if labels.shape != y_pred.shape[:-1]:
        raise ValueError(
            f"Expected `y` with the number of a class for each row of the output, of shape {y_pred.shape[:-1]}. "
            f"Received: an array of shape {y_true.shape}."
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < y_pred.shape[-1]:
        raise ValueError(
            f"Expected classes from 0 to {y_pred.shape[-1] - 1} in `y`, those of the output. Received: from "
            f"{labels.min()} to {labels.max()}."
        )
    return labels


def _alike(y_true: np.ndarray, y_pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both in one shape: a last dimension of 1 may be left out in one of them."""
    if y_true.ndim + 1 == y_pred.ndim and y_pred.shape[-1] == 1:
        y_true = y_true[..., None]
    if y_pred.ndim + 1 == y_true.ndim and y_true.shape[-1] == 1:
        y_pred = y_pred[..., None]
    if y_true.shape != y_pred.shape:
        raise ValueError(
            f"Expected `y` of the output's shape, {y_pred.shape}. Received: an array of shape {y_true.shape}."
        )
    return y_true.astype(np.float64), y_pred.astype(np.float64)


NAMES: dict[str, Function] = {
    "accuracy": _accuracy,
    "acc": _accuracy,
    "binary_accuracy": _binary,
    "categorical_accuracy": _categorical,
    "sparse_categorical_accuracy": _sparse,
    "top_k_categorical_accuracy": _top,
    "sparse_top_k_categorical_accuracy": _sparse_top,
    "mae": _absolute,
    "mean_absolute_error": _absolute,
    "mse": _squared,
    "mean_squared_error": _squared,
}
ERRORS = {"mae", "mean_absolute_error", "mse", "mean_squared_error"}
# The metrics of Keras, by the names above and by their classes.
BETTER = {
    "max": {*NAMES} - ERRORS
    | {"Accuracy", "BinaryAccuracy", "CategoricalAccuracy", "SparseCategoricalAccuracy", "TopKCategoricalAccuracy"}
    | {"SparseTopKCategoricalAccuracy", "AUC", "Precision", "Recall", "PrecisionAtRecall", "RecallAtPrecision"}
    | {"SensitivityAtSpecificity", "SpecificityAtSensitivity", "FBetaScore", "F1Score", "IoU", "BinaryIoU"}
    | {"MeanIoU", "OneHotIoU", "OneHotMeanIoU", "R2Score", "PearsonCorrelation", "ConcordanceCorrelation"}
    | {"CosineSimilarity", "TruePositives", "TrueNegatives"},
    "min": ERRORS
    | {"MeanAbsoluteError", "MeanSquaredError", "RootMeanSquaredError", "MeanAbsolutePercentageError", "LogCoshError"}
    | {"MeanSquaredLogarithmicError", "Hinge", "SquaredHinge", "CategoricalHinge", "BinaryCrossentropy", "Poisson"}
    | {"CategoricalCrossentropy", "SparseCategoricalCrossentropy", "KLDivergence", "FalsePositives"}
    | {"FalseNegatives"},
}
