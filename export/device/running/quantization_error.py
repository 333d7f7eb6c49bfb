"""Which layer of an 8-bit file costs what: each of its tensors, against the same tensor of the float file.

Both files are run in one process of its own, without XNNPACK, which keeps no tensors between its layers.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.export.device.interpreter import find_interpreter, interpreter_module
from tfprune.export.device.processes.child_process import Work, run_job
from tfprune.export.device.processes.job_files import read_job, write_job
from tfprune.export.device.running.inputs import inputs_from_job, inputs_to_job
from tfprune.export.device.running.io_tensor import IOTensor
from tfprune.export.device.running.quantization_error_report import QuantizationErrorReport, QuantizationErrorRow
from tfprune.export.device.running.runner import BATCH_ROWS, Runner
from tfprune.export.file.files.model_file import read_model
from tfprune.export.file.files.source import Source, source_name
from tfprune.export.file.tflite.model import Subgraph
from tfprune.export.file.tflite.reader import read

FILES = ("float.tflite", "integers.tflite")
TIMEOUT = 3600.0  # seconds: kernels without XNNPACK are slow
BORDERS = {"QUANTIZE", "DEQUANTIZE"}
FLOAT_BYTES = 4  # of a number that takes one in 8 bits
MOVES = {"RESHAPE", "SPLIT", "SPLIT_V", "UNPACK", "PACK", "TRANSPOSE", "SQUEEZE", "STRIDED_SLICE", "DENSIFY", "SHAPE"}


def quantization_error(reference: Source, quantized: Source, samples: Any) -> QuantizationErrorReport:
    """Compare an 8-bit file with the float file of the same model, layer by layer.

    Use it when an int8 file is less accurate than the model: the layer at which the error jumps is the one to leave
    in float, to train further, or to give calibration data for. A large error in steps means a range that is too
    narrow, if values are clipped, or too wide for most channels, if none are.

    Args:
        reference: The float32 file, as `to_tflite(model, path)` writes it: a path or the bytes.
        quantized: The file with 8-bit weights and activations, of the same model.
        samples: Some samples of real data, in the forms that `Runner.predict` takes.

    Returns:
        The error of each layer's output, in the order of the file.

    Raises:
        TypeError: If a source is neither a path nor bytes.
        ValueError: If a file cannot be read or does not run, or the two have no layers in common.

    Example:
        >>> report = quantization_error("digits.tflite", "digits_int8.tflite", images)
        >>> print(report)
        layer ... operator ... output error  input error  steps  clipped
        ...
        >>> report.rows[-1].error < 0.1
        True
    """
    contents = [read_model(source) for source in (reference, quantized)]
    form, arrays = inputs_to_job(samples)
    graph = read(contents[1]).subgraphs[0]
    names = sorted({graph.tensors[index].name for index, _ in _made(graph)} & names_of(contents[0]))
    with tempfile.TemporaryDirectory(prefix="tfprune-") as folder:
        write_job(folder, "job", settings={"form": form, "names": names}, arrays=arrays)
        run_both(contents, folder, work=_run_job)
        measured, _ = read_job(folder, "result")
    rows = _rows(graph, measured["tensors"])
    if not rows:
        raise ValueError(
            f"Expected two files of the same model. Received: {source_name(reference)} and {source_name(quantized)}, "
            "which have no tensors of one name. Export both from one model."
        )
    return QuantizationErrorReport(
        tuple(rows), samples=measured["samples"], runtime=measured["runtime"], bytes=len(contents[1])
    )


def run_both(contents: list[bytes], folder: str, *, work: Work) -> None:
    """Run a function on a float file, an int8 file and a job in a folder, in a process of its own.

    Raises:
        ValueError: If the files do not run.
    """
    for name, content in zip(FILES, contents, strict=True):
        Path(folder, name).write_bytes(content)
    completed = run_job(work, folder, timeout=TIMEOUT, package=interpreter_module())
    if not completed.ok:
        raise ValueError(
            f"Expected two files that run on `samples`. Received: {completed.reason}. Check each with "
            "`tfprune verify`."
        )


def _made(graph: Subgraph) -> Iterator[tuple[int, str]]:
    """Yield what operators compute, and their names."""
    for operator in graph.operators:
        if operator.name not in MOVES:
            yield from ((index, operator.name) for index in operator.outputs if index >= 0)


def names_of(content: bytes) -> set[str]:
    """Return the names of what the operators of a plain file compute."""
    graph = read(content).subgraphs[0]
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
                row = QuantizationErrorRow(
                    name,
                    kind,
                    error=measured[name]["error"],
                    before=before,
                    steps=measured[name]["steps"],
                    clipped=measured[name]["clipped"],
                    added_bytes=added.get(name, 0),
                    takers=tuple(takers[name]),
                )
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
        if operator.name in MOVES or operator.name in BORDERS:
            makers.update(dict.fromkeys(operator.outputs, before[0]) if before else {})
            continue
        ends = [outputs.get(index, index) for index in operator.outputs[:1]]
        row_names = [name for index in (*operator.outputs, *ends) if (name := graph.tensors[index].name) in names]
        for name in row_names[:1]:
            constants = {index for index in operator.inputs if index >= 0 and graph.tensors[index].constant}
            eight_bit = [graph.tensors[index].bytes for index in constants if graph.tensors[index].dtype == "int8"]
            added[name] = (FLOAT_BYTES - 1) * sum(eight_bit)
            makers |= dict.fromkeys(operator.outputs, name)
            for other in before:
                takers[other] += [] if name in takers[other] else [name]
    return added, takers


def plain_interpreter(content: bytes, **options: Any) -> Any:
    """Load a plain file into an interpreter without XNNPACK."""
    interpreter, _ = find_interpreter()
    kernels = sys.modules[interpreter.__module__].OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return interpreter(model_content=content, experimental_op_resolver_type=kernels, **options)


class WatchedRunner(Runner):
    """A runner that keeps all tensors."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._load = partial(plain_interpreter, read_model(source), experimental_preserve_all_tensors=True)
        self._shapes = None  # the interpreter is loaded anew with these options

    @property
    def rows(self) -> int:
        """The number of rows in one invocation."""
        fixed = [info.shape[0] for info in self.inputs if info.shape and info.shape[0] is not None]
        return fixed[0] if fixed else BATCH_ROWS

    def integers(self, index: int) -> np.ndarray:
        """Return a tensor of the last invocation as the file holds it."""
        return self._interpreter.get_tensor(index)

    def tensors(self, names: set[str]) -> dict[str, tuple[np.ndarray, IOTensor]]:
        """Return tensors of the last invocation as real numbers, and what describes each."""
        details = {detail["name"]: detail for detail in self._interpreter.get_tensor_details()}
        ends = {name: IOTensor.of(name, details[name]) for name in names if name in details}
        return {name: (end.decode(self._interpreter.get_tensor(end.index)), end) for name, end in ends.items()}


class _Sums:
    """What is added up over the samples for one tensor."""

    def __init__(self) -> None:
        self.squares = self.error = 0.0
        self.count = self.clipped = 0
        self.scale = 0.0

    def add(self, right: np.ndarray, values: np.ndarray, tensor: IOTensor) -> None:
        real = right.ravel().astype(np.float64)
        self.error += float(np.square(values.ravel() - real).sum())
        self.squares += float(np.square(real).sum())
        self.count += real.size
        self.scale = tensor.scale
        if tensor.scale:
            limits = np.iinfo(tensor.dtype)
            steps = real / tensor.scale + tensor.zero_point
            self.clipped += int(np.count_nonzero((steps < limits.min - 0.5) | (steps > limits.max + 0.5)))

    def result(self) -> dict[str, float]:
        root = np.sqrt(self.error / self.count) if self.count else 0.0
        return {
            "error": float(np.sqrt(self.error / self.squares)) if self.squares else 0.0,
            "steps": float(root / self.scale) if self.scale else 0.0,
            "clipped": self.clipped / self.count if self.count else 0.0,
        }


class Pair:
    """A float file and an 8-bit one of the same model, run on the same samples in this process.

    Args:
        reference: The plain float file.
        quantized: The plain 8-bit file.
    """

    def __init__(self, reference: bytes, quantized: bytes) -> None:
        self._runners = WatchedRunner(reference), WatchedRunner(quantized)
        self.runtime = self._runners[0].runtime

    def compared(
        self, form: str, arrays: dict[str, np.ndarray], names: set[str]
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray, IOTensor]]:
        """Yield, batch after batch, each tensor in both files as real numbers, and what describes the integers."""
        step = min(runner.rows for runner in self._runners)
        for start in range(0, length_of(arrays), step):
            part = {name: array[start : start + step] for name, array in arrays.items()}
            for runner in self._runners:
                runner.predict(inputs_from_job(form, part, draw=list))
            reference, quantized = (runner.tensors(names) for runner in self._runners)
            for name in sorted(reference.keys() & quantized.keys()):
                if reference[name][0].dtype.kind == "f" and reference[name][0].size == quantized[name][0].size:
                    yield name, reference[name][0], *quantized[name]


def length_of(arrays: dict[str, np.ndarray]) -> int:
    """Return how many samples there are."""
    return min(len(array) for array in arrays.values())


def _run_job(folder: Path) -> None:
    settings, arrays = read_job(folder, "job")
    pair = Pair(*((folder / name).read_bytes() for name in FILES))
    sums = {name: _Sums() for name in settings["names"]}
    for name, right, values, tensor in pair.compared(settings["form"], arrays, set(sums)):
        sums[name].add(right, values, tensor)
    measured = {name: total.result() for name, total in sums.items() if total.count}
    write_job(folder, "result", settings={"tensors": measured, "samples": length_of(arrays), "runtime": pair.runtime})
