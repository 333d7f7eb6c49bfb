"""Sensitivity of each weight to pruning, the allocation that it suggests, and curves for TensorBoard."""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from tfprune.base.limit import Limit, check_can_lose
from tfprune.base.output import Progress, check_verbose, save_figure
from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_count, check_number, check_sparsity
from tfprune.masking.pruned import Pruned, holds_pruned
from tfprune.masking.strip import pruned_layers, sparsity_report, waits_for_data
from tfprune.masking.update_masks import update_masks
from tfprune.masking.wrap import wrap
from tfprune.models.anatomy import as_numpy
from tfprune.models.tasks import (
    WITHOUT_WORKERS,
    DataReference,
    PackedModel,
    check_executor,
    pack_model,
    read_referred,
    referred,
    run_tasks,
    unpack_model,
)
from tfprune.models.training import arguments_of, check_compiled, compile_like, measured, sign_of
from tfprune.report import Report, Skipped, install, new_figure, skipped_table, table

# Report of a sensitivity scan: a table, a picture, and an allocation to start from.


@dataclass(frozen=True)
class SensitivityRow(Report):
    """The metric with one weight pruned to one sparsity.

    Attributes:
        path: The path of the weight in the model, `block_1/conv/kernel`.
        sparsity: The fraction of zeros asked for; all other weights are as they were.
        value: The metric, without training.
        drop: How much worse that is than the baseline, in the unit of the metric; negative if it is better.
    """

    path: str
    sparsity: float
    value: float
    drop: float


@dataclass(frozen=True)
class SensitivityReport(Report):
    """The metric with each weight pruned alone to each sparsity.

    Attributes:
        metric: The name of the metric.
        baseline: The metric of the model as it was.
        rows: One row per weight and sparsity: weights in the order of the model, sparsities rising.
        skipped: The weights that are frozen, or whose pattern cannot reach a sparsity, each with the reason.

    Example:
        >>> import keras, numpy, tfprune
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
        >>> model.compile("sgd", "mse")
        >>> data = numpy.ones((4, 8)), numpy.ones((4, 4))
        >>> report = tfprune.sensitivity(model, data, (0.5, 0.9), metric="loss")
        >>> [row.sparsity for row in report.rows]
        [0.5, 0.9]
    """

    metric: str
    baseline: float
    rows: tuple[SensitivityRow, ...]
    skipped: tuple[Skipped, ...] = ()

    def suggest(self, max_drop: float = 0.01) -> dict[str, float | None]:
        """Return the largest scanned sparsity of each weight that costs no more than `max_drop`.

        Take it as a start: the drops of several pruned weights add up, and training recovers much of them.

        Args:
            max_drop: How much one weight may cost, in the unit of the metric, at least 0; default 0.01.

        Returns:
            An allocation for `PruningCallback` and `update_masks`: the sparsity of each weight by a regular
            expression, or None, which leaves the weight as it is, if every scanned sparsity costs more.

        Raises:
            TypeError: If `max_drop` is not a number.
            ValueError: If `max_drop` is negative or not finite, or an accuracy has no more than that to lose.

        Example:
            >>> rows = (SensitivityRow("out/kernel", 0.5, 0.97, 0.0), SensitivityRow("out/kernel", 0.9, 0.7, 0.27))
            >>> SensitivityReport("accuracy", 0.97, rows).suggest()
            {'^out/kernel$': 0.5}
        """
        max_drop = check_number(max_drop, "max_drop", least=0)
        check_can_lose(Limit(max_drop), {self.metric: self.baseline})
        return {
            f"^{re.escape(path)}$": max((row.sparsity for row in rows if row.drop <= max_drop), default=None)
            for path, rows in self._by_path()
        }

    def plot(self, path: str | Path) -> None:
        """Draw the metric over the sparsity into an image file, with a line for each weight.

        Args:
            path: The file to write; its suffix gives the format, such as `.png` or `.svg`.

        Raises:
            ValueError: If matplotlib is not installed, or the file cannot be written.
        """
        lines = list(self._by_path())
        columns = math.ceil(len(lines) / 20)  # a longer column would be higher than the axes
        figure = new_figure(6 + 2.5 * columns, 4.5)
        from matplotlib import colormaps

        axes = figure.subplots()
        axes.axhline(self.baseline, color="grey", linestyle="--", linewidth=1, label="as it was")
        colors = colormaps["viridis"].resampled(len(lines) + 1)  # the last color is too pale to see
        for index, (name, rows) in enumerate(lines):
            x, y = [row.sparsity for row in rows], [row.value for row in rows]
            axes.plot(x, y, "o-", color=colors(index), markersize=4, label=name)
        axes.set(xlabel="sparsity of one weight, others as they were", ylabel=self.metric, title="Sensitivity")
        figure.legend(loc="outside right upper", ncols=columns, fontsize="small")
        save_figure(figure, path)

    def __str__(self) -> str:
        levels = sorted({row.sparsity for row in self.rows})
        lines = []
        for path, rows in self._by_path():
            values = {row.sparsity: f"{row.value:.4f}" for row in rows}
            lines.append([path, *(values.get(level, "-") for level in levels)])
        text = f"{self.metric}: {self.baseline:.4f} unpruned; with only one weight pruned, by its sparsity:\n\n"
        text += table(["weight", *(f"{level:g}" for level in levels)], lines)
        return text + skipped_table(self.skipped)

    def _by_path(self) -> Iterator[tuple[str, list[SensitivityRow]]]:
        for path in dict.fromkeys(row.path for row in self.rows):
            yield path, [row for row in self.rows if row.path == path]


# Sensitivity scan: how much accuracy each weight costs when it alone is pruned, and the allocation this suggests.


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
    """Settings that all evaluations share.

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
        raise ArgumentTypeError(
            "data",
            "`data` to be a tuple of arrays, (x, y), with jobs or an executor",
            found=f"an object of type {type(scan.arguments['x']).__name__}, which cannot be sent to workers",
            advice=WITHOUT_WORKERS,
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
        raise ArgumentTypeError(
            "sparsities", "`sparsities` to be a sequence of numbers in [0, 1)", found=repr(sparsities)
        )
    levels = sorted({check_sparsity(value, f"sparsities[{index}]") for index, value in enumerate(sparsities)})
    if not levels:
        raise ArgumentError(
            "sparsities",
            "at least one number in `sparsities`",
            repr(sparsities),
            advice="Pass for example sparsities=(0.5, 0.75, 0.9).",
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


# Summaries of training: the sparsity of a model, overall and of each weight, in TensorBoard.


class PruningSummaries(keras.callbacks.TensorBoard):
    """Write the sparsity, overall and of each pruned weight, beside all that `keras.callbacks.TensorBoard` writes.

    The names are `epoch_sparsity` and `epoch_sparsity/<path of the weight>`, or `batch_...`, in the event files of
    training. An epoch has the sparsity at its end, a batch the sparsity that it was trained with. The order of this
    callback and `PruningCallback` in the list does not matter.

    Args:
        log_dir: The folder of the event files.
        update_freq: `"epoch"`, `"batch"`, or the number of batches, at least 1, after which values are also written.
            Each time costs a pass over the weights, which counts the zeros.
        **kwargs: Other arguments of `keras.callbacks.TensorBoard`.

    Raises:
        TypeError: If `log_dir` is not a path, or `update_freq` is neither a string nor an int.
        ValueError: If `log_dir` is missing, `update_freq` is out of range, or the package tensorboard is not
            installed; when training begins, if the model has no pruned layers.

    Example:
        >>> from tfprune import PruningCallback, schedules, wrap
        >>> model = wrap(keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)]))
        >>> model.compile("sgd", "mse")
        >>> callbacks = [PruningCallback(schedules.Polynomial(0.5, end=0.75)), PruningSummaries("logs")]
        >>> x = keras.ops.ones((32, 8))
        >>> history = model.fit(x, x[:, :1], callbacks=callbacks, verbose=0)
    """

    def __init__(self, log_dir: str | Path = "", update_freq: str | int = "epoch", **kwargs: Any) -> None:
        if log_dir is None or log_dir == "":
            raise ArgumentError(
                "log_dir",
                "`log_dir`, the folder of the event files",
                repr(log_dir),
                advice="Pass a path, for example log_dir='logs'.",
            )
        if not isinstance(log_dir, (str, os.PathLike)):
            raise ArgumentTypeError(
                "log_dir", "`log_dir` to be a path", f"{log_dir!r} of type {type(log_dir).__name__}"
            )
        if isinstance(update_freq, str):
            if update_freq not in ("epoch", "batch"):
                raise ArgumentError(
                    "update_freq", "`update_freq` to be 'epoch', 'batch' or a number of batches", repr(update_freq)
                )
        else:
            update_freq = check_count(update_freq, "update_freq", least=1)
        if importlib.util.find_spec("tensorboard") is None:  # Keras would find out in the middle of the first epoch
            raise ValueError(
                f"Expected the package tensorboard. Received: not installed. Run {install('tensorboard')}."
            )
        super().__init__(log_dir, update_freq=update_freq, **kwargs)
        self._batch_count = 0
        self._of_batch: dict[str, float] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if not waits_for_data(self.model):
            pruned_layers(self.model)
        self._batch_count = 0
        super().on_train_begin(logs)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_begin(batch, logs)
        self._batch_count += 1
        is_written = self.update_freq != "epoch" and self._batch_count % self.update_freq == 0
        # Counted here because the masks at the batch's end depend on which callback is listed first.
        self._of_batch = self._sparsities() if is_written else {}

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch, {**(logs or {}), **self._of_batch})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_end(epoch, {**(logs or {}), **self._sparsities()})

    def _sparsities(self) -> dict[str, float]:
        report = sparsity_report(self.model)
        return {"sparsity": report.sparsity, **{f"sparsity/{row.path}": row.sparsity for row in report.rows}}
