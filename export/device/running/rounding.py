"""Prove an int8 file against the float file of the same model: constant by constant, and operator by operator.

A deep network amplifies rounding from layer to layer, so its outputs prove little. Here every constant is compared
with that of the float file, and every operator starts from the numbers that the int8 file has before it.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.export.device.processes.job_files import read_job, write_job
from tfprune.export.device.running.quantization_error import (
    FILES,
    WatchedRunner,
    length_of,
    plain_interpreter,
    run_both,
)
from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.canonical_order import indices_of
from tfprune.export.file.tflite.editor import (
    add_tensor,
    add_values,
    inputs_of,
    save_objects,
)
from tfprune.export.file.tflite.named_tensors import Grid, NamedTensors

_log = logging.getLogger(__name__)
BORDERS = ("QUANTIZE", "DEQUANTIZE")
SAMPLES = 8  # operators show within a few what they do; the constants need none
MOST_NUMBERS = 2**24  # in all tensors of one invocation, which bounds memory
MOST_OFF = 1.0  # steps of a constant's scale: rounding leaves half of one, and the end of the range the other half
PRECISION = 1e-6  # of a constant itself: what float32 leaves
MOST_STEPS = 3.0  # of an operator's output: kernels for integers were seen 1.1 off, and most 0.5
MOST_CLIPPED = 0.05  # of the values of a tensor may lie outside of its range, if rounding is to explain the outputs


@dataclass(frozen=True)
class Rounding:
    """What an int8 file is, beside the float file of the same model.

    Attributes:
        fault: The constant or operator that rounding does not explain; empty if there is none.
        is_whole: Whether every weight and every output was compared, and few values lie outside of their range.
        outputs: The outputs for the first samples, by plain kernels; empty with a fault, or if these do not run.
    """

    fault: str
    is_whole: bool
    outputs: dict[str, np.ndarray]


def explain_rounding(reference: bytes, quantized: bytes, *, inputs: Mapping[str, np.ndarray]) -> Rounding:
    """Compare an int8 file with the float file of the same model, in a process of its own.

    Args:
        reference: The plain float file; one with fake quantization, too.
        quantized: The plain int8 file.
        inputs: Samples by the names of the inputs.
    """
    with tempfile.TemporaryDirectory(prefix="tfprune-") as folder:
        write_job(folder, "job", arrays={name: array[:SAMPLES] for name, array in inputs.items()})
        try:
            run_both([reference, quantized], folder, work=_run_job)
        except ValueError as error:
            _log.info("the operators of the int8 file are not compared: %s", error)
            return Rounding("", False, {})
        settings, outputs = read_job(folder, "result")
    return Rounding(settings["fault"], settings["is_whole"], outputs)


class _Pair:
    """The float file, cut so that each operator starts from the numbers and constants of the int8 file."""

    def __init__(self, reference: bytes, quantized: bytes) -> None:
        self.exact, self.file = NamedTensors(reference), NamedTensors(quantized)
        self.faults: list[str] = []
        self.is_clipped = False
        self.compared: set[int] = set()  # constants and outputs of the int8 file
        self.names = {entry.tensorIndex: entry.name.decode() for entry in self.exact.model.signatureDefs[0].inputs}
        self.same = self._same_tensors()
        self.fed: dict[int, int] = {}  # inputs of the cut file, and tensors of the int8 file
        self._cut()

    def _same_tensors(self) -> dict[int, int]:
        """Find the tensors that operators make in both files, by their names in the float file."""
        file, inputs = self.file, indices_of(self.file.graph.inputs)
        counterparts = {file.name(index): index for index in file.known if index in file.maker or index in inputs}
        for operator in file.graph.operators:  # where floats become integers and back, both have the meaning of one
            ends = int(operator.inputs[0]), int(operator.outputs[0])
            if file.kind(operator) in BORDERS:
                inner, outer = sorted(ends, key=lambda index: file.grid(index) is None)
                counterparts[file.name(outer)] = inner
        by_name = {index: counterparts.get(self.exact.name(index)) for index in self.exact.known}
        return {index: same for index, same in by_name.items() if same is not None and file.grid(same) is not None}

    def _cut(self) -> None:
        exact, clones = self.exact, {}
        for operator in exact.graph.operators:
            other = self.file.maker.get(self.same.get(int(operator.outputs[0]), -1))
            is_same = other is not None and exact.kind(operator) == self.file.kind(other)
            others = inputs_of(other) if is_same else []
            inputs = inputs_of(operator)
            others = others if len(others) == len(inputs) else [-1] * len(inputs)
            for place, (index, same) in enumerate(zip(inputs, others, strict=True)):
                if index < 0 or exact.dtype(index) != "float32":
                    continue
                if index not in exact.maker and index not in self.names:
                    inputs[place] = self._constant(operator, index, same)
                    continue
                same = same if same >= 0 and self.file.grid(same) is not None else self.same.get(index, -1)
                if same >= 0:
                    if (index, same) not in clones:
                        clones[index, same] = add_tensor(exact.graph, exact.tensors[index], name=b"fed")
                        self.fed[clones[index, same]] = same
                    inputs[place] = clones[index, same]
            operator.inputs = np.array(inputs, np.int32)
        grids = {index: grid for index, same in self.same.items() if (grid := self.file.grid(same))}
        floats = {index for index in exact.maker if exact.dtype(index) == "float32"}
        self.output_grids = {index: grid for index, grid in grids.items() if index in floats}
        self.input_grids = {index: grid for index, grid in grids.items() if index in self.names}
        self.inputs = [*indices_of(exact.graph.inputs), *self.fed]
        exact.graph.inputs = np.array(self.inputs, np.int32)
        exact.graph.outputs = np.array([*self.output_grids], np.int32)
        exact.model.signatureDefs = None

    def _constant(self, operator: schema.OperatorT, index: int, same: int) -> int:
        """Compare a constant, and return the index of one with the values that the int8 file has."""
        exact, file = self.exact, self.file
        right, values = exact.constant(index), None if same < 0 else file.constant(same)
        grid = None if values is None else file.grid(same)
        if right is None or values is None or grid is None or right.shape != values.shape:
            return index
        self.compared.add(same)
        position = grid.position(right)
        if grid.zero.any():  # a range that other tensors share may be narrower; that of a weight is its own
            position = np.clip(position, grid.limits.min, grid.limits.max)
        off = np.abs(values - position)
        wrong = off > MOST_OFF + PRECISION * np.abs(position)
        if wrong.any():
            axis = file.tensors[same].quantization.quantizedDimension if grid.scale.size > 1 else -1
            self.faults.append(
                f"a constant of {exact.title(operator)} is up to {off[wrong].max():.1f} steps of its scale from the "
                f"model's{_in_column(np.where(wrong, off, 0), axis)}; rounding leaves {MOST_OFF:g} at most"
            )
        return add_tensor(exact.graph, exact.tensors[index], buffer=add_values(exact.model, grid.real(values)))

    def run(self, quantized: bytes, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run both files, compare what each operator makes, and return the outputs of the int8 file."""
        runner, exact = WatchedRunner(quantized), plain_interpreter(save_objects(self.exact.model))
        numbers = sum(math.prod(abs(length) for length in tensor.shape) for tensor in self.file.tensors)
        step = min(runner.rows, max(1, MOST_NUMBERS // numbers))
        off, chunks = dict.fromkeys(self.output_grids, (0.0, "")), []
        for start in range(0, length_of(arrays), step):
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
            if steps > MOST_STEPS:
                title = self.exact.title(self.exact.maker[index])
                text = f"the output of {title} is up to {steps:.1f} steps from what its inputs give{where}"
                self.faults.append(f"{text}; rounding leaves {MOST_STEPS:g} at most")
        parts = zip(runner.outputs, zip(*chunks, strict=True), strict=True)
        return {info.name: np.concatenate(arrays) for info, arrays in parts}

    def _inside(self, grid: Grid, real: np.ndarray) -> np.ndarray:
        """Return positions within the range of a grid, and note if many lie outside."""
        position = grid.position(real)
        inside = np.clip(position, grid.limits.min, grid.limits.max)
        clipped = np.count_nonzero(np.abs(position - inside) > 1)
        self.is_clipped |= bool(clipped > SAMPLES + MOST_CLIPPED * position.size)
        return inside

    def _invoke(self, exact: Any, runner: WatchedRunner, part: Mapping[str, np.ndarray]) -> None:
        details, arrays = exact.get_input_details(), []
        for index in self.inputs:
            same = self.fed.get(index, -1)
            grid = None if same < 0 else self.file.grid(same)
            arrays.append(part[self.names[index]] if grid is None else grid.real(runner.integers(same)))
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


def _run_job(folder: Path) -> None:
    _, arrays = read_job(folder, "job")
    reference, quantized = ((folder / name).read_bytes() for name in FILES)
    pair = _Pair(reference, quantized)
    outputs = {} if pair.faults else pair.run(quantized, arrays)
    settings = {"fault": "".join(pair.faults[:1]), "is_whole": pair.is_whole}
    write_job(folder, "result", settings=settings, arrays=outputs)
