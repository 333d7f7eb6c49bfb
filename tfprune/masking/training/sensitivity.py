"""Sensitivity scan: how much accuracy each weight costs when it alone is pruned, and the allocation this suggests."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras

from tfprune.base.progress import Progress, check_verbose
from tfprune.base.spec import check_sparsity
from tfprune.keras_models.models.compiled import arguments_of, check_compiled, compile_like, measured, sign_of
from tfprune.keras_models.models.layers import as_numpy
from tfprune.keras_models.tasks.packed_model import WITHOUT_WORKERS, PackedModel, pack_model, unpack_model
from tfprune.keras_models.tasks.references import DataReference, read_referred, referred
from tfprune.keras_models.tasks.task_pool import check_executor, run_tasks
from tfprune.masking.training.sensitivity_report import SensitivityReport, SensitivityRow
from tfprune.masking.training.update_masks import update_masks
from tfprune.masking.wrapping.pruned import Pruned, holds_pruned
from tfprune.masking.wrapping.pruned_layers import pruned_layers
from tfprune.masking.wrapping.wrap import wrap
from tfprune.report import Skipped


def sensitivity(
    model: keras.Model,
    data: Any,
    sparsities: Sequence[float] = (0.5, 0.75, 0.9, 0.95),
    *,
    metric: str = "accuracy",
    mode: str | None = None,
    jobs: int | None = None,
    executor: Executor | None = None,
    verbose: int | str = "auto",
) -> SensitivityReport:
    """Prune each weight alone to each sparsity, without training, and evaluate the model.

    Use it to find out which weights can lose many entries before you train. It takes one evaluation per weight and
    sparsity, and the model stays as it was: a plain model is copied, and in a wrapped model each weight and its mask
    are restored after their turn.

    Args:
        model: A compiled model. A plain one is copied and wrapped with the default criterion and pattern; for others
            pass a model that you wrapped and compiled.
        data: A tuple (x, y) or (x, y, sample weights), or a dataset that can be read more than once, such as
            `tf.data.Dataset` or `keras.utils.PyDataset`. A part of the validation data is enough. Or the path of an
            .npz file with the arrays `x` and `y`, or a function without arguments that returns such data: then each
            worker reads them itself, once.
        sparsities: The fractions of zeros, in [0, 1). A sparsity that the pattern of a weight cannot reach is skipped
            and reported.
        metric: A name that `model.evaluate` reports, such as `"accuracy"` or `"loss"`.
        mode: `"max"` if a larger metric is better, `"min"` if a smaller one is. None, the default, finds it out for
            accuracies and losses.
        jobs: The number of evaluations that run at once, at least 1. None (the default) is 1, in this process. With
            more, each runs in a process that has the data and loads the model; `data` are then arrays.
        executor: A `concurrent.futures.Executor` that runs the evaluations, such as that of a Dask client, for
            workers on other machines. It needs `jobs`. None (the default) uses this machine.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds.

    Returns:
        The metric and its drop for each weight and sparsity. It prints as a table, `plot(path)` draws it, and
        `suggest(max_drop)` turns it into an allocation.

    Raises:
        TypeError: If `model` is not a Keras model, `data` has another form or cannot be sent to workers,
            `sparsities` is not a sequence of numbers, or `metric` is not a name.
        ValueError: If the model is not compiled, does not report `metric`, or holds no weight that can be pruned to
            one of the sparsities; if a sparsity lies outside [0, 1); if `mode` is needed and not given.
        ValueError: If `executor` comes without `jobs`, or a worker cannot load the model or dies twice.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, name="out")])
        >>> model.compile(loss="mse")
        >>> x = keras.ops.ones((32, 8))
        >>> report = sensitivity(model, (x, model(x)), (0.25, 0.5), metric="loss")
        >>> report.baseline, [row.path for row in report.rows]
        (0.0, ['out/kernel', 'out/kernel'])
    """
    levels, reference, sign = _levels(sparsities), DataReference.of(data), sign_of(metric, mode)
    arguments = arguments_of(data if reference is None else reference.load())
    check_verbose(verbose)
    check_executor(executor, jobs=jobs)
    scan = _Scan(model, _subject(model), arguments, metric, reference)
    baseline = scan.measure()
    rows: list[SensitivityRow] = []
    skipped: list[Skipped] = []
    weights = [path for path, _ in _weights(scan.subject, skipped)]
    calls = [{"path": path, "sparsity": level} for path, level in itertools.product(weights, levels)]
    answers: list[float | str] = [""] * len(calls)
    with Progress(len(calls), verbose=verbose, unit="evaluation") as progress:
        for index, answer in run_tasks(
            _evaluate, calls, state=scan, pack=_packed, opened=_unpacked, jobs=jobs, executor=executor
        ):
            answers[index] = answer
            progress.add()
    for (path, level), answer in zip(itertools.product(weights, levels), answers, strict=True):
        if isinstance(answer, str):
            skipped.append(Skipped(path, f"at {level:g}: {answer}", Skipped.UNREACHABLE))
        else:
            rows.append(SensitivityRow(path, level, answer, sign * (baseline - answer)))
    if not rows:
        reasons = "; ".join(f"{entry.layer} {entry.reason}" for entry in skipped)
        raise ValueError(f"Expected a weight that can be pruned to one of {levels}. Received: {reasons}.")
    return SensitivityReport(metric, baseline, tuple(rows), tuple(skipped))


@dataclass(frozen=True)
class _Scan:
    """What all evaluations share.

    Attributes:
        model: The user's model.
        subject: The wrapped one.
        arguments: Those of `evaluate`.
        metric: The metric.
        reference: Where workers read the data; None sends them.
    """

    model: keras.Model
    subject: keras.Model
    arguments: dict[str, Any]
    metric: str
    reference: DataReference | None = None

    def measure(self) -> float:
        return measured(self.subject, self.metric, arguments=self.arguments)


def _evaluate(scan: _Scan, *, path: str, sparsity: float) -> float | str:
    """Return the metric with one weight pruned, or why that is not possible; the weight is restored."""
    with _restored(dict(_weights(scan.subject, []))[path]):
        return _prune(scan.subject, path, sparsity) or scan.measure()


def _packed(scan: _Scan) -> bytes:
    if "y" not in scan.arguments:
        raise TypeError(
            f"Expected `data` to be a tuple of arrays, (x, y), with jobs or an executor. Received: an object of type "
            f"{type(scan.arguments['x']).__name__}, which cannot be sent to workers. {WITHOUT_WORKERS}"
        )
    arrays = {name: array for name, array in scan.arguments.items() if array is not None}
    settings: dict[str, Any] = {"metric": scan.metric}
    if scan.reference:
        arrays, settings["data"] = {}, referred(scan.reference, scan.arguments)
    return pack_model(PackedModel(scan.model, arrays, settings))


def _unpacked(content: bytes) -> _Scan:
    model, arguments, settings = unpack_model(content)
    arguments = arguments or read_referred(settings["data"], arguments_of)
    return _Scan(model, _subject(model), arguments, settings["metric"])


def _levels(sparsities: Any) -> tuple[float, ...]:
    if isinstance(sparsities, str) or not isinstance(sparsities, Iterable):
        raise TypeError(f"Expected `sparsities` to be a sequence of numbers in [0, 1). Received: {sparsities!r}.")
    levels = sorted({check_sparsity(value, f"sparsities[{index}]") for index, value in enumerate(sparsities)})
    if not levels:
        raise ValueError(
            f"Expected at least one number in `sparsities`. Received: sparsities={sparsities!r}. Pass for example "
            f"sparsities=(0.5, 0.75, 0.9)."
        )
    return tuple(levels)


def _subject(model: Any) -> keras.Model:
    """Return the model to scan: a wrapped model as it is, a compiled and wrapped copy of a plain model."""
    check_compiled(model)
    if holds_pruned(model):
        return model
    advice = "Pass a model that you wrapped and compiled yourself, with tfprune.wrap(model)"
    # Compiling needs an optimizer, though it is never used; SGD takes no memory.
    return compile_like(wrap(model), model, advice=advice, optimizer="sgd")


def _weights(model: keras.Model, skipped: list[Skipped]) -> Iterator[tuple[str, Pruned]]:
    """Yield the path and wrapper of each weight whose mask can change; add the others to `skipped`."""
    for path, layer in pruned_layers(model):
        trained = layer.trained()
        for name in layer.kernels:
            if name in trained:
                yield f"{path}/{name}", layer
            else:
                reason = "frozen (trainable=False), so its mask never changes"
                skipped.append(Skipped(f"{path}/{name}", reason, Skipped.FROZEN))


def _prune(model: keras.Model, path: str, sparsity: float) -> str | None:
    """Prune one weight and leave the others as they are; return why if that is not possible."""
    rules = {f"^{re.escape(path)}$": sparsity, "": None}
    try:
        update_masks(model, sparsity, allocation=rules, optimizer=keras.optimizers.SGD())  # has no state to clear
    except ValueError as error:
        return str(error)
    return None


@contextmanager
def _restored(layer: Pruned) -> Iterator[None]:
    """Restore every variable of a layer, to the bit."""
    before = [(variable, as_numpy(variable).copy()) for variable in layer.variables]
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)
