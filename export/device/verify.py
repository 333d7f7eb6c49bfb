"""Verify that a file runs and gives the right outputs, and evaluate it on labels, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfprune.base.folders import TemporaryFolder, read_fields
from tfprune.base.limit import Limit, refuse_text, why_not_classes
from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import (
    ArgumentError,
    ArgumentTypeError,
    call_it,
    check_choice,
    check_drop,
    check_number,
    is_accuracy,
)
from tfprune.export.device.processes import Device, check_device, read_job, runner_on, write_job
from tfprune.export.device.runner import (
    Runner,
    by_output,
    inputs_from_job,
    inputs_to_job,
    interpreter_module,
    is_by_signature,
    random_inputs,
    warn_of_bytes,
)
from tfprune.export.file.container import Source, source_name
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import Model
from tfprune.export.file.report import OPEN_BATCH, TensorInfo, number_text, open_batch, yes_or_no
from tfprune.export.file.schema import MissingPackage
from tfprune.report import Report, table

# Report of a check: whether a file gave the expected outputs.


@dataclass(frozen=True)
class VerifyReport(Report):
    """Whether a file ran in a process of its own and gave the expected outputs.

    Attributes:
        passed: Whether it did.
        reason: Why it did not; empty if it passed.
        max_abs_diff: The largest difference in the output that differs most relative to its scale; None if nothing
            could be compared.
        scale: The largest expected magnitude in that output; None if nothing could be compared.
        tolerance: The difference that is allowed, relative to the scale, as given or by the format of the file; of no
            meaning where nothing was compared.
        runtime: The interpreter that ran the file, and its version; empty if none started.
        accuracy: The fraction of samples whose largest output is that of their class; None without labels.
        open_batch: The inputs of the first graph that take any number of samples at once; empty if the file did not
            run.
        rms_diff: The root of the mean squared difference in the same output; None if nothing could be compared.

    Example:
        >>> report = tfprune.export.verify("digits.tflite", images, expected=model(images))
        >>> report.passed, report.reason
        (True, '')
    """

    passed: bool
    reason: str
    max_abs_diff: float | None
    scale: float | None
    tolerance: float
    runtime: str
    accuracy: float | None = None
    open_batch: tuple[str, ...] = ()
    rms_diff: float | None = None

    def __str__(self) -> str:
        compared = [
            ["difference", number_text(self.max_abs_diff)],
            *rms_row(self.rms_diff, self.tolerance),
            ["largest output", number_text(self.scale)],
            ["tolerance", f"{self.tolerance:g}"],
        ]
        if self.passed and self.max_abs_diff is None:
            compared = [["compared with", "nothing: it runs, and its outputs are finite"]]
        measured = [] if self.accuracy is None else [["accuracy", f"{self.accuracy:.2%}"]]
        rows = [*compared, *measured, ["runtime", self.runtime or "-"]]
        if self.open_batch:
            rows.append(["open batch", OPEN_BATCH])
        if self.reason:
            rows.insert(0, ["reason", self.reason])
        return table(["verified", yes_or_no(self.passed)], rows, left=2)


def rms_row(rms_diff: float | None, tolerance: float) -> list[list[str]]:
    """Return the row of a report with the root mean square of a difference, where rounding makes one."""
    return [] if rms_diff is None or tolerance <= TOLERANCES[None] else [["root mean square", number_text(rms_diff)]]


# How much the outputs of a file may differ from those of its Keras model, by the number format of the file.

# Relative to the largest Keras output. Right files were seen to differ by 2e-6, 2e-3, 0.02 and 0.26 at most (the last
# an untrained LSTM on integers, 0.03 without recurrent layers), files with shuffled weights by 0.7 at least.
TOLERANCES = {None: 1e-4, "float16": 1e-2, "dynamic": 0.1, "int8": 0.35, "int16x8": 0.1, "int4": 0.5}
_STORED = {"float16": "float16", "int8": "dynamic", "uint8": "dynamic", "int4": "int4"}  # formats by weight type
_COMPUTED = {"int8": "int8", "uint8": "int8", "int16": "int16x8"}  # formats by activation type


def format_tolerance(model: Model) -> float:
    """Return the difference allowed, relative to the largest output: the widest of the formats that the file has.

    Args:
        model: The file.
    """
    formats = {_STORED.get(weight.dtype) for weight in model.weights}
    return max(TOLERANCES[scheme] for scheme in {None, *formats, *_computed(model)})


def _computed(model: Model) -> set[str]:
    """Return the formats of the operators that compute integers from integers.

    A file of floats has operators that only read integers (DEQUANTIZE) or only look them up in a constant (GATHER).
    """
    formats = set()
    for graph in model.subgraphs:
        operators = [operator for operator in graph.operators if operator.name != "DENSIFY"]
        computed = {index for operator in operators for index in operator.outputs} | set(graph.inputs)
        for operator in operators:
            input_types, output_types = (
                {graph.tensors[index].dtype for index in indices if index in computed}
                for indices in (operator.inputs, operator.outputs)
            )
            formats |= {_COMPUTED[dtype] for dtype in input_types & output_types & _COMPUTED.keys()}
    return formats


# Metrics of a file's outputs by the names that Keras gives them, in NumPy: a device has no Keras.

_Function = Callable[[np.ndarray, np.ndarray], float]
_TOP_K = 5  # classes that may hold the right one
_METRIC_METHODS = ("update_state", "result", "name")  # what a metric of Keras has
_METRIC_BATCH_ROWS = 1024  # at once for a metric of Keras, which copies them
_MEASURE_ERRORS = (
    "If they are numbers to be reached, leave `labels` out, and measure an error with tfprune.export.evaluate and "
    "metrics='mae'."
)


def measure(
    outputs: Mapping[str, np.ndarray],
    targets: Any,
    *,
    metrics: Any,
    an_error: str = "metric='mae' in a tfprune.Limit",
) -> dict[str, float]:
    """Compare outputs with what they should be.

    Args:
        outputs: What a file gave, by the name of the output.
        targets: One array; for several outputs a list in their order, or a dict by name.
        metrics: A name in `NAMES`, an object with `update_state`, `result` and `name` such as a metric of Keras, a
            function of labels and outputs, or a list of these. For several outputs a dict by name may give each its
            own.
        an_error: How the user passes an error as the metric, for messages.

    Returns:
        The metrics by name, behind the name of the output and an underscore if there are several, as in Keras.

    Raises:
        TypeError: If a metric is something else.
        ValueError: If a name is not known, targets do not fit the outputs, or an accuracy is asked for of targets
            that are not classes.
    """
    values = {}
    by_output = _targets(targets, [*outputs])
    for output, own_metrics in _metrics(metrics, [*outputs]).items():
        advice = an_error if len(outputs) == 1 else f"{an_error}, or name another output than {output!r}"
        for metric in own_metrics:
            name = metric_name(metric)
            key = name if len(outputs) == 1 else f"{output}_{name}"
            values[key] = _value(metric, by_output[output], outputs[output], an_error=advice)
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
    usual = usual_mode(metric)
    if mode is None and usual is None:
        raise ArgumentError(
            "mode",
            f"`mode` with the metric {metric_name(metric)!r}, of which it is not known whether larger or smaller "
            f"is better",
            "None",
            advice="Pass mode='max' or mode='min'.",
        )
    if mode is not None and usual not in (None, mode):
        raise ArgumentError("mode", f"mode={usual!r} for {metric_name(metric)!r}", repr(mode), advice="Leave it out.")
    return mode or str(usual)


def usual_mode(metric: Any) -> str | None:
    """Return `"max"` or `"min"` for a metric of Keras, by name or itself; None for others."""
    names = {metric} if isinstance(metric, str) else {each.__name__ for each in type(metric).__mro__}
    return next((each for each, better in _BETTER.items() if names & better), None)


def _check_metrics(metrics: Any, argument: str = "metrics") -> None:
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
                f"{', '.join(_METRIC_METHODS)}. Received: {metric!r} of type {type(metric).__name__}."
            )


def _is_keras_like(metric: Any) -> bool:
    return all(hasattr(metric, name) for name in _METRIC_METHODS)


def _classification_accuracy(outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> float:
    """Return the fraction of samples whose largest output is that of their class.

    Args:
        outputs: What a file gave, by the name of the output.
        labels: Classes, as `why_not_classes` says.

    Raises:
        ValueError: If there is not one output with a row for each label, or they are not classes.
    """
    shapes = {name: array.shape for name, array in outputs.items()}
    output = next(iter(outputs.values()))
    if len(outputs) != 1 or not output.ndim or labels.shape[:1] != output.shape[:1]:
        raise ArgumentError(
            "labels",
            "one output with the scores of each sample's classes to compare with `labels`",
            found=f"outputs of shape {shapes}, labels of shape {labels.shape}",
        )
    _refuse_numbers(labels, output, argument="labels", advice=_MEASURE_ERRORS)
    return _accuracy(labels, output)


def _refuse_numbers(labels: np.ndarray, scores: np.ndarray, *, argument: str, advice: str) -> None:
    """Refuse targets and outputs that are numbers to be reached, of which an accuracy says nothing.

    Raises:
        TypeError: If labels are text.
        ValueError: If they are not classes and their scores.
    """
    refuse_text(labels, argument)
    reason = why_not_classes(labels, scores)
    if reason:
        raise ArgumentError(
            argument,
            f"classes in `{argument}`, by number or as rows of 0 and 1, and outputs that are their scores, for an "
            f"accuracy",
            found=reason,
            advice=advice,
        )


def _metrics(metrics: Any, names: list[str]) -> dict[str, Sequence[Any]]:
    _check_metrics(metrics)
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
        raise ArgumentError("y", f"`y` for each of the outputs {names}", found=f"{len(arrays)} of them")
    return dict(zip(names, map(np.asarray, arrays), strict=True))


def _check_names(given: Mapping[str, Any], names: list[str], *, argument: str, whole: bool) -> None:
    if set(given) - set(names) or (whole and set(given) != set(names)):
        raise ArgumentError(argument, f"`{argument}` by the names of the outputs, {names}", found=str(list(given)))


def _value(metric: Any, y_true: np.ndarray, y_pred: np.ndarray, *, an_error: str) -> float:
    if len(y_true) != len(y_pred):
        raise ArgumentError("y", f"`y` with as many rows as `x`, {len(y_pred)}", found=str(len(y_true)))
    if isinstance(metric, str):
        if is_accuracy(metric) or y_true.dtype.kind not in "biuf":
            advice = f"If they are numbers to be reached, pass an error as the metric, such as {an_error}."
            _refuse_numbers(y_true, y_pred, argument="y", advice=advice)
        return NAMES[metric](y_true, y_pred)
    if not _is_keras_like(metric):  # a function returns one number, or one for each sample
        return float(np.mean(np.asarray(metric(y_true, y_pred))))
    if hasattr(metric, "reset_state"):
        metric.reset_state()
    for start in range(0, len(y_pred), _METRIC_BATCH_ROWS):
        metric.update_state(y_true[start : start + _METRIC_BATCH_ROWS], y_pred[start : start + _METRIC_BATCH_ROWS])
    value = np.asarray(metric.result())
    if value.size != 1:
        raise ValueError(
            f"Expected a metric of one number. Received: {metric_name(metric)!r} of shape {value.shape}. Pass one "
            "that averages over classes, such as average='macro'."
        )
    return float(value.item())


def _accuracy(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Choose as Keras does between one output, classes by number, and classes as one-hot rows."""
    if y_pred.ndim < 2 or y_pred.shape[-1] == 1:
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
    return float(np.mean(np.count_nonzero(y_pred > right, axis=-1) < _TOP_K))


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
        raise ArgumentError(
            "y",
            f"`y` with the number of a class for each row of the output, of shape {y_pred.shape[:-1]}",
            found=f"an array of shape {y_true.shape}",
        )
    return labels


def _alike(y_true: np.ndarray, y_pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both in one shape: a last dimension of 1 may be left out in one of them."""
    if y_true.ndim + 1 == y_pred.ndim and y_pred.shape[-1] == 1:
        y_true = y_true[..., None]
    if y_pred.ndim + 1 == y_true.ndim and y_true.shape[-1] == 1:
        y_pred = y_pred[..., None]
    if y_true.shape != y_pred.shape:
        raise ArgumentError(
            "y", f"`y` of the output's shape, {y_pred.shape}", found=f"an array of shape {y_true.shape}"
        )
    return y_true.astype(np.float64), y_pred.astype(np.float64)


NAMES: dict[str, _Function] = {
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
_ERRORS = {"mae", "mean_absolute_error", "mse", "mean_squared_error"}
# The metrics of Keras, by the names above and by their classes.
_BETTER = {
    "max": {*NAMES} - _ERRORS
    | {"Accuracy", "BinaryAccuracy", "CategoricalAccuracy", "SparseCategoricalAccuracy", "TopKCategoricalAccuracy"}
    | {"SparseTopKCategoricalAccuracy", "AUC", "Precision", "Recall", "PrecisionAtRecall", "RecallAtPrecision"}
    | {"SensitivityAtSpecificity", "SpecificityAtSensitivity", "FBetaScore", "F1Score", "IoU", "BinaryIoU"}
    | {"MeanIoU", "OneHotIoU", "OneHotMeanIoU", "R2Score", "PearsonCorrelation", "ConcordanceCorrelation"}
    | {"CosineSimilarity", "TruePositives", "TrueNegatives"},
    "min": _ERRORS
    | {"MeanAbsoluteError", "MeanSquaredError", "RootMeanSquaredError", "MeanAbsolutePercentageError", "LogCoshError"}
    | {"MeanSquaredLogarithmicError", "Hinge", "SquaredHinge", "CategoricalHinge", "BinaryCrossentropy", "Poisson"}
    | {"CategoricalCrossentropy", "SparseCategoricalCrossentropy", "KLDivergence", "FalsePositives"}
    | {"FalseNegatives"},
}


# Prove that a file runs and gives the right outputs, in a process of its own: files have crashed interpreters.

_MODEL = "model.tflite"
_SMALLEST_SCALE = 1e-6  # outputs that are all zero, or nearly so, are compared as if the largest were this


def verify(
    source: Source,
    samples: Any = None,
    expected: Any = None,
    *,
    labels: np.ndarray | Sequence[int] | None = None,
    tolerance: float | None = None,
    on: Device | None = None,
    timeout: float = 120,
    verbose: int | str = "auto",
) -> VerifyReport:
    """Run a file in a separate process, and compare its outputs with the expected ones.

    Use it on each device that will run the file. A file passes if, for every output,
    max |output - expected| <= tolerance * max(1e-6, max |expected|). The maxima are over all finite expected values,
    of which at least one is needed; where an expected value is not finite, the output has to be the same. Without
    expected outputs, a file passes if it runs and all its outputs are finite. All signatures of a file run, except
    where you give samples that are not ordered by signature: they are for the first graph, as in `Runner`.

    Args:
        source: A path, or the bytes of a .tflite file: plain, gzip, xz or packed.
        samples: The samples to run, in the forms that `Runner.predict` takes; for a file with several signatures
            also a dict by signature of dicts by name, such as `{"decode": {"tokens": tokens}}`, where signatures
            that are left out get random numbers. None (the default) draws random numbers for all, which only shows
            that the file runs.
        expected: The expected outputs: an array; for several outputs a list in the file's order or a dict by name;
            by signature as `samples` are. None (the default) compares nothing.
        labels: The class of each sample, for a file that classifies: numbers of shape (samples,), one-hot rows, or 0
            and 1 for one output that is a probability. The report then has the accuracy, which does not decide
            whether the file passes. Default None.
        tolerance: The largest difference allowed, as a fraction of the largest expected magnitude of the output, at
            least 0. None (the default) chooses it by the number format of the file, as `to_tflite` does: 1e-4 for
            float32, 1e-2 for float16, 0.1 for dynamic and int16x8, 0.35 for int8, 0.5 for int4.
        on: The device that runs the file, such as `Remote("pi@raspberrypi")`; None (the default) is this machine.
        timeout: Seconds after which the process is stopped and the file fails. Default 120.
        verbose: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows the bar in a
            terminal or a notebook, once the call has taken some seconds. It counts the seconds up to `timeout`.

    Returns:
        A report that says whether the file passed, and if not, the reason: a crash, a refusal, or a wrong output.

    Raises:
        TypeError: If `source` is neither a path nor bytes, a number is not one, or an array holds Python objects.
        ValueError: If the file does not exist or is not a whole TFLite file, or an argument is out of range.
        ValueError: If `labels` are not classes of the file, one for each sample.

    Example:
        >>> print(verify("digits.tflite", images, expected=model(images)))
        verified        yes
        --------------  ---...
        difference      ...
        largest output  ...
        tolerance       0.0001
        runtime         ai-edge-litert ...
    """
    check_number(timeout, "timeout", above=0)
    for name, value in (("expected", expected), ("labels", labels)):
        if samples is None and value is not None:
            raise ArgumentError("samples", f"the samples of `{name}`", "None")
    classes = None if labels is None else np.asarray(labels)
    if tolerance is not None:
        check_number(tolerance, "tolerance", least=0)
    check_verbose(verbose)
    check_device(on)
    file = ModelFile.open(source)
    with Progress(int(timeout), verbose=verbose, unit="second") as progress:
        run = run_in_child(file, samples, timeout=timeout, on=on, each_second=progress.add)
    if tolerance is None:
        is_compared = expected is not None and not run.reason
        tolerance = format_tolerance(file.graph) if is_compared else TOLERANCES[None]
    report = compare_run(run, expected, tolerance=tolerance)
    if run.reason:
        return report
    accuracy = None if classes is None else _classification_accuracy(run.outputs, classes)
    return replace(report, accuracy=accuracy, open_batch=_open_batch(file))


def _open_batch(file: ModelFile) -> tuple[str, ...]:
    try:
        return open_batch(file.graph.inputs)
    except MissingPackage:  # tflite-runtime comes without the schema, and does not care
        return ()


class Comparison(NamedTuple):
    """The outcome for one output, or for the worst of several."""

    reason: str = ""
    difference: float | None = None
    scale: float | None = None
    rms: float | None = None


@dataclass(frozen=True)
class _Loaded:
    """The runtime with which a process has loaded the file."""

    runtime: str


class Run(NamedTuple):
    """The answer of a separate process: outputs by name, the interpreter, and why there are none."""

    outputs: dict[str, np.ndarray]
    runtime: str
    reason: str = ""


def run_in_child(
    source: Source | ModelFile,
    inputs: Any,
    *,
    timeout: float,
    on: Device | None = None,
    each_second: Callable[[], None] | None = None,
) -> Run:
    """Run a file in a process of its own; a crash there is a reason here.

    Args:
        source: A path, or the content of such a file; or a file that is open.
        inputs: What `Runner.predict` takes, for the first graph; a dict of dicts by signature and name, or None, for
            all signatures. Random numbers, the same each time, take the place of those left out. The outputs of
            several signatures are named `signature/name`.
        timeout: Seconds after which the process is stopped.
        on: The device that runs it; None is this machine.
        each_second: Called once in each second that it runs on this machine, to move a bar.
    """
    run_there = runner_on(on, package=interpreter_module(), each_second=each_second)
    file = ModelFile.open(source)
    form, arrays = inputs_to_job(inputs)
    if any(getattr(array, "dtype", None) == np.uint8 for array in arrays.values()) and not is_by_signature(inputs):
        _warn_of_bytes(inputs, file.graph.inputs)
    with TemporaryFolder() as folder:
        write_job(folder, "job", settings={"form": form}, arrays=arrays)
        Path(folder, _MODEL).write_bytes(file.content)
        completed = run_there(_verify_job, folder, timeout=timeout)
        runtime = ""
        if Path(folder, "loaded.json").exists():
            runtime = read_fields(_Loaded, read_job(folder, "loaded")[0]).runtime
        if not completed.ok:
            reason = completed.reason.replace(source_name(file.content), file.name or source_name(file.content))
            return Run({}, runtime, reason)
        return Run(_read_outputs(folder), runtime)


def _warn_of_bytes(inputs: Any, infos: Sequence[TensorInfo]) -> None:
    """Warn here of pixels for inputs of floats: what the child would say is not read."""
    values = [inputs.get(info.name) for info in infos] if isinstance(inputs, Mapping) else inputs
    for info, value in zip(infos, values if isinstance(values, (list, tuple)) else [values], strict=False):
        if info.dtype.startswith("float") and isinstance(value, np.ndarray):
            warn_of_bytes(value, info.name)


def _read_outputs(folder: str) -> dict[str, np.ndarray]:
    outputs = read_job(folder, "result")[1]
    if not outputs:
        raise ValueError("Expected the outputs of the file. Received: none.")
    for name, output in outputs.items():
        if output.dtype.kind not in "biufc":
            raise ValueError(f"Expected outputs that are numbers. Received: {name!r} of type {output.dtype}.")
    return outputs


def compare_run(run: Run, expected: Any, *, tolerance: float) -> VerifyReport:
    """Say whether a file gave what it should give, as `verify` does.

    Args:
        run: What it gave.
        expected: The right outputs, as `verify` takes them; None asks for finite ones only.
        tolerance: The difference allowed, relative to the largest expected magnitude of an output.
    """
    comparison = Comparison(run.reason) if run.reason else _compare(run.outputs, expected, tolerance)
    return VerifyReport(
        passed=not comparison.reason,
        reason=comparison.reason,
        max_abs_diff=comparison.difference,
        scale=comparison.scale,
        rms_diff=comparison.rms,
        tolerance=float(tolerance),
        runtime=run.runtime,
    )


def _verify_job(folder: Path) -> None:
    settings, arrays = read_job(folder, "job")
    form, content = settings["form"], (folder / _MODEL).read_bytes()
    runner = Runner(content)
    write_job(folder, "loaded", settings={"runtime": runner.runtime})
    if not isinstance(form, dict) and (form != "random" or len(runner.signatures) < 2):
        draw = partial(random_inputs, runner.inputs, runner.outputs, rows=1)
        write_job(folder, "result", arrays=_outputs(runner, inputs_from_job(form, arrays, draw=draw)))
        return
    samples = inputs_from_job(form, arrays, draw=dict)
    outputs = {}
    for signature in dict.fromkeys((*samples, *runner.signatures)):
        runner = Runner(content, signature=signature)
        random_samples = random_inputs(runner.inputs, runner.outputs, rows=1)
        outputs[signature] = _outputs(runner, samples.get(signature, random_samples))
    write_job(folder, "result", arrays=by_output(outputs))


def _outputs(runner: Runner, inputs: Any) -> dict[str, np.ndarray]:
    outputs = runner.predict(inputs)
    if isinstance(outputs, dict):
        return outputs
    names = [info.name for info in runner.outputs]
    return dict(zip(names, outputs if isinstance(outputs, list) else [outputs], strict=True))


def _compare(outputs: dict[str, np.ndarray], expected: Any, tolerance: float) -> Comparison:
    compared = {} if expected is None else outputs
    if is_by_signature(expected):
        beginnings = tuple(f"{signature}/" for signature in expected)
        compared = {name: output for name, output in outputs.items() if name.startswith(beginnings)}
        expected = by_output(expected)
    bad = [name for name, output in outputs.items() if name not in compared and not np.isfinite(output).all()]
    if bad or expected is None:
        return Comparison(f"output(s) {bad} hold values that are not finite" if bad else "")
    outputs = compared
    wanted = _by_name(expected, list(outputs))
    results = [_compare_one(name, output, wanted[name], tolerance) for name, output in outputs.items()]
    for result in results:
        if result.reason and result.difference is None:
            return result
    return max(results, key=lambda result: (result.difference or 0.0) / (result.scale or 1.0))


def _by_name(expected: Any, names: list[str]) -> dict[str, np.ndarray]:
    if isinstance(expected, Mapping):
        by_output = dict(expected)
    else:
        values = list(expected) if isinstance(expected, (list, tuple)) else [expected]
        by_output = dict(zip(names, values, strict=False)) if len(values) == len(names) else {}
    if set(by_output) != set(names):
        received = list(expected) if isinstance(expected, Mapping) else f"{len(values)} value(s)"
        raise ArgumentError(
            "expected",
            f"`expected` to hold one array for each of the outputs {names}, in this order or by name",
            found=str(received),
        )
    return {name: np.asarray(by_output[name]) for name in names}


def _compare_one(name: str, output: np.ndarray, expected: np.ndarray, tolerance: float) -> Comparison:
    if output.shape != expected.shape:
        return Comparison(f"output {name!r} has the shape {output.shape}, expected: {expected.shape}")
    finite = np.isfinite(expected)
    if expected.size and not finite.any():
        return Comparison(f"no finite value is expected of output {name!r}, so there is nothing to compare it with")
    broken = int(np.count_nonzero(~np.isfinite(output[finite])))
    if broken:
        return Comparison(
            f"output {name!r} holds {broken:,} values that are not finite where finite ones are expected"
        )
    if not np.array_equal(output[~finite], expected[~finite], equal_nan=True):
        return Comparison(f"output {name!r} differs where the expected values are not finite")
    targets = expected[finite].astype(np.float64)
    scale = max(_SMALLEST_SCALE, float(np.abs(targets).max(initial=0)))
    apart = np.abs(output[finite].astype(np.float64) - targets)
    difference, rms = float(apart.max(initial=0)), float(np.sqrt(np.square(apart).sum() / max(1, apart.size)))
    if difference <= tolerance * scale:
        return Comparison("", difference, scale, rms)
    reason = (
        f"output {name!r} differs by up to {difference:.3g}; allowed: {tolerance:g} of {scale:.3g}, "
        "its largest expected magnitude"
    )
    return Comparison(reason, difference, scale, rms)


# Report of an evaluation: how good the outputs of a file are.


@dataclass(frozen=True)
class EvaluateReport(Report):
    """The metrics of a file.

    Attributes:
        metrics: Their values, by the names that Keras gives them.
        samples: The number of samples.
        runtime: The interpreter that ran the file, and its version.

    Example:
        >>> labels = model.predict(images, verbose=0).argmax(axis=1)
        >>> print(tfprune.export.evaluate("digits.tflite", (images, labels)))
        accuracy  1.0000
        --------  ---...
        samples   100
        runtime   ai-edge-litert ...
    """

    metrics: dict[str, float]
    samples: int
    runtime: str

    def __str__(self) -> str:
        first, *others = [[name, f"{value:.4f}"] for name, value in self.metrics.items()]
        return table(first, [*others, ["samples", f"{self.samples:,}"], ["runtime", self.runtime]], left=2)


# Run a file on samples whose answers are known, as `model.evaluate` does with a Keras model.

EVALUATE_TIMEOUT = 3600.0  # seconds: a slow board, and many samples
_DEFAULT_METRIC = "accuracy"
DATA = "max_drop.data"  # the name of the data of a limit in messages


def evaluate(
    source: Source, data: Any, *, metrics: Any = "accuracy", timeout: float = EVALUATE_TIMEOUT
) -> EvaluateReport:
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
    _check_metrics(metrics)
    check_number(timeout, "timeout", above=0)
    x, y = samples_and_answers(data, argument="data")
    run = run_in_child(source, x, timeout=timeout)
    if run.reason:
        raise ValueError(
            f"Expected a file that runs on the samples. Received: {source_name(source)}: {run.reason}. "
            "Check it with `tfprune verify`."
        )
    rows = len(next(iter(run.outputs.values())))
    values = measure(run.outputs, y, metrics=metrics, an_error="metrics='mae'")
    return EvaluateReport(metrics=values, samples=rows, runtime=run.runtime)


def metric_of(limit: Limit) -> Any:
    """Return the metric that a limit bounds.

    Raises:
        ValueError: If there is no such metric, or `mode` is not its direction, or is needed.
    """
    metric = _DEFAULT_METRIC if limit.metric is None else limit.metric
    _check_metrics(metric, "metric")
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
        raise ArgumentTypeError(
            "max_drop",
            "`max_drop` to be a Limit with the labeled data that the file is measured on",
            repr(max_drop),
            advice="Pass max_drop=tfprune.Limit(0.01, data=(x, y)).",
        )
    metric = metric_of(max_drop)
    check_drop(max_drop.max_drop, "max_drop", metric=metric)
    if max_drop.data is None:
        raise ArgumentError(
            "max_drop",
            "labeled data in the Limit, on which the file is measured",
            repr(max_drop),
            advice="Add data=(x, y) to it.",
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
        raise ArgumentTypeError(
            argument,
            f"`{argument}` to be a tuple (x, y), or batches of such tuples",
            found=_received(data),
            advice=call_it(data) or "Pass (x, y), samples and their labels.",
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
