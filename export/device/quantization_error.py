"""Errors of each layer of an 8-bit file against the float file, and biases that correct their means."""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.base.folders import TemporaryFolder
from tfprune.base.output import save_figure
from tfprune.base.spec import ArgumentError, check_count
from tfprune.export.device.processes import Work, read_job, run_job, write_job
from tfprune.export.device.runner import (
    IOTensor,
    WatchedRunner,
    inputs_from_job,
    inputs_to_job,
    interpreter_module,
    plain_interpreter,
)
from tfprune.export.file import schema
from tfprune.export.file.container import Source, source_name
from tfprune.export.file.document import (
    Grid,
    NamedTensors,
    add_operator,
    add_tensor,
    add_values,
    indices_of,
    inputs_of,
    load_objects,
    put_in_order,
    save_objects,
    unpack_objects,
)
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import Operator, Subgraph
from tfprune.export.file.report import layer_title
from tfprune.report import Report, new_figure, table

# Report of the error of an 8-bit file, layer by layer: a table and a picture.

_BORDER_BYTES = 100  # of an operator, as one that turns floats into integers or back, with its tensor


@dataclass(frozen=True)
class QuantizationErrorRow(Report):
    """The output of a layer in the 8-bit file, against that in the float file.

    Attributes:
        name: The name of the tensor.
        operator: The operator that makes it in the 8-bit file.
        error: The root of the mean squared difference, as a fraction of the root of the mean square.
        before: The largest `error` among what the operator takes; 0 for the first ones.
        steps: The root of the mean squared difference, in steps of the tensor's scale: 0.29 is what rounding alone
            makes. 0 for a tensor that is not of integers.
        clipped: The fraction of float values that lie outside of the range of the integers.
        added_bytes: The bytes that its weights add to the file if the operator stays in float.
        takers: The names of the rows whose operators take the tensor.
        effect: The root of the mean squared difference of the float file's outputs if this tensor alone is rounded
            to 8 bits, as a fraction of the root of the mean square; measured on the first 4 samples.
    """

    name: str
    operator: str
    error: float
    before: float
    steps: float
    clipped: float
    added_bytes: int = 0
    takers: tuple[str, ...] = ()
    effect: float = 0.0

    @property
    def layer(self) -> str:
        """The name without what the converter joined to it."""
        return self.name.partition(";")[0]


@dataclass(frozen=True)
class _Step:
    """Operators that may stay in float, too: the squared errors that this removes, and the bytes that it adds."""

    names: tuple[str, ...]
    won: float
    bytes: int


class _FloatParts:
    """The operators of a file that stay in float.

    Args:
        rows: All rows.

    Attributes:
        rows: The rows by name.
        chosen: The names of the operators, in the order in which they were chosen; the values are None.
    """

    def __init__(self, rows: Sequence[QuantizationErrorRow]) -> None:
        self.rows = {row.name: row for row in rows}
        self.chosen: dict[str, None] = {}
        self._makers: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            for taker in row.takers:
                self._makers[taker].append(row.name)

    def step_for(self, row: QuantizationErrorRow) -> _Step:
        """Return the step after which a tensor is rounded no more."""
        names = tuple(name for name in (row.name, *row.takers) if name not in self.chosen)
        near = [self.rows[name] for name in {*names, *(maker for name in names for maker in self._makers[name])}]
        before, after = self.chosen.keys(), {*self.chosen, *names}
        won = math.fsum(each.effect**2 * (_is_whole(each, after) - _is_whole(each, before)) for each in near)
        borders = sum(_is_border(each, after) - _is_border(each, before) for each in near)
        return _Step(names, won, _BORDER_BYTES * borders + sum(self.rows[name].added_bytes for name in names))


def _is_whole(row: QuantizationErrorRow, names: Collection[str]) -> bool:
    """Return True if a tensor is not rounded: its operator and all that take it stay in float."""
    return row.name in names and all(taker in names for taker in row.takers)


def _is_border(row: QuantizationErrorRow, names: Collection[str]) -> bool:
    """Return True if a tensor has to be turned into integers, or back."""
    return any((taker in names) != (row.name in names) for taker in row.takers)


@dataclass(frozen=True)
class QuantizationErrorReport(Report):
    """The error of each layer of an 8-bit file.

    Attributes:
        rows: One row for each tensor that both files have, in the order of the 8-bit file.
        samples: The number of samples.
        runtime: The interpreter that ran both, and its version.
        bytes: The size of the 8-bit file.

    Example:
        >>> report = tfprune.export.quantization_error("digits.tflite", "digits_int8.tflite", images)
        >>> report.worst.error >= report.rows[0].error
        True
        >>> report.plot("error.png")
    """

    rows: tuple[QuantizationErrorRow, ...]
    samples: int
    runtime: str
    bytes: int = 0

    @property
    def worst(self) -> QuantizationErrorRow:
        """The row at which the error grows most."""
        return max(self.rows, key=lambda row: row.error - row.before)

    def to_skip(self, *, max_bytes: int) -> tuple[QuantizationErrorRow, ...]:
        """Choose the operators that should stay in float, for `Quantization(skip=...)`.

        A tensor is rounded no more if the operator that makes it and those that take it stay in float. The
        operators whose `effect` on the outputs is largest for their number and the bytes that they add are chosen
        first, until the file would be too large.

        Args:
            max_bytes: The largest size of the file, in bytes. It is estimated from the weights, and from the
                operators that convert values between floats and integers.

        Returns:
            The rows of the operators, in the order in which they were chosen; none if nothing fits. The names for
            `skip` are `[row.name for row in rows]`.

        Raises:
            ValueError: If `max_bytes` is less than the size of the 8-bit file.

        Example:
            >>> report = tfprune.export.quantization_error("digits.tflite", "digits_int8.tflite", images)
            >>> rows = report.to_skip(max_bytes=int(1.2 * report.bytes))
            >>> sum(row.added_bytes for row in rows) < 0.2 * report.bytes
            True
        """
        check_count(max_bytes, "max_bytes", least=self.bytes)
        parts, size = _FloatParts(self.rows), self.bytes
        while True:
            steps = [parts.step_for(row) for row in self.rows if row.steps]
            fitting = [step for step in steps if step.names and size + step.bytes <= max_bytes]
            if not fitting:
                return tuple(parts.rows[name] for name in parts.chosen)
            best = max(fitting, key=lambda step: step.won / (_BORDER_BYTES * len(step.names) + max(0, step.bytes)))
            parts.chosen |= dict.fromkeys(best.names)
            size += best.bytes

    def plot(self, path: str | Path) -> None:
        """Draw the error of each layer into an image file, and how much of it the layer adds.

        Args:
            path: The file to write; its suffix gives the format, such as `.png` or `.svg`.

        Raises:
            ValueError: If matplotlib is not installed, or the file cannot be written.
        """
        figure = new_figure(9, 1.5 + 0.22 * len(self.rows))
        axes = figure.subplots()
        rows = self.rows[::-1]  # bars are drawn from the bottom up
        places = range(len(rows))
        inherited = [min(row.before, row.error) for row in rows]
        added = [row.error - old for row, old in zip(rows, inherited, strict=True)]
        axes.barh(places, inherited, color="lightgrey", label="error of the input")
        axes.barh(places, added, left=inherited, color="tab:orange", label="added by the layer")
        axes.set_yticks(places, [layer_title(row.layer) for row in rows], fontsize="small")
        axes.set(xlabel="error of the layer's output, as a fraction of its size", ylim=(-0.7, len(rows) - 0.3))
        figure.legend(loc="outside upper right", ncols=2, fontsize="small")
        save_figure(figure, path)

    def __str__(self) -> str:
        lines = [
            [layer_title(row.layer), row.operator, f"{row.error:.4f}", f"{row.before:.4f}"]
            + ([f"{row.steps:.2f}", f"{row.clipped:.2%}", f"{row.effect:.4f}"] if row.steps else ["-", "-", "-"])
            for row in self.rows
        ]
        header = ["layer", "operator", "output error", "input error", "steps", "clipped", "effect"]
        note = f"{self.samples:,} samples, {self.runtime}; the error grows most at {self.worst.layer}"
        return f"{table(header, lines, left=2)}\n\n{note}"


# Which layer of an 8-bit file costs what: each of its tensors, against the same tensor of the float file.
#
# Both files are run in one process of its own, without XNNPACK, which keeps no tensors between its layers.

_FILES = ("float.tflite", "integers.tflite")
_TIMEOUT = 3600.0  # seconds: kernels without XNNPACK are slow
_BORDERS = ("QUANTIZE", "DEQUANTIZE")
_FLOAT_BYTES = 4  # of a number that takes one in 8 bits
_NEVER = 1e4  # steps below the range of a tensor: numbers there are masks of attention, which integers clamp
_ZERO, _ONE = np.zeros(1, np.float32), np.ones(1, np.int32)
_MOST_ROUNDED = 4  # samples on which tensors are rounded one by one: each is a run of the float file
MOVES = {"RESHAPE", "SPLIT", "SPLIT_V", "UNPACK", "PACK", "TRANSPOSE", "SQUEEZE", "STRIDED_SLICE", "DENSIFY", "SHAPE"}


def errors_of_files(reference: Source, quantized: Source, *, samples: Any) -> QuantizationErrorReport:
    """Compare an 8-bit file with the float file of the same model, as `quantization_error` describes it."""
    files = [ModelFile.open(source) for source in (reference, quantized)]
    form, arrays = inputs_to_job(samples)
    graph = files[1].graph.subgraphs[0]
    names = sorted({graph.tensors[index].name for index, _ in _made(graph)} & _names_of(files[0]))
    with TemporaryFolder() as folder:
        write_job(folder, "job", settings={"form": form, "names": names}, arrays=arrays)
        _run_both([file.content for file in files], folder, work=_quantization_error_job)
        measured, _ = read_job(folder, "result")
    rows = _rows(graph, measured["tensors"])
    if not rows:
        raise ValueError(
            f"Expected two files of the same model. Received: {source_name(reference)} and {source_name(quantized)}, "
            "which have no tensors of one name. Export both from one model."
        )
    return QuantizationErrorReport(
        tuple(rows), samples=measured["samples"], runtime=measured["runtime"], bytes=len(files[1].content)
    )


def _run_both(contents: list[bytes], folder: str, *, work: Work) -> None:
    """Run a function on a float file, an int8 file and a job in a folder, in a process of its own.

    Raises:
        ValueError: If the files do not run.
    """
    for name, content in zip(_FILES, contents, strict=True):
        Path(folder, name).write_bytes(content)
    completed = run_job(work, folder, timeout=_TIMEOUT, package=interpreter_module())
    if not completed.ok:
        raise ArgumentError(
            "samples",
            "two files that run on `samples`",
            found=completed.reason,
            advice="Check each with `tfprune verify`.",
        )


def _made(graph: Subgraph) -> Iterator[tuple[int, str]]:
    """Yield what operators compute, and their names."""
    for operator in graph.operators:
        if operator.name not in MOVES:
            yield from ((index, operator.name) for index in operator.outputs if index >= 0)


def _names_of(file: ModelFile) -> set[str]:
    """Return the names of what the operators of a file compute."""
    graph = file.graph.subgraphs[0]
    return {graph.tensors[index].name for operator in graph.operators for index in operator.outputs if index >= 0}


def _rows(graph: Subgraph, measured: dict[str, dict[str, float]]) -> list[QuantizationErrorRow]:
    """Put each tensor beside the worst of those that its operator takes."""
    kinds, rows = dict(_made(graph)), []
    added, takers = _costs(graph, set(measured))
    errors: dict[int, float] = {}  # of each tensor, or of what it was made from
    for operator in graph.operators:
        before = max((errors.get(index, 0.0) for index in operator.inputs), default=0.0)
        errors |= dict.fromkeys(operator.outputs, before)
        named = [(index, graph.tensors[index].name) for index in operator.outputs if index in kinds]
        for index, name in named:
            if name in measured:
                # What is dequantized is the output of the operator before, under its name in float files.
                kind = kinds.get(operator.inputs[0], "DEQUANTIZE") if operator.name == "DEQUANTIZE" else operator.name
                size, ends = added.get(name, 0), tuple(takers[name])
                row = QuantizationErrorRow(name, kind, before=before, added_bytes=size, takers=ends, **measured[name])
                rows.append(row)
                errors[index] = rows[-1].error
    return rows


def _costs(graph: Subgraph, names: set[str]) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Return what each row adds to the file if its operator stays in float, and the rows that take its values."""
    added: dict[str, int] = {}
    takers: dict[str, list[str]] = defaultdict(list)
    makers: dict[int, str] = {}
    outputs = {
        operator.inputs[0]: operator.outputs[0] for operator in graph.operators if operator.name == "DEQUANTIZE"
    }
    for operator in graph.operators:
        before = [makers[index] for index in operator.inputs if index in makers]
        if operator.name in MOVES or operator.name in _BORDERS:
            makers.update(dict.fromkeys(operator.outputs, before[0]) if before else {})
            continue
        ends = [outputs.get(index, index) for index in operator.outputs[:1]]
        row_names = [name for index in (*operator.outputs, *ends) if (name := graph.tensors[index].name) in names]
        for name in row_names[:1]:
            constants = {index for index in operator.inputs if index >= 0 and graph.tensors[index].constant}
            eight_bit = [graph.tensors[index].bytes for index in constants if graph.tensors[index].dtype == "int8"]
            added[name] = (_FLOAT_BYTES - 1) * sum(eight_bit)
            makers |= dict.fromkeys(operator.outputs, name)
            for other in before:
                takers[other] += [] if name in takers[other] else [name]
    return added, takers


def _without_masks(right: np.ndarray, tensor: IOTensor) -> np.ndarray:
    """Return the floats of a tensor; what only means "never" becomes the lowest number of its integers."""
    real = right.astype(np.float64)
    if not tensor.scale:
        return real
    lowest = (np.iinfo(tensor.dtype).min - tensor.zero_point) * tensor.scale
    return np.where(real < lowest - _NEVER * tensor.scale, lowest, real)


def _rounding(real: np.ndarray, tensor: IOTensor) -> np.ndarray:
    """Return what rounding to the integers of a tensor adds to real numbers."""
    limits = np.iinfo(tensor.dtype)
    integers = np.clip(np.rint(real / tensor.scale + tensor.zero_point), limits.min, limits.max)
    return (integers - tensor.zero_point) * tensor.scale - real


class _Sums:
    """The sums over the samples for one tensor."""

    squares = error = scale = 0.0
    count = clipped = 0

    def add(self, right: np.ndarray, values: np.ndarray, tensor: IOTensor) -> None:
        real = _without_masks(right, tensor).ravel()
        self.error += float(np.square(values.ravel() - real).sum())
        self.squares += float(np.square(real).sum())
        self.count += real.size
        self.scale = tensor.scale
        if tensor.scale:
            self.clipped += int(np.count_nonzero(np.abs(_rounding(real, tensor)) > 0.5 * 1.001 * tensor.scale))

    def result(self) -> dict[str, float]:
        root = np.sqrt(self.error / self.count) if self.count else 0.0
        return {
            "error": float(np.sqrt(self.error / self.squares)) if self.squares else 0.0,
            "steps": float(root / self.scale) if self.scale else 0.0,
            "clipped": self.clipped / self.count if self.count else 0.0,
        }


class _Disturbed:
    """A float file in which one tensor at a time has something added to it.

    Args:
        content: The plain float file.
        names: The names of the tensors.
    """

    def __init__(self, content: bytes, names: Collection[str]) -> None:
        file = NamedTensors(unpack_objects(content))
        self._count, added = len(file.graph.inputs), []
        floats = [index for index in file.maker if file.dtype(index) == "float32"]
        self.places = {file.name(index): index for index in floats if file.name(index) in names}
        for index in self.places.values():
            added.append(add_tensor(file.graph, file.tensors[index], shape=_ONE, shapeSignature=None, buffer=0))
            result = add_tensor(file.graph, file.tensors[index], buffer=0)
            for holder, key in [(each, "inputs") for each in file.graph.operators] + [(file.graph, "outputs")]:
                setattr(holder, key, np.where(getattr(holder, key) == index, result, getattr(holder, key)))
            parts = [index, added[-1]]
            add_operator(
                file.model, file.graph, name="ADD", inputs=parts, outputs=[result], options=schema.AddOptionsT()
            )
        file.graph.inputs, file.model.signatureDefs = np.array([*file.graph.inputs, *added], np.int32), None
        put_in_order(file.model)
        self._interpreter = plain_interpreter(save_objects(file.model))

    def outputs(self, inputs: Sequence[np.ndarray], name: str = "", addend: np.ndarray = _ZERO) -> np.ndarray:
        """Return all outputs of floats with something added to the tensor of a name."""
        details = self._interpreter.get_input_details()
        addends = [addend if each == name else _ZERO for each in self.places]
        for detail, array in zip(details, [*inputs, *addends], strict=True):
            if tuple(detail["shape"]) != array.shape:
                self._interpreter.resize_tensor_input(detail["index"], array.shape)
        self._interpreter.allocate_tensors()
        for detail, array in zip(details, [*inputs, *addends], strict=True):
            self._interpreter.set_tensor(detail["index"], array)
        self._interpreter.invoke()
        results = [self._interpreter.get_tensor(each["index"]) for each in self._interpreter.get_output_details()]
        floats = [result.astype(np.float64).ravel() for result in results if result.dtype.kind == "f"]
        return np.nan_to_num(np.concatenate([np.zeros(1), *floats]), posinf=0, neginf=0)


class _Pair:
    """A float file and an 8-bit one of the same model, run on the same samples in this process.

    Args:
        reference: The plain float file.
        quantized: The plain 8-bit file.
    """

    def __init__(self, reference: bytes, quantized: bytes) -> None:
        self._reference = reference
        self._runners = WatchedRunner(reference), WatchedRunner(quantized)
        self.runtime = self._runners[0].runtime

    def _runs(
        self, form: str, arrays: dict[str, np.ndarray], names: set[str]
    ) -> Iterator[Sequence[dict[str, tuple[np.ndarray, IOTensor]]]]:
        """Run both files batch after batch, and yield the tensors of each by name."""
        step = min(runner.rows for runner in self._runners)
        for start in range(0, _length_of(arrays), step):
            part = {name: array[start : start + step] for name, array in arrays.items()}
            for runner in self._runners:
                runner.predict(inputs_from_job(form, part, draw=list))
            yield [runner.tensors(names) for runner in self._runners]

    def compared(
        self, form: str, arrays: dict[str, np.ndarray], names: set[str]
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray, IOTensor]]:
        """Yield, batch after batch, each tensor in both files as real numbers, and what describes the integers."""
        for reference, quantized in self._runs(form, arrays, names):
            for name in sorted(reference.keys() & quantized.keys()):
                if reference[name][0].dtype.kind == "f" and reference[name][0].size == quantized[name][0].size:
                    yield name, reference[name][0], *quantized[name]

    def effects(self, form: str, arrays: dict[str, np.ndarray], names: set[str]) -> dict[str, float]:
        """Return what rounding one tensor alone does to the outputs of the float file, by its name."""
        disturbed, errors, squares = _Disturbed(self._reference, names), dict.fromkeys(names, 0.0), 0.0
        few = {name: array[:_MOST_ROUNDED] for name, array in arrays.items()}
        for reference, quantized in self._runs(form, few, names):
            given = self._runners[0].given
            plain = disturbed.outputs(given)
            squares += float(np.square(plain).sum())
            for name in disturbed.places.keys() & reference.keys() & quantized.keys():
                right, tensor = reference[name][0], quantized[name][1]
                if tensor.scale and right.dtype == np.float32:
                    rounding = _rounding(_without_masks(right, tensor), tensor).astype(np.float32)
                    errors[name] += float(np.square(disturbed.outputs(given, name, rounding) - plain).sum())
        return {name: math.sqrt(error / squares) if squares else 0.0 for name, error in errors.items()}


def _length_of(arrays: dict[str, np.ndarray]) -> int:
    """Return how many samples there are."""
    return min(len(array) for array in arrays.values())


def _quantization_error_job(folder: Path) -> None:
    settings, arrays = read_job(folder, "job")
    pair = _Pair(*((folder / name).read_bytes() for name in _FILES))
    sums = {name: _Sums() for name in settings["names"]}
    for name, right, values, tensor in pair.compared(settings["form"], arrays, set(sums)):
        sums[name].add(right, values, tensor)
    effects = pair.effects(settings["form"], arrays, {name for name, total in sums.items() if total.scale})
    measured = {
        name: total.result() | {"effect": effects.get(name, 0.0)} for name, total in sums.items() if total.count
    }
    write_job(
        folder, "result", settings={"tensors": measured, "samples": _length_of(arrays), "runtime": pair.runtime}
    )


# Prove a file against the float file of the same model: constant by constant, and integers operator by operator.
#
# A deep network amplifies rounding from layer to layer, so its outputs prove little. Here every constant is compared
# with that of the float file, and every operator of integers starts from the numbers that the file has before it.

_log = logging.getLogger(__name__)
_SAMPLES = 8  # operators show within a few what they do; the constants need none
_MOST_NUMBERS = 2**24  # in all tensors of one invocation, which bounds memory
_PASSING = (*_BORDERS, "RESHAPE")  # operators that give the numbers that they take
_ACTIVATION = "fusedActivationFunction"
_AS_CONVOLUTION = {"FULLY_CONNECTED": "CONV_2D"}  # operators that are others in a file of 4-bit weights
# Steps of a constant's scale, or between two floats of its size: rounding leaves half of one. The end of a range of
# integers may take the other half, 4 bits are rounded from 8, and sums of float32 are a few steps apart.
_MOST_OFF = {"int4": 0.6, "float16": 0.51, "float32": 8.0, **dict.fromkeys(("int8", "int16", "int32", "int64"), 1.0)}
_PRECISION = 1e-6  # of a constant itself: what float32 leaves
# Steps of 8 bits of an operator's output: kernels for integers were seen 1.1 off, and most 0.5; those for 16 bits 18
# of their own steps, which are 256 times smaller.
_MOST_STEPS, _EIGHT_BITS = 3.0, 128
_MOST_CLIPPED = 0.05  # of the values of a tensor may lie outside of its range, if rounding is to explain the outputs


@dataclass(frozen=True)
class _Rounding:
    """A file of another number format beside the float file of the same model.

    Attributes:
        fault: The constant or operator that rounding does not explain; empty if there is none.
        is_whole: Whether every weight and every output of a file of integers was compared, and few values lie outside
            of their range.
        outputs: The outputs of a file of integers for the first samples, by plain kernels; empty with a fault, or if
            these do not run.
    """

    fault: str
    is_whole: bool
    outputs: dict[str, np.ndarray]


def explain_rounding(reference: bytes, quantized: bytes, *, inputs: Mapping[str, np.ndarray]) -> _Rounding:
    """Compare a file with the float file of the same model, in a process of its own.

    Constants and fused activations are compared in each number format, and in a file of integers also what each
    operator makes of the samples.

    Args:
        reference: The plain float file, with the same operators; one with fake quantization, too.
        quantized: The plain file of another number format.
        inputs: Samples by the names of the inputs.
    """
    with TemporaryFolder() as folder:
        write_job(folder, "job", arrays={name: array[:_SAMPLES] for name, array in inputs.items()})
        try:
            _run_both([reference, quantized], folder, work=_round_job)
        except ValueError as error:
            _log.info("constants and operators are not compared with those of the float file: %s", error)
            return _Rounding("", False, {})
        settings, outputs = read_job(folder, "result")
    return _Rounding(settings["fault"], settings["is_whole"], outputs)


_MASKING = ("ADD", "SELECT", "SELECT_V2")  # operators that mask what a softmax takes
_MASKED = -1e3  # constants below it mean "never"
_TABLES = ("GATHER", "EMBEDDING_LOOKUP")


class _SameGraph:
    """A graph of the float file and that of another file of the same model: what means the same in both.

    Attributes:
        exact: The graph of the float file.
        file: The graph of the other file.
        same: The tensors of the other file by those of the float file, as far as their names or their makers say so.
        compared: The constants of the other file that were compared.
    """

    def __init__(self, exact: NamedTensors, file: NamedTensors) -> None:
        self.exact, self.file = exact, file
        self.compared: set[int] = set()
        self.same = self._same_names()
        self._follow()

    def _same_names(self) -> dict[int, int]:
        """Find the tensors that operators make in both files, by their names in the float file."""
        file, inputs = self.file, indices_of(self.file.graph.inputs)
        counterparts = {file.name(index): index for index in file.known if index in file.maker or index in inputs}
        for operator in file.graph.operators:  # where floats become integers and back, both have the meaning of one
            ends = int(operator.inputs[0]), int(operator.outputs[0])
            if file.kind(operator) in _BORDERS:
                inner, outer = sorted(ends, key=lambda index: file.grid(index) is None)
                counterparts[file.name(outer)] = inner
        by_name = {index: counterparts.get(self.exact.name(index)) for index in self.exact.known}
        return {index: same for index, same in by_name.items() if same is not None}

    def _follow(self) -> None:
        """Find outputs with other names, of operators that alone take the same tensors and make as many numbers."""
        makers: dict[tuple[str, tuple[int, ...]], list[schema.OperatorT]] = defaultdict(list)
        for other in self.file.graph.operators:
            sources = tuple(end for index in inputs_of(other) if (end := _origin(self.file, index)) >= 0)
            makers[self.file.kind(other), sources].append(other)
        for operator in self.exact.graph.operators:
            if self.partner(operator) is None and self.exact.kind(operator) not in _PASSING:
                ends = [end for index in inputs_of(operator) if (end := _origin(self.exact, index)) >= 0]
                sources = tuple(_origin(self.file, self.same.get(end, -1)) for end in ends)
                kind = self.exact.kind(operator)
                size = _size(self.exact, operator)
                partners = [*makers[kind, sources], *makers[_AS_CONVOLUTION.get(kind, ""), sources]]
                partners = [other for other in partners if _size(self.file, other) == size]
                if len(partners) > 1:  # such as keys and values of attention
                    names = self._constant_names(self.exact, operator)
                    partners = [other for other in partners if names & self._constant_names(self.file, other)]
                if len(partners) == 1 and min(sources, default=-1) >= 0:
                    self.same.update(zip(indices_of(operator.outputs), indices_of(partners[0].outputs), strict=False))

    def _constant_names(self, file: NamedTensors, operator: schema.OperatorT) -> set[str]:
        """Return the names of the constants that an operator takes."""
        before = [self._before(index) if file is self.file else index for index in indices_of(operator.inputs)]
        return {file.name(index) for index in before if index not in file.maker}

    def inputs(self, operator: schema.OperatorT) -> list[tuple[int, int]]:
        """Return the tensors that an operator of the float file takes, each with that of the other file, or -1."""
        inputs, other = inputs_of(operator), self.partner(operator)
        others = [] if other is None else inputs_of(other)
        if len(others) != len(inputs) and self.exact.kind(operator) not in _AS_CONVOLUTION:
            others = []
        return [*zip(inputs, [*others, *([-1] * len(inputs))], strict=False)]

    def partner(self, operator: schema.OperatorT) -> schema.OperatorT | None:
        """Return the operator of the other file that computes the same; None if there is none of the same kind."""
        outputs = indices_of(operator.outputs)  # nothing, where a variable is set
        other = self.file.maker.get(self.same.get(outputs[0], -1)) if outputs else None
        if other is None:
            return None
        kind = self.exact.kind(operator)
        return other if self.file.kind(other) in (kind, _AS_CONVOLUTION.get(kind)) else None

    @property
    def computes_integers(self) -> bool:
        """Whether operators of the other file compute with integers that other operators make."""
        file = self.file
        takers = [each for each in file.graph.operators if file.kind(each) != "DEQUANTIZE"]
        inputs = [index for each in takers for index in inputs_of(each)]
        return any(index in file.maker and file.grid(index) is not None for index in inputs)

    def faults(self) -> Iterator[str]:
        """Yield what rounding does not explain in the constants and the activations of the operators."""
        for operator in self.exact.graph.operators:
            other = self.partner(operator)
            if other is not None:
                own, wanted = (getattr(each.builtinOptions, _ACTIVATION, 0) for each in (other, operator))
                if own not in (wanted, wanted or self._following(operator)):
                    names = {number: name for name, number in vars(schema.ActivationFunctionType).items()}
                    title = self.exact.title(operator)
                    yield f"{title} ends with the activation {names.get(own)}, the model's with {names.get(wanted)}"
            for index, same in self.inputs(operator):
                kind = self.exact.kind(operator)
                fault = self._constant_fault(index, self._before(same), kind=kind) if index >= 0 else ""
                if fault:
                    yield f"a constant of {self.exact.title(operator)} is {fault}"

    def _following(self, operator: schema.OperatorT) -> int:
        """Return the activation that alone takes what an operator of the float file makes; 0 if there is none."""
        exact, ends, takers = self.exact, {int(operator.outputs[0])}, []
        for each in exact.graph.operators:
            if ends & {*inputs_of(each)}:
                is_passing = exact.kind(each) in _PASSING
                ends |= {int(each.outputs[0])} if is_passing else set()
                takers += [] if is_passing else [exact.kind(each)]
        return int(getattr(schema.ActivationFunctionType, takers[0], 0)) if len(takers) == 1 else 0

    def _before(self, index: int) -> int:
        """Return the constant that a tensor is made from without computing; the tensor itself if there is none."""
        maker = self.file.maker.get(index)
        return index if maker is None or self.file.kind(maker) != "DEQUANTIZE" else int(maker.inputs[0])

    def _constant_fault(self, index: int, same: int, *, kind: str) -> str:
        """Say how far a constant is from that of the float file, if rounding does not explain it.

        The entries of a mask that mean "never" may lie nearer to the scores, and those of a table end where the range
        ends that training found for its rows.
        """
        file, right = self.file, self.exact.constant(index)
        values = None if same < 0 else file.constant(same)
        if right is None or values is None or right.dtype != np.float32 or right.size != values.size:
            return ""
        grid, dtype = file.grid(same), file.dtype(same)
        right = right.reshape(values.shape)
        if grid is None and values.dtype.kind != "f":
            return ""
        if grid is None and kind in _MASKING:
            right = np.where((right < _MASKED) & (right < values), values, right)
        if grid is not None and grid.scale.size == 1 and kind in _TABLES:
            right = grid.real(grid.inside(grid.position(right)))
        off = _spacings_off(values, right) if grid is None else _steps_off(values, right, grid=grid, dtype=dtype)
        self.compared.add(same)
        wrong = ~(off <= _MOST_OFF[dtype])
        if not wrong.any():
            return ""
        axis = file.tensors[same].quantization.quantizedDimension if grid is not None and grid.scale.size > 1 else -1
        unit = f"steps of {dtype}" if grid is None else "steps of its scale"
        text = f"up to {off[wrong].max():.1f} {unit} from the model's{_in_column(np.where(wrong, off, 0), axis)}"
        return f"{text}; rounding leaves {_MOST_OFF[dtype]:g} at most"


def _steps_off(values: np.ndarray, right: np.ndarray, *, grid: Grid, dtype: str) -> np.ndarray:
    """Return how many steps of their scale integers are from the right numbers."""
    position = grid.position(right)
    if dtype == "int4":  # weights of 4 bits may clip, on both sides alike
        position = np.clip(position, -grid.most, grid.most)
    elif dtype == "int16" or grid.zero.any():  # a range that others share may be narrower than that of a weight
        position = grid.inside(position)
    return np.abs(values - position) - _PRECISION * np.abs(position)


def _spacings_off(values: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return how far floats are from the right numbers, in distances to the next float of their type.

    Sums of float32 are as exact as the largest number in the constant.
    """
    size = np.abs(values).max(initial=0) if values.dtype == np.float32 else np.abs(values)
    off = np.abs(values.astype(np.float64) - right) / np.spacing(size)
    return np.where(values == right.astype(values.dtype), 0, off)  # infinity, too, where the format ends


def _size(file: NamedTensors, operator: schema.OperatorT) -> int:
    """Return how many numbers an operator makes for one sample."""
    shapes = (file.tensors[index].shape for index in indices_of(operator.outputs))
    return sum(1 if shape is None else math.prod(map(abs, shape)) for shape in shapes)


def _origin(file: NamedTensors, index: int) -> int:
    """Return the tensor that one is made from without computing, or -1 if that is a constant."""
    while index in file.maker and file.kind(file.maker[index]) in _PASSING:
        index = int(file.maker[index].inputs[0])
    return index if index in file.maker or index in indices_of(file.graph.inputs) else -1


class _CutPair:
    """The float file, cut so that each operator starts from the numbers and constants of the file of integers."""

    def __init__(self, graph: _SameGraph) -> None:
        self.graph, self.exact, self.file = graph, graph.exact, graph.file
        self.faults: list[str] = []
        self.is_clipped = False
        self.compared = graph.compared  # constants and outputs of the file of integers
        self.names = {entry.tensorIndex: entry.name.decode() for entry in self.exact.model.signatureDefs[0].inputs}
        self.same = {index: same for index, same in graph.same.items() if self.file.grid(same) is not None}
        self.fed: dict[int, int] = {}  # inputs of the cut file, and tensors of the file of integers
        self._cut()

    def _cut(self) -> None:
        exact, clones = self.exact, {}
        for operator in exact.graph.operators:
            inputs = []
            for index, same in self.graph.inputs(operator):
                inputs.append(index)
                if index < 0 or exact.dtype(index) != "float32":
                    continue
                if index not in exact.maker and index not in self.names:
                    inputs[-1] = self._constant(index, same)
                    continue
                same = same if same >= 0 and self.file.grid(same) is not None else self.same.get(index, -1)
                if same >= 0:
                    if (index, same) not in clones:
                        clones[index, same] = add_tensor(exact.graph, exact.tensors[index], name=b"fed")
                        self.fed[clones[index, same]] = same
                    inputs[-1] = clones[index, same]
            operator.inputs = np.array(inputs, np.int32)
        grids = {index: grid for index, same in self.same.items() if (grid := self.file.grid(same))}
        alone = [operator for operator in exact.graph.operators if exact.kind(operator) in _AS_CONVOLUTION]
        unknown = {int(operator.outputs[0]) for operator in alone if self.graph.partner(operator) is None}
        floats = {index for index in exact.maker.keys() - unknown if exact.dtype(index) == "float32"}
        self.output_grids = {index: grid for index, grid in grids.items() if index in floats}
        self.input_grids = {index: grid for index, grid in grids.items() if index in self.names}
        self.inputs = [*indices_of(exact.graph.inputs), *self.fed]
        exact.graph.inputs = np.array(self.inputs, np.int32)
        exact.graph.outputs = np.array([*self.output_grids], np.int32)
        exact.model.signatureDefs = None

    def _constant(self, index: int, same: int) -> int:
        """Return a constant with the values that the file of integers has; the one given if it has none."""
        exact = self.exact
        if same not in self.compared:
            return index
        grid, values = self.file.grid(same), self.file.constant(same)
        if grid is None or values is None:
            return index
        return add_tensor(exact.graph, exact.tensors[index], buffer=add_values(exact.model, grid.real(values)))

    def run(self, quantized: bytes, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run both files, compare what each operator makes, and return the outputs of the int8 file."""
        runner, exact = WatchedRunner(quantized), plain_interpreter(save_objects(self.exact.model))
        shapes = [() if tensor.shape is None else tensor.shape for tensor in self.file.tensors]
        numbers = sum(math.prod(abs(length) for length in shape) for shape in shapes)
        step = min(runner.rows, max(1, _MOST_NUMBERS // numbers))
        off, chunks = dict.fromkeys(self.output_grids, (0.0, "")), []
        for start in range(0, _length_of(arrays), step):
            part = {name: array[start : start + step] for name, array in arrays.items()}
            outputs = runner.predict(part)
            chunks.append([*outputs.values()] if isinstance(outputs, dict) else [outputs])
            self._invoke(exact, runner, part)
            for index, grid in self.input_grids.items():  # calibration data set the ranges of inputs
                self._inside(grid, part[self.names[index]])
            for index, grid in self.output_grids.items():
                inside = self._inside(grid, exact.get_tensor(index))
                apart = np.nan_to_num(np.abs(runner.integers(self.same[index]).reshape(inside.shape) - inside))
                off[index] = max(off[index], (float(apart.max(initial=0)), _in_column(apart, -1)))
        for index, (steps, where) in off.items():
            self.compared.add(self.same[index])
            most = _MOST_STEPS * (self.output_grids[index].most + 1) / _EIGHT_BITS
            if steps > most:
                title = self.exact.title(self.exact.maker[index])
                text = f"the output of {title} is up to {steps:.1f} steps from what its inputs give{where}"
                self.faults.append(f"{text}; rounding leaves {most:g} at most")
        parts = zip(runner.outputs, zip(*chunks, strict=True), strict=True)
        return {info.name: np.concatenate(arrays) for info, arrays in parts}

    def _inside(self, grid: Grid, real: np.ndarray) -> np.ndarray:
        """Return positions within the range of a grid, and note if many lie outside."""
        position = grid.position(real)
        inside = grid.inside(position)
        clipped = np.count_nonzero(np.abs(position - inside) > 1)
        self.is_clipped |= bool(clipped > _SAMPLES + _MOST_CLIPPED * position.size)
        return inside

    def _invoke(self, exact: Any, runner: WatchedRunner, part: Mapping[str, np.ndarray]) -> None:
        details, arrays = exact.get_input_details(), []
        for index in self.inputs:
            same = self.fed.get(index, -1)
            grid = None if same < 0 else self.file.grid(same)
            if grid is None:
                arrays.append(part[self.names[index]])
                continue
            array, shape = grid.real(runner.integers(same)), self.exact.tensors[index].shape
            arrays.append(array if len(shape) == array.ndim else array.reshape(-1, *shape[1:]))  # a pixel of an image
        for detail, array in zip(details, arrays, strict=True):
            exact.resize_tensor_input(detail["index"], array.shape)
        exact.allocate_tensors()
        for detail, array in zip(details, arrays, strict=True):
            exact.set_tensor(detail["index"], array)
        exact.invoke()

    @property
    def is_whole(self) -> bool:
        """Whether all weights and outputs were compared, and few numbers lie outside of their range."""
        file = self.file
        inputs = {index for operator in file.graph.operators for index in inputs_of(operator) if index >= 0}
        ends = {
            int(file.maker[index].inputs[0]) if index in file.maker and file.grid(index) is None else index
            for index in indices_of(file.graph.outputs)
        }
        constants = {index for index in inputs if file.dtype(index) == "int8" and file.constant(index) is not None}
        needed = ends | {index for index in constants if len(file.tensors[index].shape) > 1}
        return len(file.model.subgraphs) == 1 and needed <= self.compared and not self.is_clipped


def _in_column(off: np.ndarray, axis: int) -> str:
    """Say where the largest number is, along an axis."""
    columns = np.moveaxis(off, axis, 0).reshape(off.shape[axis], -1) if off.ndim and off.size else None
    return "" if columns is None else f" in column {columns.max(axis=1).argmax()}"


def _round_job(folder: Path) -> None:
    _, arrays = read_job(folder, "job")
    reference, quantized = ((folder / name).read_bytes() for name in _FILES)
    exact, file = load_objects(reference), load_objects(quantized)
    numbers = range(min(len(exact.subgraphs), len(file.subgraphs)))
    graphs = [_SameGraph(NamedTensors(exact, number), NamedTensors(file, number)) for number in numbers]
    faults = [fault for graph in graphs for fault in graph.faults()]
    outputs, is_whole = {}, False
    if not faults and graphs[0].computes_integers:
        pair = _CutPair(graphs[0])
        outputs = pair.run(quantized, arrays)
        faults, is_whole = pair.faults, pair.is_whole
    settings = {"fault": "".join(faults[:1]), "is_whole": is_whole}
    write_job(folder, "result", settings=settings, arrays=outputs)


# Correct what 8 bits moved: each channel of an int8 file gets the mean that it has in the float file.

_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_CORRECTED = "corrected.tflite"


def correct_biases(reference: Source, quantized: Source, samples: Any) -> bytes:
    """Move the biases of an 8-bit file, so that each channel has the mean that it has in the float file.

    Rounding moves the means of channels, and layers behind them never see the right ones. Use it where
    `quantization_error` shows an error that training did not remove; it needs no training and no labels, and the
    file keeps its size and speed. Layers are corrected in their order, each after those before it. Measure the
    accuracy afterwards.

    Args:
        reference: The float32 file, as `to_tflite(model, path)` writes it: a path or the bytes.
        quantized: The file with 8-bit weights and activations, of the same model.
        samples: About 100 samples of real data, in the forms that `Runner.predict` takes.

    Returns:
        The corrected file. Layers without a bias stay as they are.

    Raises:
        TypeError: If a source is neither a path nor bytes.
        ValueError: If a file cannot be read or does not run, or the two have no layers in common.

    Reference:
        Nagel, M., van Baalen, M., Blankevoort, T. and Welling, M. Data-Free Quantization Through Weight Equalization
        and Bias Correction. ICCV 2019. arXiv:1906.04721, section 4.2.1, on data.

    Example:
        >>> data = correct_biases("digits.tflite", "digits_int8.tflite", images)
        >>> tfprune.export.quantization_error("digits.tflite", data, images).rows[-1].error < 0.1
        True
    """
    files = [ModelFile.open(source) for source in (reference, quantized)]
    form, arrays = inputs_to_job(samples)
    graph, names = files[1].graph.subgraphs[0], _names_of(files[0])
    if not any(_name(graph, layer, names) for layer in _layers(graph)):
        raise ValueError(
            "Expected a float file and an int8 file of the same model. Received: two without an 8-bit layer in "
            "common. Export both from one model, the second with quantize='int8'."
        )
    with TemporaryFolder() as folder:
        write_job(folder, "job", settings={"form": form}, arrays=arrays)
        _run_both([file.content for file in files], folder, work=_correct_biases_job)
        return Path(folder, _CORRECTED).read_bytes()


def _layers(graph: Subgraph) -> list[Operator]:
    """Return the layers that compute with 8-bit activations."""
    layers = [operator for operator in graph.operators if operator.name in _LAYERS and len(operator.inputs) > 2]
    return [layer for layer in layers if graph.tensors[layer.inputs[0]].dtype == "int8"]


def _name(graph: Subgraph, layer: Operator, names: set[str]) -> str:
    """Return the name that the output of a layer has in the float file, too; an empty string if it has none there."""
    ends = [layer.outputs[0]]
    for operator in graph.operators:
        if operator.name in ("RESHAPE", "DEQUANTIZE") and operator.inputs[0] in ends:
            ends.append(operator.outputs[0])
    return next((graph.tensors[end].name for end in ends if graph.tensors[end].name in names), "")


def _with_bias(graph: Subgraph) -> list[Operator]:
    """Return the layers that have a bias of their own."""
    layers = [layer for layer in _layers(graph) if layer.inputs[2] >= 0]
    uses = Counter(layer.inputs[2] for layer in layers)
    own = [layer for layer in layers if uses[layer.inputs[2]] == 1 and graph.tensors[layer.inputs[2]].constant]
    return [layer for layer in own if graph.tensors[layer.inputs[2]].dtype == "int32"]


def _move(model: schema.ModelT, layer: Operator, difference: np.ndarray) -> None:
    tensor = model.subgraphs[0].tensors[layer.inputs[2]]
    steps = np.rint(difference / tensor.quantization.scale)
    values = np.asarray(model.buffers[tensor.buffer].data).view("<i4") + steps
    limits = np.iinfo(np.int32)
    raw = np.ascontiguousarray(values.clip(limits.min, limits.max).astype("<i4")).view(np.uint8)
    holders = [each for graph in model.subgraphs for each in graph.tensors if each.buffer == tensor.buffer]
    if len(holders) > 1:  # the others keep the old values
        tensor.buffer = len(model.buffers)
        model.buffers.append(schema.BufferT())
    model.buffers[tensor.buffer].data = raw


def _correct_biases_job(folder: Path) -> None:
    settings, arrays = read_job(folder, "job")
    reference, quantized = ((folder / name).read_bytes() for name in _FILES)
    file = ModelFile(quantized)
    model, graph, names = file.objects(), file.graph.subgraphs[0], _names_of(ModelFile(reference))
    for layer in _with_bias(graph):
        name = _name(graph, layer, names)
        total, rows = np.zeros(1), 0
        for _, right, outputs, _ in _Pair(reference, save_objects(model)).compared(
            settings["form"], arrays, {name} - {""}
        ):
            channels = right.shape[-1]
            total = total + (right.astype(np.float64) - outputs.reshape(right.shape)).reshape(-1, channels).sum(
                axis=0
            )
            rows += right.size // channels
        if rows:
            _move(model, layer, total / rows)
    (folder / _CORRECTED).write_bytes(save_objects(model))
