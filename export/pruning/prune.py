"""Prune a .tflite file on samples without labels, without training and without the framework that it came from."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from tfprune.base.folders import TemporaryFolder
from tfprune.base.limit import Limit, check_can_lose, largest_drop, one_class_warning
from tfprune.base.output import check_verbose
from tfprune.base.spec import (
    ArgumentError,
    ArgumentTypeError,
    check_choice,
    check_count,
    check_number,
    check_sparsity,
)
from tfprune.export.device.processes import ChildBar, ChildProgress, Work, read_job, run_job, write_job
from tfprune.export.device.runner import Runner, arrays_of, inputs_from_job, inputs_to_job
from tfprune.export.device.verify import labeled_limit, limit_mode, measure
from tfprune.export.file import schema
from tfprune.export.file.container import (
    Source,
    check_destination,
    check_method,
    check_suffix,
    encode,
    source_name,
)
from tfprune.export.file.document import (
    copy_objects,
    drop_hash,
    graphs_of_signatures,
    load_objects,
    numbers_operators,
    put_in_order,
    save_objects,
    starting_at,
)
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import read
from tfprune.export.file.report import FileReport, certified, fraction_of_zeros, layer_title, number_text, titled
from tfprune.export.pruning.layers import (
    Activations,
    FileLayer,
    LinearOperator,
    find_layers,
    unpack_sparse,
    weights_elsewhere,
)
from tfprune.export.pruning.pieces import FileOutputs, Pieces, Runs, has_variables, with_variables
from tfprune.export.pruning.samples import (
    GraphSamples,
    OutputError,
    check_pixels,
    check_range,
    check_samples,
    compare_outputs,
    constant_outputs,
    drawn_text,
    input_range,
    refuse_same_outputs,
    samples_of_graphs,
    spread_over,
    warnings_of,
)
from tfprune.export.rewriting.rewrite import (
    OPTIMIZE,
    AccuracyDrop,
    Check,
    ExportReport,
    Target,
    accuracy_drops,
    candidate_files,
    choose,
    choose_micro,
    default_tolerance,
    file_name,
    write_choice,
)
from tfprune.export.rewriting.shapes import check_batch, fix_batch
from tfprune.patterns import NM, Block, Pattern, Unstructured, as_weight_pattern
from tfprune.report import Report, Skipped, skipped_table, table
from tfprune.solving.least_squares import GramMoments
from tfprune.solving.surgery import LEVELS, ErrorCurve, split_by_error
from tfprune.solving.zeros import relative_error

# The goal of pruning a file: a sparsity, or a limit to search for the sparsity by, and the pattern of the zeros.

_MAX_PERCENT = 95
TRIES = _MAX_PERCENT.bit_length()  # steps of a search
_Made = TypeVar("_Made")


@dataclass(frozen=True, eq=False)
class _PruningGoal:
    """A goal with one of its limits.

    Attributes:
        sparsity: The fraction of zeros.
        max_bytes: The largest size of the file.
        max_error: The largest error of an output.
        max_drop: The largest loss of a metric on labeled data.
        max_relative_drop: The largest loss as a fraction of the metric before.
        metric: The name of the metric, or a dict with that of one output; empty without `max_drop`.
        mode: `"max"` if a larger value of the metric is better, `"min"` if a smaller one is.
        x: The samples of the labeled data.
        y: Their labels.
    """

    sparsity: float | None
    max_bytes: int | None
    max_error: float | None
    max_drop: float | None = None
    max_relative_drop: float | None = None
    metric: str | dict[str, str] = ""
    mode: str = ""
    x: Any = None
    y: Any = None

    def settings(self) -> dict[str, Any]:
        """Return the limits as JSON can hold them."""
        names = ("sparsity", "max_bytes", "max_error", "max_drop", "max_relative_drop", "metric", "mode")
        return {name: getattr(self, name) for name in names}


def _checked_goal(pattern: Pattern, **limits: Any) -> _PruningGoal:
    """Return the goal that arguments of `prune_tflite` give.

    Args:
        pattern: The pattern of the zeros.
        limits: `sparsity`, `max_bytes`, `max_error` and `max_drop`, all but one of them None.

    Raises:
        TypeError: If a limit has another type.
        ValueError: If not one limit is given, it is out of range, or the pattern has one sparsity only.
    """
    received = {name: value for name, value in limits.items() if value is not None}
    if len(received) != 1:
        none = "" if received else "none of them"
        raise ArgumentError(
            "sparsity", "one of `sparsity`, `max_bytes`, `max_error` and `max_drop`", found=none, beside=received
        )
    sparsity, max_bytes, max_error = (limits[name] for name in ("sparsity", "max_bytes", "max_error"))
    if sparsity is not None:
        sparsity = check_sparsity(sparsity, "sparsity")
        pattern.check(sparsity)
    elif isinstance(pattern, NM):
        raise ArgumentError("sparsity", f"`sparsity` with pattern={pattern!r}", found=f"`{[*received][0]}`")
    if max_bytes is not None:
        max_bytes = check_count(max_bytes, "max_bytes", least=1)
    if max_error is not None:
        max_error = check_number(max_error, "max_error", above=0)
    return _PruningGoal(sparsity, max_bytes, max_error, *_drop(limits["max_drop"]))


def _drop(limit: Limit | None) -> tuple:
    """Return the largest losses of a metric, its name and mode, and the labeled data."""
    if limit is None:
        return ()
    metric, x, y = labeled_limit(limit)
    if not isinstance(limit.metric, str | None):
        raise ArgumentTypeError(
            "max_drop",
            "the name of a metric in the Limit: another process measures it, which has no Keras",
            repr(limit),
            advice="Pass metric='accuracy' or another name that `evaluate` takes.",
        )
    _refuse_limit_per_class(limit)
    if not limit.bounds_metric:
        raise ArgumentError(
            "max_drop", "a Limit with a number", repr(limit), advice="Pass tfprune.Limit(0.01, data=(x, y))."
        )
    return limit.max_drop, limit.max_relative_drop, metric, limit_mode(limit), x, y


def _refuse_limit_per_class(limit: Limit) -> None:
    """Refuse a limit of each class or group where only the average is measured.

    Raises:
        ValueError: If it has one.
    """
    if limit.bounds_groups:
        raise ArgumentError(
            "max_drop",
            "a Limit without `max_drop_per_class` and `max_drop_per_group`, which are not checked here",
            repr(limit),
            advice="Compare the result with `tfprune.export.damage`.",
        )


def search(make: Callable[[int], _Made], fits: Callable[[_Made], bool], *, limit: str, toward: int) -> _Made:
    """Bisect for the largest percentage whose file fits, or for the smallest.

    Args:
        make: A function from a percentage, 1 to 95, to a file.
        fits: A function that returns True if a file keeps to the limit.
        limit: What the limit is, for errors.
        toward: 1 for the largest percentage, -1 for the smallest.

    Raises:
        ValueError: If no file fits.
    """
    low, high, best = 0, _MAX_PERCENT + 1, None
    while high - low > 1:
        middle = (low + high) // 2
        candidate = make(middle)
        is_fit = fits(candidate)
        best = candidate if is_fit else best
        low, high = (middle, high) if is_fit == (toward == 1) else (low, middle)
    if best is None:
        raise ValueError(
            f"Expected a limit that a file keeps to from which 1 to {_MAX_PERCENT} % were removed. Received: "
            f"{limit}, which none does. Allow more"
        )
    return best


# Report of a pruned file: its layers, how far its outputs moved, and what was written.


@dataclass(frozen=True)
class PrunedLayer(Report):
    """A weight that has zeros now.

    Attributes:
        name: The name of its tensor.
        operator: The operator that uses it, such as `CONV_2D`.
        size: The number of its entries.
        nnz: How many of them are not zero.
        error: The squared error of the layer's outputs on the samples, as a fraction of their squares. In it is what
            the layers before it could not make up for.
    """

    name: str
    operator: str
    size: int
    nnz: int
    error: float

    @property
    def sparsity(self) -> float:
        """The fraction of zeros."""
        return fraction_of_zeros(self.nnz, self.size)


@dataclass(frozen=True)
class PruneTfliteReport(FileReport):
    """Report of `prune_tflite`: the zeros of each weight, and how far the file's outputs moved.

    Attributes:
        sparsity: The fraction of zeros in the weights that were pruned.
        layers: One row for each of these weights.
        errors: One row for each output of the file.
        skipped: The weights that were left alone, with the reason.
        samples: The number of samples that were used to prune.
        held_out: The number of samples that the outputs were compared on.
        warnings: What makes these numbers less reliable.
        file: The file that was written, with the zeros of all its weights, and how it was checked.
        lost: What the metric of `max_drop` lost on its labeled data, for each output; empty without `max_drop`.

    Example:
        >>> report = tfprune.export.prune_tflite("digits.tflite", "sparse.tflite", images, sparsity=0.92)
        >>> round(report.sparsity, 2), report.errors[0].agreement > 0.5
        (0.92, True)
    """

    sparsity: float
    layers: tuple[PrunedLayer, ...]
    errors: tuple[OutputError, ...]
    skipped: tuple[Skipped, ...]
    samples: int
    held_out: int
    warnings: tuple[str, ...]
    file: ExportReport
    lost: tuple[AccuracyDrop, ...] = ()

    def __str__(self) -> str:
        layers = [
            [
                layer_title(layer.name),
                layer.operator,
                f"{layer.size:,}",
                f"{layer.sparsity:.1%}",
                number_text(layer.error),
            ]
            for layer in self.layers
        ]
        size = sum(layer.size for layer in self.layers)
        if size != self.file.size:
            layers.append(["pruned weights", "", f"{size:,}", f"{self.sparsity:.1%}", ""])
        outputs = [row.row for row in self.errors]
        text = table(["layer", "operator", "weights", "zeros", "error"], layers, left=2)
        lost = [[row.metric, number_text(row.before), number_text(row.file)] for row in self.lost]
        parts = [
            text + skipped_table(titled(self.skipped)),
            table([f"output, on {self.held_out} held-out samples", "error", "agreement"], outputs),
            *([table(["metric", "dense file", "pruned file"], lost)] if lost else []),
            *(f"Warning: {warning}" for warning in self.warnings),
            str(self.file),
        ]
        return "\n\n".join(parts)


# Prune the weights of a file one after the other, each on what the file returns with the zeros so far.

_CONSTANT = "it sees the same for all samples, which do not tell which of its weights matter"


class _PruningInOrder:
    """A file and samples, from which files of any sparsity are made.

    A weight that several graphs use is pruned in the first of them.

    Args:
        content: The plain file.
        runs: The inputs of each run of the interpreter, by tensor, for each graph that has samples.
        pattern: The shape of the zeros.
        folder: For arrays that do not fit into the memory.
        progress: Counts the layers that were measured or pruned.

    Attributes:
        skipped: The names of the weights left alone, and why.
        unmeasured: The signatures without samples that use weights which get zeros; empty if there are none.
    """

    def __init__(
        self, content: bytes, runs: Mapping[int, Runs], *, pattern: Pattern, folder: Path, progress: ChildProgress
    ) -> None:
        self._model, self._pattern = unpack_sparse(content), pattern
        self.skipped: list[tuple[str, str]] = []
        self._graphs: list[_GraphInOrder] = []
        buffers: set[int] = set()
        for number, own in runs.items():
            graph = _GraphInOrder(Pieces(self._model, number), own, pattern=pattern, folder=folder, progress=progress)
            graph.leave_out(buffers)
            buffers |= {layer.buffer for layer in graph.layers}
            self._graphs.append(graph)
            self.skipped += graph.skipped
        others = weights_elsewhere(Pieces(self._model), runs)
        self.skipped += [(each.name, each.reason) for each in others if each.buffer not in buffers]
        progress.expect(len(self._checked_layers()))
        for graph in self._graphs:
            self.skipped += graph.measure()
        pruned = {layer.buffer for layer in self._checked_layers()}
        signatures = sorted({each.signature for each in others if each.buffer in pruned and each.signature})
        self.unmeasured = ", ".join(map(repr, signatures))

    def _checked_layers(self) -> list[FileLayer]:
        layers = [layer for graph in self._graphs for layer in graph.layers]
        if not layers:
            reasons = "; ".join(sorted({reason for _, reason in self.skipped})) or "it has none"
            raise ValueError(f"Expected a file with weights that can be pruned. Received: one without: {reasons}.")
        return layers

    def pruned(self, sparsity: float) -> tuple[bytes, list[PrunedLayer]]:
        """Return a file of a sparsity, and what became of each weight."""
        if isinstance(self._pattern, NM):
            shares = [sparsity] * len(self._checked_layers())
        else:
            shares = split_by_error([curve for graph in self._graphs for curve in graph.curves], sparsity)
        model, each = copy_objects(self._model), iter(shares)
        rows = [row for graph in self._graphs for row in graph.prune(model, each)]
        if not numbers_operators(model):
            drop_hash(model)
            put_in_order(model)  # without the biases that others stand for now
        return save_objects(model), rows


class _GraphInOrder:
    """One graph of a file.

    Attributes:
        layers: The weights that are pruned, in order.
        skipped: The names of those left alone, and why.
        curves: What zeros in each layer cost.
    """

    def __init__(self, dense: Pieces, runs: Runs, *, pattern: Pattern, folder: Path, progress: ChildProgress) -> None:
        self._dense, self._runs, self._pattern, self._folder = dense, runs, pattern, folder
        self._progress = progress
        self.layers, self.skipped = find_layers(dense)
        self._in_parallel: dict[int, list[GramMoments]] = {}
        self.curves: list[ErrorCurve] = []

    def leave_out(self, buffers: Collection[int]) -> None:
        """Leave out weights that another graph has already."""
        self.layers = [layer for layer in self.layers if layer.buffer not in buffers]

    def prune(self, model: schema.ModelT, shares: Iterator[float]) -> list[PrunedLayer]:
        """Put the next shares of zeros into a model, and return what became of each weight."""
        file = Pieces(model, self._dense.number)
        dense, now = (Activations(pieces, self._runs, folder=self._folder) for pieces in (self._dense, file))
        rows = []
        for layer in self.layers:
            moments = self._in_parallel.get(id(layer)) or layer.moments_in_order(self._dense, dense=dense, now=now)
            weights, stored = layer.solve(moments, sparsity=next(shares), pattern=self._pattern)
            layer.write(file, weights, stored)
            values = stored.read(file.model.buffers[layer.buffer])
            rows.append(_row(layer, values, relative_error(moments, weights)))
            layer.forget()
            self._progress.add()
        return rows

    def measure(self) -> list[tuple[str, str]]:
        """Run the dense graph once, measure what zeros in each layer alone cost, and return layers without effect."""
        if not self.layers:
            return []
        states = Activations(self._dense, self._runs, folder=self._folder)
        outputs = FileOutputs(self._dense, self._runs)
        moments = {id(layer): layer.moments() for layer in self.layers}
        curves: dict[int, ErrorCurve] = {}
        varying: set[int] = set()
        uses = [(operator, layer) for layer in self.layers for operator in layer.operators]
        for operator, layer in sorted(uses, key=_order):
            first = None
            for run, x in enumerate(map(np.atleast_1d, states.of(operator))):
                if run >= outputs.apart or operator.loop is not None:
                    layer.add(moments[id(layer)], layer.rows(self._dense, operator, x, run=run))
                first = x[:1] if first is None else first
                varying |= {id(layer)} if (x != first).any() else set()
            if operator is layer.operators[-1]:
                aimed = [sums.aimed_at(own) for sums, own in zip(moments.pop(id(layer)), layer.weights, strict=True)]
                curves[id(layer)] = self._curve(layer, aimed, states=states, outputs=outputs)
                if layer.is_in_parallel:
                    self._in_parallel[id(layer)] = aimed
                layer.forget()
                self._progress.add()
        constant = [layer for layer in self.layers if id(layer) not in varying]
        self.layers = [layer for layer in self.layers if id(layer) in varying]
        self.curves = [curves[id(layer)] for layer in self.layers]
        return [(layer.name, f"{layer.kind}: {_CONSTANT}") for layer in constant]

    def _curve(
        self, layer: FileLayer, moments: list[GramMoments], *, states: Activations, outputs: FileOutputs
    ) -> ErrorCurve:
        """Scale the curve of a layer's own error by what the outputs feel at one sparsity."""
        if isinstance(self._pattern, NM):
            return ErrorCurve(layer.size, layer.zeros, np.zeros(len(LEVELS)))  # not used
        solved, errors = layer.solver.at_levels(moments, pattern=self._pattern)
        # Such a weight is felt from its first operator or turn on, which these samples have passed.
        start, values = (0, outputs.inputs) if layer.is_in_parallel else (states.step, states.all)
        with layer.written(self._dense, solved):
            output_error = outputs.error(start, values)
        return ErrorCurve(layer.size, layer.zeros, errors).scaled(output_error)


def _row(layer: FileLayer, values: np.ndarray, error: float) -> PrunedLayer:
    return PrunedLayer(layer.name, layer.kind, layer.size, int(np.count_nonzero(values)), error)


def _order(use: tuple[LinearOperator, FileLayer]) -> tuple[int, int]:
    return use[0].order


# Work on a file and samples in a process of its own: nobody has tested the pieces of a foreign file.

_TIMEOUT = 3600.0  # seconds for all of the work on one file
# Small matrices are fastest on one thread, and large arrays leave the memory at once.
_CHILD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(2**22)}
_RUN_ROWS = 16  # samples in one run of a file that leaves the batch open
_DENSE, _CHANGED = "dense.tflite", "changed.tflite"
_JOB, _RESULT = "job", "result"
_SAMPLES, _HELD, _OUTPUTS = "samples", "held", "outputs"  # each with the number of a graph with samples
_Jobs = dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]]  # settings and arrays of each, by name


_ADVICE = "Check that the file itself runs (`tfprune verify`)."


class _Changed(NamedTuple):
    """The result of a process that changed a file.

    Attributes:
        source: Where the old file is from.
        dense: The old file.
        file: The new one.
        settings: What is to be known of it, and the `"warnings"` about the samples.
        inputs: The samples that were held out, by name; where samples are by signature, such dicts by signature.
        outputs: The expected outputs for them, likewise.
    """

    source: Source
    dense: ModelFile
    file: ModelFile
    settings: dict[str, Any]
    inputs: dict[str, Any]
    outputs: dict[str, Any]

    def write(self, path: Path, *, name: str, wanted: Target, compress: str | None) -> ExportReport:
        """Write the best form of the new file, checked, and return its report, with the zeros of all its weights.

        Args:
            path: Where it is written.
            name: What it is called, such as `pruned`.
            wanted: The form, the batch and the runtime.
            compress: How it is compressed.

        Raises:
            ValueError: If no form passes its check.
        """
        fixed = self.file if wanted.fixed_batch is None else fix_batch(self.file, wanted.fixed_batch)
        tolerance, optimize = default_tolerance(self.dense.graph), "dense" if wanted.micro else wanted.optimize
        forms = wanted.forms(candidate_files(fixed, name=name, optimize=optimize), source=source_name(self.source))
        check = Check(self.outputs, tolerance, _ADVICE)
        choice = choose(forms, inputs=self.inputs, check=check, optimize=optimize, compress=compress)
        if wanted.micro is not None:
            inputs = arrays_of(self.inputs, names=[info.name for info in fixed.graph.inputs])
            other = choose_micro(fixed, inputs=inputs, check=Check(None, tolerance, _ADVICE), micro=wanted.micro)
            choice = replace(other, verified=choice.verified)
        return write_choice(path, choice, source=file_name(self.source), weights=self.file.graph.weights)


def jobs_of(settings: dict[str, Any], samples: Sequence[GraphSamples]) -> _Jobs:
    """Return the jobs of a process that changes a file, which takes settings and samples."""
    jobs: _Jobs = {_JOB: ({**settings, "graphs": len(samples)}, {})}
    for number, each in enumerate(samples):
        own = {"signature": each.signature, "held": each.held, "random": each.is_random}
        jobs[f"{_SAMPLES}{number}"] = own, _numbered(each.arrays)
    return jobs


def change(work: Work, dense: ModelFile, *, source: Source, jobs: _Jobs, verbose: int | str) -> _Changed:
    """Change a file in a process of its own.

    Args:
        work: The function that changes it, which hands over the new file by `FileJob`.
        dense: The file.
        source: Where it is from.
        jobs: What `jobs_of` returns, and others.
        verbose: How to show the progress.

    Raises:
        ValueError: If the function fails.
    """
    with TemporaryFolder() as folder:
        Path(folder, _DENSE).write_bytes(dense.content)
        for job, (settings, arrays) in jobs.items():
            write_job(folder, job, settings=settings, arrays=arrays)
        with ChildBar(folder, verbose=verbose, unit="layer") as bar:
            completed = run_job(work, folder, timeout=_TIMEOUT, environment=_CHILD, each_second=bar.look)
            if not completed.ok:
                refusal = _refusal(completed.reason, source_name(source))
                raise ArgumentError(refusal)  # whole, but the command line knows its options
        names = [jobs[f"{_SAMPLES}{number}"][0]["signature"] for number in range(jobs[_JOB][0]["graphs"])]
        inputs, outputs = (
            {name: read_job(folder, f"{kind}{number}")[1] for number, name in enumerate(names)}
            for kind in (_HELD, _OUTPUTS)
        )
        file = ModelFile(Path(folder, _CHANGED).read_bytes())
        settings = read_job(folder, _RESULT)[0]
        return _Changed(source, dense, file, settings, inputs.get("", inputs), outputs.get("", outputs))


def _refusal(reason: str, name: str) -> str:
    if reason.startswith("Expected"):
        return f"{reason}. Nothing was written."
    return (
        f"Expected a file whose operators can be run piece by piece. Received: {name}: {reason}. "
        "Nothing was written. Check with `tfprune verify` that the whole file runs."
    )


def _numbered(arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays by their numbers, as a job takes them."""
    return {str(index): array for index, array in enumerate(arrays)}


class _SampleRunner(Runner):
    """A runner that tells what the interpreter gets in each of its runs."""

    def in_range(
        self, samples: list[np.ndarray], *, content: bytes, is_random: bool
    ) -> tuple[list[np.ndarray], list[str]]:
        """Return samples in the range of the inputs, and what is strange about them."""
        model, arrays, warnings = load_objects(content), [], []
        for tensor, array in zip(self._inputs, samples, strict=True):
            expected, name = input_range(model, tensor), tensor.info.name
            if is_random and array.dtype.kind == "f":
                array = spread_over(array, expected)
                warnings.append(drawn_text(name, expected))
            elif expected is not None:
                warnings += check_range(array, expected, name=name)
            else:
                warnings += check_pixels(array, tensor, model=model)
            arrays.append(array)
        return arrays, warnings

    def runs(self, samples: list[np.ndarray]) -> list[Mapping[int, np.ndarray]]:
        """Return the inputs of each run by tensor; samples that do not fill a fixed batch are left out."""
        arrays = [tensor.encode(value) for tensor, value in zip(self._inputs, self._values(samples), strict=True)]
        indices = [tensor.index for tensor in self._inputs]
        step = self._rows_per_run(arrays)
        if step is None:
            return [dict(zip(indices, arrays, strict=True))]
        has_fixed_batch = any(tensor.batch for tensor in self._inputs)
        step = step if has_fixed_batch else min(step, _RUN_ROWS)
        rows = min(len(array) for array in arrays if array.ndim)
        ends = range(step, rows + 1, step) if has_fixed_batch else [*range(step, rows, step), rows]
        return [
            {
                index: array[end - step : end] if array.ndim else array
                for index, array in zip(indices, arrays, strict=True)
            }
            for end in ends
        ]

    def outputs_of(self, samples: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Return the outputs by name."""
        outputs = self.predict(samples)
        values = outputs if isinstance(outputs, list) else [outputs]
        return {info.name: np.asarray(value) for info, value in zip(self.outputs, values, strict=True)}


class _GraphJob:
    """The samples of one graph in the process of a job: those to work on, and those held out.

    Args:
        folder: The folder of the job.
        number: Which of its samples.
        content: The dense file.

    Attributes:
        signature: The signature that starts at the graph; empty for the first graph.
        warnings: What is strange about the samples.
    """

    def __init__(self, folder: Path, number: int, content: bytes) -> None:
        self._folder, self._number = folder, number
        settings, arrays = read_job(folder, f"{_SAMPLES}{number}")
        self.signature, self._held = settings["signature"], int(settings["held"])
        content = starting_at(content, self.signature)
        runner = _SampleRunner(content)
        is_random = settings["random"]
        samples, self.warnings = runner.in_range([*arrays.values()], content=content, is_random=is_random)
        self._dense = runner.outputs_of(samples)
        rows = max(len(array) for array in samples if array.ndim)
        self.warnings += constant_outputs(self._dense, samples=rows)
        if not has_variables(content):
            refuse_same_outputs(self._dense, rows=rows, held=self._held)
        self._first = [array[: len(array) - self._held] if array.ndim else array for array in samples]
        self._last = [array[len(array) - self._held :] if array.ndim else array for array in samples]
        self._compared = samples if has_variables(content) else self._last

    def runs_of(self, content: bytes) -> list[Mapping[int, np.ndarray]]:
        """Return the inputs of each run of a file, dense or changed, on the samples to work on."""
        content = starting_at(content, self.signature)
        return with_variables(content, _SampleRunner(content).runs(self._first))

    def outputs(self, content: bytes) -> dict[str, np.ndarray]:
        """Return the outputs of a file by name, on the samples held out, or all where runs follow each other."""
        return _SampleRunner(starting_at(content, self.signature)).outputs_of(self._compared)

    def errors(self, content: bytes) -> list[OutputError]:
        """Compare the outputs of another file with those of the dense one, on the samples held out."""
        outputs = self.outputs(content)
        last = {name: np.atleast_1d(array)[-self._held :] for name, array in outputs.items()}
        return [replace(row, signature=self.signature) for row in compare_outputs(self._dense, last, held=self._held)]

    def hand_over(self, expected: bytes) -> None:
        """Write the samples held out, and the outputs of a file on them."""
        runner = _SampleRunner(starting_at(expected, self.signature))
        named = {info.name: array for info, array in zip(runner.inputs, self._last, strict=True)}
        write_job(self._folder, f"{_HELD}{self._number}", arrays=named)
        write_job(self._folder, f"{_OUTPUTS}{self._number}", arrays=runner.outputs_of(self._last))


class FileJob:
    """A file and samples in the process of a job.

    Args:
        folder: The folder of the job.

    Attributes:
        folder: The folder.
        settings: The settings of the job.
        content: The dense file.
        runs: The inputs of each run of the interpreter on the samples to work on, by the number of the graph.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = read_job(folder, _JOB)[0]
        self.content = (folder / _DENSE).read_bytes()
        self._graphs = [_GraphJob(folder, number, self.content) for number in range(self.settings["graphs"])]
        self.runs = self.runs_of(self.content)

    def runs_of(self, content: bytes) -> dict[int, list[Mapping[int, np.ndarray]]]:
        """Return the inputs of each run of a file, dense or changed, by the number of the graph."""
        numbers = {"": 0, **graphs_of_signatures(load_objects(content))}
        return {numbers[graph.signature]: graph.runs_of(content) for graph in self._graphs}

    def errors(self, content: bytes) -> list[OutputError]:
        """Compare the outputs of another file with those of the dense one, on the samples held out."""
        return [row for graph in self._graphs for row in graph.errors(content)]

    def error(self, content: bytes) -> float:
        """Return the largest of these errors."""
        return max((row.error for row in self.errors(content) if row.error is not None), default=0.0)

    def check_same(self, content: bytes, expected: bytes) -> None:
        """Refuse a file whose outputs are not those of another one, but for rounding."""
        allowed = default_tolerance(read(content))
        for graph in self._graphs:
            outputs = graph.outputs(content)
            for name, wanted in graph.outputs(expected).items():
                difference = np.abs(outputs[name] - wanted.astype(np.float64)).max()
                _check_difference(difference, allowed * np.abs(wanted.astype(np.float64)).max(), name)

    def hand_over(self, content: bytes, settings: dict[str, Any], *, expected: bytes | None = None) -> None:
        """Write a new file, what is to be known of it, and the outputs that it should have.

        Args:
            content: The new file.
            settings: What is to be known of it.
            expected: A file that has these outputs; None for the new one itself.
        """
        (self.folder / _CHANGED).write_bytes(content)
        for graph in self._graphs:
            graph.hand_over(expected or content)
        warnings = [*settings.get("warnings", ()), *(text for graph in self._graphs for text in graph.warnings)]
        write_job(self.folder, _RESULT, settings={**settings, "warnings": warnings}, arrays={})


def _check_difference(difference: float, allowed: float, name: str) -> None:
    if not difference <= allowed:
        raise ValueError(
            f"Expected a file that does without channels what it does with zeros in their place. Received: output "
            f"{name!r} differs by {difference:.3g} (allowed: {allowed:.3g})"
        )


# The part of `prune_tflite` that runs in a process of its own: nobody has tested the pieces of a foreign file.

_X, _Y = "x", "y"  # the labeled data of a limit
_PATTERNS = {"Unstructured": Unstructured, "NM": NM, "Block": Block}


class _Labeled:
    """Labeled data, and a metric of the dense file on them."""

    def __init__(self, folder: Path, dense: bytes, metric: str | dict[str, str]) -> None:
        self.metric = metric
        self._x = [*read_job(folder, _X)[1].values()]
        settings, answers = read_job(folder, _Y)
        self.y = inputs_from_job(settings["form"], answers, draw=list)
        self.before = self.metrics(dense)

    def metrics(self, content: bytes) -> dict[str, float]:
        """Return the metric of a file, for each output."""
        return measure(_SampleRunner(content).outputs_of(self._x), self.y, metrics=self.metric)


class _Job:
    """The request of the parent process."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._samples = folder, FileJob(folder)
        self._settings, content = self._samples.settings, self._samples.content
        metric = self._settings["metric"]
        self._labeled = _Labeled(folder, content, metric) if metric else None
        self._allowed = Limit(self._settings["max_drop"], max_relative_drop=self._settings["max_relative_drop"])
        if self._labeled is not None:
            check_can_lose(self._allowed, self._labeled.before)
        pattern = _PATTERNS[self._settings["pattern"]](**self._settings["pattern_arguments"])
        pruned = 1 if self._settings["sparsity"] is not None else TRIES
        progress = ChildProgress(folder, rounds=1 + pruned)
        self._files = _PruningInOrder(content, self._samples.runs, pattern=pattern, folder=folder, progress=progress)
        if self._files.unmeasured and self._settings["max_error"] is not None:
            raise ValueError(
                f"Expected samples of each signature whose outputs move, for a limit of their error. Received: none "
                f"of {self._files.unmeasured}, which share weights that are pruned. Pass samples by signature"
            )

    def run(self) -> None:
        """Write the pruned file, and what is to be known of it."""
        content, layers = self._wanted()
        settings = {
            "layers": [vars(layer) for layer in layers],
            "errors": [vars(row) for row in self._samples.errors(content)],
            "skipped": self._files.skipped,
            "lost": [vars(row) for row in self._lost(content)],
        }
        self._samples.hand_over(content, {**settings, "warnings": self._warnings()})

    def _warnings(self) -> list[str]:
        warnings = []
        if self._files.unmeasured:
            text = "share pruned weights and have no samples: nobody measured how far their outputs moved."
            warnings.append(f"Signatures {self._files.unmeasured} {text} Pass samples by signature.")
        if self._labeled is not None:
            warning = one_class_warning(self._allowed, self._labeled.before, labels=self._labeled.y)
            warnings += [] if warning is None else [str(warning)]
        return warnings

    def _wanted(self) -> tuple[bytes, list[PrunedLayer]]:
        sparsity, max_bytes, max_error = (self._settings[name] for name in ("sparsity", "max_bytes", "max_error"))
        if sparsity is not None:
            return self._files.pruned(sparsity)
        if max_bytes is not None:
            return self._search(lambda content: self._bytes(content) <= max_bytes, f"{max_bytes:,} bytes", toward=-1)
        if max_error is not None:
            limit = f"an error of {max_error:g}"
            return self._search(lambda content: self._samples.error(content) <= max_error, limit, toward=1)
        drops = ", ".join(f"{name}={drop:g}" for name, drop in self._allowed.drops.items())
        return self._search(self._allows, drops, toward=1)

    def _search(self, fits: Callable[[bytes], bool], limit: str, *, toward: int) -> tuple[bytes, list[PrunedLayer]]:
        make = self._files.pruned
        return search(lambda percent: make(percent / 100), lambda pair: fits(pair[0]), limit=limit, toward=toward)

    def _bytes(self, content: bytes) -> int:
        forms = candidate_files(ModelFile(content), name="pruned", optimize=self._settings["optimize"])
        return min(len(encode(form.file.content, self._settings["compress"])) for form in forms)

    def _allows(self, content: bytes) -> bool:
        return all(row.drop <= (largest_drop(self._allowed, row.before) or 0.0) for row in self._lost(content))

    def _lost(self, content: bytes) -> tuple[AccuracyDrop, ...]:
        if self._labeled is None:
            return ()
        return accuracy_drops(self._labeled.before, self._labeled.metrics(content), mode=self._settings["mode"])


def _run_job(folder: Path) -> None:
    _Job(folder).run()


@certified
def prune_tflite(
    source: Source,
    path: str | os.PathLike[str],
    samples: Any,
    *,
    sparsity: float | None = None,
    max_bytes: int | None = None,
    max_error: float | None = None,
    pattern: str | Pattern = "unstructured",
    optimize: str = "size",
    compress: str | None = None,
    batch: int | None = None,
    max_drop: Limit | None = None,
    verbose: int | str = "auto",
) -> PruneTfliteReport:
    """Put zeros in place of the weights of a .tflite file that its outputs miss least, and write the file anew.

    Use it on a file without training code: from another framework, from a vendor, or from a package. It needs neither
    Keras nor TensorFlow, neither labels nor training. Where the model can be trained, `PruningCallback` reaches more
    zeros at the same accuracy.

    The weights of convolutions, transposed convolutions, fully connected and recurrent layers, of products with
    constant matrices and of tables get zeros, in order: each layer is solved for so that it returns, on what the
    layers before it return with their zeros, what it returned in the dense file. Layers that the outputs depend on
    most get the fewest zeros. Integer weights keep their types; their scales grow where values no longer fit. All
    other weights stay, and the report lists them.

    Args:
        source: The file: a path, or its content. Plain, gzip, xz or packed; float32, float16, or with 8-bit or 4-bit
            weights.
        path: Where the new file is written; it may be the path of the old one.
        samples: Inputs as the file will see them, without labels, 256 or so: one array, batch first; for several
            inputs a list in the file's order or a dict by name. For a file with several signatures a dict of such
            samples by signature, or those of its first graph alone; the others keep their weights. A weight that
            signatures share is pruned on the samples of the first one that uses it; the report warns of signatures
            without samples whose outputs so move, and `max_error` needs samples of them. For a file that keeps
            values from one run to the next, such as a wake word, samples are successive inputs of one stream. Real
            numbers, preprocessed as in training: no error in the report shows a wrong preprocessing. Every eighth is
            held out, from the end: put samples of another origin there. `"random"` draws numbers in the range of the
            inputs, which costs accuracy.
        sparsity: The fraction of zeros in all weights that are pruned, in [0, 1). Give this, or
            one of `max_bytes`, `max_error` and `max_drop`.
        max_bytes: The largest size of the new file, as written: the fewest zeros that keep to it are taken.
        max_error: The largest error of an output on the held-out samples, as a fraction of its standard deviation,
            such as 0.1: the most zeros that keep to it are taken.
        pattern: `"unstructured"` (the default), `patterns.NM(2, 4)` or `patterns.Block(1, 4)`, in short `"2:4"` and
            `"1x4"`.
        optimize: As in `rewrite`: `"size"` (the default) takes the form of the fewest bytes, `"latency"` the one with
            the fastest kernels, `"dense"` the dense one, `"sparse"` the smallest sparse one.
        compress: None (the default), `"gzip"`, `"xz"` or `"packed"`.
        batch: The samples that the new file takes at once, as in `rewrite`; None (the default) leaves it as it is. 1
            is needed for fast zeros of 3x3 convolutions, with `optimize="latency"`.
        max_drop: A `tfprune.Limit` with labeled data, such as `tfprune.Limit(0.01, data=(x, y))`: the most zeros with
            which the file loses no more of the metric there are taken. The data decide, so report the accuracy on
            others. For several outputs, the limit holds for each; for several signatures, it holds for the outputs
            of the first graph.
        verbose: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows the bar in a
            terminal or a notebook, once the call has taken some seconds. It counts layers: each is measured once,
            and pruned once for each sparsity that is tried.

    Returns:
        The zeros and the error of each layer, the error of each output, and what was written.

    Raises:
        TypeError: If `samples` are None, or an argument has another type.
        ValueError: If not one of `sparsity`, `max_bytes`, `max_error` and `max_drop` is given, or a value is out of
            range.
        ValueError: If the file cannot be read or run, has hash tables, or has no weights to prune.
        ValueError: If samples do not fit the inputs, or do not change the outputs.

    Example:
        >>> report = prune_tflite("digits.tflite", "sparse.tflite", images, sparsity=0.92)  # 0.9 are zeros already
        >>> round(report.sparsity, 2)
        0.92

    Reference:
        Frantar & Alistarh, 2023, "SparseGPT", arXiv:2301.00774 (the step of each layer).
    """
    check_verbose(verbose)
    destination = check_destination(path)
    check_method(compress)
    check_suffix(destination, compress)
    check_choice(optimize, "optimize", choices=OPTIMIZE)
    shape = as_weight_pattern(pattern, advice="Channels are removed by shrink_tflite, or by `tfprune shrink`.")
    goal = _checked_goal(shape, sparsity=sparsity, max_bytes=max_bytes, max_error=max_error, max_drop=max_drop)
    file = ModelFile.open(source)
    if batch is not None:
        check_batch(file, batch)
    graphs = samples_of_graphs(samples, file)
    settings = {**goal.settings(), "optimize": "size" if optimize == "latency" else optimize, "compress": compress}
    settings |= {"pattern": type(shape).__name__, "pattern_arguments": shape.get_config()}
    jobs = jobs_of(settings, graphs)
    if goal.metric:
        form, answers = inputs_to_job(goal.y)
        jobs |= {_X: ({}, _numbered(check_samples(goal.x, file.graph))), _Y: ({"form": form}, answers)}
    pruned = change(_run_job, file, source=source, jobs=jobs, verbose=verbose)
    wanted = Target(optimize, micro=None, is_web=False, batch=batch)
    report = pruned.write(destination, name="pruned", wanted=wanted, compress=compress)
    layers = tuple(PrunedLayer(**row) for row in pruned.settings["layers"])
    size, nnz = (sum(getattr(layer, count) for layer in layers) for count in ("size", "nnz"))
    return PruneTfliteReport(
        sparsity=fraction_of_zeros(nnz, size),
        layers=layers,
        errors=tuple(OutputError(**row) for row in pruned.settings["errors"]),
        skipped=tuple(Skipped(layer, reason, Skipped.NO_RULE) for layer, reason in pruned.settings["skipped"]),
        samples=sum(graph.fitted for graph in graphs),
        held_out=sum(graph.held for graph in graphs),
        warnings=warnings_of(graphs, pruned.settings["warnings"]),
        lost=tuple(AccuracyDrop(**row) for row in pruned.settings["lost"]),
        file=report,
    )
