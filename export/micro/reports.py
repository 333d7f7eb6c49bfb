"""Reports of files for microcontrollers: their layers, C arrays, and estimates for Arm's NPUs."""

from __future__ import annotations

import copy
import csv
import functools
import importlib.metadata
import importlib.resources
import importlib.util
import math
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.base.folders import TemporaryFolder, parse_json, read_fields
from tfprune.base.spec import check_choice, check_count
from tfprune.export.device.processes import read_job, run_job, write_job
from tfprune.export.device.runner import random_inputs
from tfprune.export.file import schema
from tfprune.export.file.container import Source, check_destination, check_not_read, source_name, write_together
from tfprune.export.file.document import (
    add_constant,
    add_operator,
    add_tensor,
    add_values,
    indices_of,
    inputs_of,
    numbers_operators,
    operator_name,
)
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import Subgraph, read
from tfprune.export.file.report import shape_text, yes_or_no
from tfprune.export.file.schema import MissingPackage
from tfprune.export.file.sparse_tensors import OPERATOR
from tfprune.export.micro.interpreter import (
    KNOWN_OPERATORS,
    BoardFit,
    ChipArena,
    OperatorMemory,
    chip_arena,
    find_board,
    fits,
    memory_of_operators,
    missing,
    registrations,
    require_interpreter,
    run_files,
)
from tfprune.export.micro.memory import become
from tfprune.report import Report, install, printable, shortened, table

# Report of a file for microcontrollers: what it takes there, and how each layer is stored.

_NAME_WIDTH = 32  # characters of a name in a table
_WIDER = " with pointers of 64 bits, less on a chip: install mcufit and Node to measure it"
_CHOICES = "bytes of the files to choose from: less flash needs a larger arena"


@dataclass(frozen=True)
class MicroLayer(Report):
    """A layer with a weight, and how the file holds it.

    Attributes:
        name: The name of the weight.
        operator: The operator that reads it.
        shape: Its shape.
        stored: `dense`, `pruned`, `table`, or both of these joined by `+`.
        slices: The number of parts in which it is unpacked, one after the other; 0 if it is dense.
        dense_bytes: The bytes that it takes densely.
        bytes: The bytes that it takes now.
        buffer: The bytes of the arena into which it is unpacked.
        reason: Why it is dense; empty if it is not.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    stored: str
    slices: int
    dense_bytes: int
    bytes: int
    buffer: int
    reason: str = ""


@dataclass(frozen=True)
class MicroReport(Report):
    """The memory of a file on a microcontroller, as the interpreter counts it.

    Attributes:
        flash: The bytes of the file.
        dense_flash: Those of the dense file that it was made from.
        arena: The bytes of RAM in which it runs: on a chip, or with pointers of 64 bits if `on_chip` is None.
        dense_arena: Those of the dense file.
        decode_buffer: The bytes of the largest weight, or part of one, that is unpacked there.
        samples: The number of samples on which its outputs equal the dense file's, bit for bit.
        rows: The layers with weights.
        curve: What other files of the same model take: pairs of flash and arena, none of which is worse in both.
        registrations: The functions of the resolver that a program calls.
        boards: Whether it fits on common boards.
        on_chip: The parts of the RAM on a chip; None where they cannot be measured.
        extra_work: The multiplications that strips of layers take more, as a fraction of all; None without strips.

    Example:
        >>> report = tfprune.export.rewrite("digits.tflite", "micro.tflite", target="micro", check_on=images)
        >>> report.micro.flash < 0.3 * report.micro.dense_flash
        True
    """

    flash: int
    dense_flash: int
    arena: int
    dense_arena: int
    decode_buffer: int
    samples: int
    rows: tuple[MicroLayer, ...]
    curve: tuple[tuple[int, int], ...]
    registrations: tuple[str, ...]
    boards: tuple[BoardFit, ...]
    on_chip: ChipArena | None = None
    extra_work: float | None = None

    def __str__(self) -> str:
        arena = f"{self.arena:,} bytes{'' if self.on_chip else _WIDER}"
        rows = [
            ["arena", arena, f"{self.dense_arena:,}", f"{self.arena / self.dense_arena:.2f}"],
            *([["of these", str(self.on_chip), "", ""]] if self.on_chip else []),
            *self._work,
            ["largest unpacked part", f"{self.decode_buffer:,} bytes", "", ""],
            ["outputs", f"equal the dense file's on {self.samples:,} samples, bit for bit", "", ""],
        ]
        head = ["flash", f"{self.flash:,} bytes", f"{self.dense_flash:,}", f"{self.flash / self.dense_flash:.2f}"]
        parts = [table(["on the device", "this file", "dense", "ratio"], [head, *rows], left=2), self._layers()]
        points = [[f"{flash:,}", f"{arena:,}"] for flash, arena in self.curve]
        parts += [f"{_CHOICES}\n\n{table(['flash', 'arena'], points, left=0)}", _board_text(self.boards)]
        return "\n\n".join([*parts, f"to register: {', '.join(self.registrations)}"])

    @property
    def _work(self) -> list[list[str]]:
        """A row with the multiplications, if layers run strip by strip."""
        if self.extra_work is None:
            return []
        return [["multiplications", "more, as layers run strip by strip", "", f"{1 + self.extra_work:.2f}"]]

    def _layers(self) -> str:
        lines = [
            [shortened(row.name, _NAME_WIDTH), row.operator, shape_text(row.shape), row.stored, row.slices or ""]
            + [f"{row.dense_bytes:,}", f"{row.bytes:,}", f"{row.buffer:,}", row.reason]
            for row in self.rows
        ]
        return table(
            ["weight", "operator", "shape", "stored", "parts", "bytes if dense", "bytes", "RAM", "why dense"],
            lines,
            left=4,
        )


def _board_text(boards: tuple[BoardFit, ...]) -> str:
    """Say on which boards a file fits, and what is missing on the others."""
    if len(boards) == 1:
        (fit,) = boards
        usable = f"of {fit.ram:,} bytes of RAM its system leaves {fit.usable:,}"
        return f"{fit.title}: {fit}" if fit.usable == fit.ram else f"{fit.title}: {fit} ({usable})"
    fitting = [fit.board for fit in boards if fit.fits]
    lacking = [f"{fit.board} {fit}" for fit in boards if not fit.fits]
    return "\n".join([f"fits on: {', '.join(fitting) or 'none of the boards'}", *lacking])


# Firmware that files are written for: the operators that it registers, and the rewriting of those that it lacks.

_FIRMWARE_FILE = "firmware.json"  # beside this module: names, versions, sources and lists of operators
ESPHOME, ESP_IDF, ARDUINO = "esphome", "esp-tflite-micro", "arduino"
_FEATURES = 40  # numbers in a step of the spectrogram that ESPHome gives to a wake word
_MOST_VARIABLES = 20  # variables that ESPHome has room for
_FIRST_BYTE = 128  # from int8 to the uint8 of the same meaning
_MOST_STRIDED = 5  # dimensions of what the interpreter's STRIDED_SLICE takes
_ADVICE = {
    "DENSIFY": "Write the file with target='micro', which stores sparse weights in another way.",
    "DEQUANTIZE": "Export the file with integers as inputs and outputs: Quantization('int8', io_dtype='int8').",
}


@dataclass(frozen=True)
class Firmware(Report):
    """Firmware that runs files in an interpreter of its own version.

    Attributes:
        name: How it is asked for.
        title: Its name in full.
        version: The version whose operators are listed.
        source: Where the list is from.
        operators: The operators that it has or can register.
    """

    name: str
    title: str
    version: str
    source: str
    operators: tuple[str, ...]


@dataclass(frozen=True)
class FirmwareFit(Report):
    """Whether firmware runs a file.

    Attributes:
        firmware: The firmware, and the operators that it has.
        missing: The operators of the file that it lacks and that nothing stands for.
        rewritten: What stands for operators that it lacks, with the same outputs, such as `SQUEEZE as RESHAPE`.
        reason: Why it does not run the file, and what to do; empty if it does.
    """

    firmware: Firmware
    missing: tuple[str, ...]
    rewritten: tuple[str, ...]
    reason: str

    @property
    def fits(self) -> bool:
        """Whether it runs the file as it is, or as it is rewritten."""
        return not self.reason

    @property
    def title(self) -> str:
        """The firmware and its version."""
        return f"{self.firmware.title} {self.firmware.version}"

    def __str__(self) -> str:
        return f"{self.title}: {'FITS' if self.fits else self.reason}"


@functools.cache
def firmwares() -> dict[str, Firmware]:
    """Return the firmwares whose operators are known, by name."""
    rows = parse_json((importlib.resources.files(__package__) / _FIRMWARE_FILE).read_bytes())
    lists = [tuple(" ".join(row.pop("operators")).split()) for row in rows]
    return {
        row["name"]: read_fields(Firmware, row, operators=operators)
        for row, operators in zip(rows, lists, strict=True)
    }


def find_firmware(name: str) -> Firmware:
    """Return the firmware of a name.

    Raises:
        TypeError: If it is not a string.
        ValueError: If there is no such firmware.
    """
    check_choice(name, "firmware", choices=[*firmwares()])
    return firmwares()[name]


def fit_firmware(file: ModelFile, firmware: Firmware) -> tuple[ModelFile, FirmwareFit]:
    """Rewrite the operators that firmware lacks into such that it has, with the same outputs, and say what it lacks.

    Returns:
        The file, rewritten as far as possible, and whether the firmware runs it.
    """
    names = {*file.graph.ops} - {*firmware.operators}
    rewritten: Counter[str] = Counter()
    fitted = (
        file.after(functools.partial(_substitute, names=names, file=file, rewritten=rewritten)) if names else file
    )
    if firmware.name == ESPHOME:
        fitted = fitted.after(functools.partial(_give_bytes, rewritten=rewritten))
    lacking = tuple(sorted({*fitted.graph.ops} - {*firmware.operators}))
    reason = ""
    if lacking:
        advice = " ".join(_ADVICE[name] for name in lacking if name in _ADVICE)
        reason = f"it has no {', '.join(lacking)}, and nothing that stands for it with the same outputs. " + (
            advice or "Replace the layers or functions that need it, and export the model again."
        )
    elif firmware.name == ESPHOME:
        reason = _unlike_wake_word(fitted)
    return fitted, FirmwareFit(firmware, lacking, tuple(sorted(rewritten)), reason)


def _unlike_wake_word(file: ModelFile) -> str:
    """Say why ESPHome refuses to load a file whose operators it has: it checks inputs, outputs and variables."""
    model = file.graph
    ends = [("input", model.inputs, "int8"), ("output", model.outputs, "uint8")]
    for kind, infos, dtype in ends:
        if len(infos) != 1 or infos[0].dtype != dtype:
            found = ", ".join(f"{info.name!r} of type {info.dtype}" for info in infos)
            return (
                f"it takes one {kind} of type {dtype}, and the file has {found}. Convert the model with int8 inputs "
                "and uint8 outputs, as microWakeWord does."
            )
    shape, output = model.inputs[0].shape, model.outputs[0].shape
    if len(shape) != 3 or shape[0] != 1 or shape[2] != _FEATURES:
        return (
            f"it gives a wake word steps of {_FEATURES} features, as an input of shape (1, steps, {_FEATURES}), and "
            f"the input of the file has the shape {shape}. Train the network on microWakeWord's features."
        )
    if output != (1, 1):
        return (
            f"it takes one probability, of shape (1, 1), and the output of the file has the shape {output}. Give the "
            "network one output with a sigmoid."
        )
    count = model.ops.get("VAR_HANDLE", 0)
    if count > _MOST_VARIABLES:
        return f"it has room for {_MOST_VARIABLES} variables, and the file has {count}. Use fewer streaming layers."
    return ""


def _give_bytes(model: schema.ModelT, *, rewritten: Counter[str]) -> bool:
    """Turn the one output of a file from int8 into uint8, which means the same numbers."""
    graph = model.subgraphs[0]
    outputs = indices_of(graph.outputs)
    quantization = graph.tensors[outputs[0]].quantization if len(outputs) == 1 else None
    if quantization is None or np.size(quantization.scale) != 1 or np.size(quantization.zeroPoint) != 1:
        return False
    (old,) = outputs
    if graph.tensors[old].type != schema.TensorType.INT8:
        return False
    bytes_of = copy.copy(quantization)
    bytes_of.zeroPoint = np.asarray(quantization.zeroPoint) + _FIRST_BYTE
    new = add_tensor(graph, graph.tensors[old], type=schema.TensorType.UINT8, quantization=bytes_of, buffer=0)
    graph.outputs = np.array([new], np.int32)
    for entry in [each for signature in model.signatureDefs or () for each in signature.outputs or ()]:
        entry.tensorIndex = new if entry.tensorIndex == old else entry.tensorIndex
    options = schema.QuantizeOptionsT()
    add_operator(model, graph, name="QUANTIZE", inputs=[old], outputs=[new], options=options)
    rewritten["int8 output as uint8"] += 1
    return True


def _substitute(model: schema.ModelT, *, names: set[str], file: ModelFile, rewritten: Counter[str]) -> bool:
    """Rewrite operators of these names into others, and count what was rewritten."""
    if numbers_operators(model):
        return False
    for number, graph in enumerate(model.subgraphs):
        for operator in [*(graph.operators or ())]:
            name = operator_name(model, operator)
            if name not in names:
                continue
            if name == OPERATOR:
                substitute = _as_constants(model, graph, operator, file.graph.subgraphs[number])
            else:
                substitute = _SUBSTITUTES[name](model, graph, operator) if name in _SUBSTITUTES else ""
            if substitute:
                rewritten[f"{name} as {substitute}"] += 1
    return bool(rewritten)


def _as_constants(model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT, known: Subgraph) -> str:
    """Store the weights that DECODE unpacks as they are."""
    outputs = indices_of(operator.outputs)
    values = [known.tensors[index].values for index in outputs]
    if any(value is None for value in values):
        return ""
    for index, value in zip(outputs, values, strict=True):
        assert value is not None
        graph.tensors[index].buffer = add_values(model, value.raw)
    graph.operators = [other for other in graph.operators if other is not operator]
    return "dense weights"


def _as_reshape(model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT) -> str:
    """Let RESHAPE stand for an operator that only renames dimensions."""
    shape = np.asarray(graph.tensors[int(operator.outputs[0])].shape, np.int32)
    constant = add_constant(model, graph, name=b"", values=shape)
    inputs, options = [int(operator.inputs[0]), constant], schema.ReshapeOptionsT(newShape=shape)
    become(model, operator, name="RESHAPE", inputs=inputs, options=options)
    return "RESHAPE"


def _as_reshape_of_ones(model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT) -> str:
    """Let RESHAPE stand for a TRANSPOSE that moves dimensions of length 1 only."""
    order = _whole_numbers(model, graph, int(operator.inputs[1]))
    shape = graph.tensors[int(operator.inputs[0])].shape
    if order is None or [*(axis for axis in order if shape[axis] != 1)] != sorted(a for a in order if shape[a] != 1):
        return ""
    return _as_reshape(model, graph, operator)


def _as_split_v(model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT) -> str:
    """Let SPLIT_V, which is given the sizes, stand for SPLIT."""
    axis, source = inputs_of(operator)
    place = _whole_numbers(model, graph, axis)
    if place is None:
        return ""
    lengths = [graph.tensors[index].shape[int(place[0])] for index in indices_of(operator.outputs)]
    sizes = add_constant(model, graph, name=b"", values=np.asarray(lengths, np.int32))
    options = schema.SplitVOptionsT(numSplits=len(lengths))
    become(model, operator, name="SPLIT_V", inputs=[source, sizes, axis], options=options)
    return "SPLIT_V"


def _as_strided_slice(model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT) -> str:
    """Let STRIDED_SLICE with steps of 1 stand for SLICE."""
    source, first, _ = inputs_of(operator)
    begin = _whole_numbers(model, graph, first)
    if begin is None or len(begin) > _MOST_STRIDED:
        return ""
    end = begin + np.asarray(graph.tensors[int(operator.outputs[0])].shape)
    bounds = [
        add_constant(model, graph, name=b"", values=np.asarray(values, np.int32))
        for values in (begin, end, np.ones(len(begin)))
    ]
    become(model, operator, name="STRIDED_SLICE", inputs=[source, *bounds], options=schema.StridedSliceOptionsT())
    return "STRIDED_SLICE"


def _whole_numbers(model: schema.ModelT, graph: schema.SubGraphT, index: int) -> np.ndarray | None:
    """Return the values of a constant vector of int32; None if it is something else."""
    tensor = graph.tensors[index]
    data = model.buffers[tensor.buffer].data
    is_known = tensor.type == schema.TensorType.INT32 and data is not None and len(data)
    return np.frombuffer(bytes(data), "<i4") if is_known else None


_SUBSTITUTES = {
    "EXPAND_DIMS": _as_reshape,
    "SLICE": _as_strided_slice,
    "SPLIT": _as_split_v,
    "SQUEEZE": _as_reshape,
    "TRANSPOSE": _as_reshape_of_ones,
}


# Report of whether a microcontroller runs a file: operators, flash, RAM, and boards on which it fits.


@dataclass(frozen=True)
class MicroSupportReport(Report):
    """Whether the interpreter for microcontrollers runs a file, and what it takes there.

    Attributes:
        runs: Whether it runs.
        reason: Why it does not; empty if it does.
        missing: The operators that the interpreter lacks.
        ops: The number of times that each operator occurs.
        registrations: The functions of the resolver that a program calls for those that it has.
        flash: The bytes of the file.
        arena: The bytes of RAM in which it runs: on a chip, or with pointers of 64 bits if `on_chip` is None; None if
            it does not run.
        boards: Whether it fits on common boards, or on the one that was named; empty if it does not run.
        unrolled: The recurrent layers of the model whose operators the file has once for each step.
        as_float: The report of the float32 file, which keeps the loops of these layers; None if there are none.
        firmware: Whether the firmware that was named runs it; None if none was. The other numbers are then those of
            the file as it is rewritten for it.
        on_chip: The parts of the RAM on a chip; None where they cannot be measured.
        operators: What is live while each operator runs, in order; empty if the file does not run.
        wide_arena: The arena with pointers of 64 bits, which leaves room for kernels that a chip's maker optimized;
            None if the file does not run.

    Example:
        >>> report = tfprune.export.micro_support("digits.tflite")
        >>> report.runs, report.missing
        (True, ())
    """

    runs: bool
    reason: str
    missing: tuple[str, ...]
    ops: dict[str, int]
    registrations: tuple[str, ...]
    flash: int
    arena: int | None
    boards: tuple[BoardFit, ...]
    unrolled: tuple[str, ...] = ()
    as_float: MicroSupportReport | None = None
    on_chip: ChipArena | None = None
    firmware: FirmwareFit | None = None
    operators: tuple[OperatorMemory, ...] = ()
    wide_arena: int | None = None

    @property
    def passed(self) -> bool:
        """Whether it runs, in the firmware if one was named, and fits on the board if one was."""
        is_right = self.firmware is None or self.firmware.fits
        return self.runs and is_right and (len(self.boards) != 1 or self.boards[0].fits)

    @property
    def _arenas(self) -> list[list[str]]:
        """The rows of the RAM."""
        if self.arena is None:
            return [["arena", "-"]]
        if self.on_chip is None:
            return [["arena", f"{self.arena:,} bytes{_WIDER}"]]
        return [["arena", f"{self.arena:,} bytes"], ["of these", str(self.on_chip)]]

    @property
    def _peak(self) -> list[list[str]]:
        """A row with the operator at which most is live."""
        if not self.operators:
            return []
        most = max(self.operators, key=lambda each: each.live)
        return [["most at once", f"{most.live:,} bytes of tensors, at operator {most.operator}"]]

    @property
    def _loops(self) -> list[list[str]]:
        """A row with what the file takes whose recurrent layers are loops, if it runs."""
        loops = self.as_float
        if loops is None or loops.arena is None:
            return []
        return [["as float32", f"{loops.flash:,} bytes of flash, {loops.arena:,} of RAM: it keeps the loops"]]

    def __str__(self) -> str:
        rewritten = self.firmware.rewritten if self.firmware else ()
        rows = [
            *([["because", self.reason]] if self.reason else []),
            ["flash", f"{self.flash:,} bytes"],
            *self._arenas,
            *self._peak,
            *unrolled_row(self.unrolled),
            *self._loops,
            ["operators", ", ".join(f"{count} {name}" for name, count in self.ops.items())],
            ["to register", ", ".join(self.registrations)],
            *([["rewritten", ", ".join(rewritten)]] if rewritten else []),
        ]
        text = table(["runs on microcontrollers", yes_or_no(self.runs)], rows, left=2)
        text = f"{text}\n\n{self.firmware}" if self.firmware else text
        return f"{text}\n\n{_board_text(self.boards)}" if self.boards else text


def unrolled_row(names: tuple[str, ...]) -> list[list[str]]:
    """Return the row of a report that says which recurrent layers were unrolled, if any were."""
    return [["unrolled", f"{', '.join(names)}: the operators are repeated for each step"]] if names else []


def support_of_file(
    source: Source | ModelFile, *, board: str | None = None, firmware: str | None = None
) -> MicroSupportReport:
    """Say of a file what `micro_support` says; see there."""
    require_interpreter()
    if board is not None:
        find_board(board)
    wanted = None if firmware is None else find_firmware(firmware)
    file, fit = ModelFile.open(source), None
    if wanted is not None:
        file, fit = fit_firmware(file, wanted)
    model = file.graph
    lacking, reason, arena, on_chip, wide = missing(model.ops), "", None, None, None
    open_shapes = [info.name for info in model.inputs if None in info.shape[1:]]
    if lacking:
        reason = f"the interpreter has no {', '.join(lacking)}"
    elif open_shapes:
        reason = f"memory is laid out once, and the shape of {', '.join(open_shapes)} is open"
    else:
        (run,) = run_files([file], random_inputs(model.inputs, model.outputs, rows=1))
        reason, on_chip = run.reason, chip_arena(file, run)
        wide = None if reason else run.arena
        arena = on_chip.total if on_chip else wide
    return MicroSupportReport(
        runs=not reason,
        reason=reason,
        missing=tuple(lacking),
        ops=model.ops,
        registrations=tuple(registrations({*model.ops} & KNOWN_OPERATORS)),
        flash=len(file.content),
        arena=arena,
        boards=() if arena is None else fits(len(file.content), arena, board=board),
        on_chip=on_chip,
        firmware=fit,
        operators=() if reason else memory_of_operators(file.objects()),
        wide_arena=wide,
    )


# Report of a file that was written as C++ source.


@dataclass(frozen=True)
class ArrayReport(Report):
    """Report of `c_array`: the written C source.

    Attributes:
        path: The source file.
        header: The header file beside it.
        name: The name of the array; the other names in the header begin with it.
        bytes: The bytes of the model.
        registrations: The functions of the resolver that the header calls.

    Example:
        >>> report = tfprune.export.c_array("digits.tflite", "digits.cc")
        >>> report.name, report.registrations
        ('digits', ('AddFullyConnected',))
    """

    path: str
    header: str
    name: str
    bytes: int
    registrations: tuple[str, ...]

    def __str__(self) -> str:
        rows = [
            ["header", self.header],
            ["array", f"{self.name}, {self.bytes:,} bytes"],
            ["registers", ", ".join(self.registrations)],
        ]
        return table(["written", self.path], rows, left=2)


# Report of a file that was written for firmware.


@dataclass(frozen=True)
class ComponentReport(Report):
    """Report of `component`: what was written for firmware.

    Attributes:
        path: The folder, or the zip file.
        firmware: The firmware and its version.
        files: The files in it.
        bytes: The bytes of the model.
        arena: The bytes of RAM that the files state for it.
        runs: The number of runs of the self test; 0 for ESPHome, which has none.
        different: How many different outputs these runs give: with one, a wrong operator may pass the self test.
        rewritten: What stands for operators that the firmware lacks, with the same outputs.
        registrations: The functions of the resolver that the source calls; ESPHome calls its own.
        defaults: Fields of the manifest of ESPHome that were not given, with what they are.

    Example:
        >>> report = tfprune.export.component("digits.tflite", "digits.zip", firmware="arduino")
        >>> report.files[0]
        'digits/library.properties'
    """

    path: str
    firmware: str
    files: tuple[str, ...]
    bytes: int
    arena: int
    runs: int
    different: int
    rewritten: tuple[str, ...]
    registrations: tuple[str, ...]
    defaults: dict[str, Any]

    def __str__(self) -> str:
        outputs = f"{self.different} different outputs"
        if self.different == 1:
            outputs = "one output for all: check_on with samples that give others tests more"
        defaults = ", ".join(f"{name} {value}" for name, value in self.defaults.items())
        rows = [
            ["for", self.firmware],
            ["model", f"{self.bytes:,} bytes"],
            ["arena", f"{self.arena:,} bytes"],
            *([["self test", f"{self.runs} runs, {outputs}"]] if self.runs else []),
            *([["rewritten", ", ".join(self.rewritten)]] if self.rewritten else []),
            *([["by default", defaults]] if defaults else []),
            ["files", self.files[0]],
            *(["", name] for name in self.files[1:]),
        ]
        return table(["written", self.path], rows, left=2)


# What Vela, the compiler for Arm's Ethos-U NPUs, makes of a file: cycles, SRAM, and the bytes of its weights.

_PACKAGE = "ethosu"
ACCELERATORS = (
    *(f"ethos-u55-{macs}" for macs in (32, 64, 128, 256)),
    *(f"ethos-u65-{macs}" for macs in (256, 512)),
    *(f"ethos-u85-{macs}" for macs in (128, 256, 512, 1024, 2048)),
)
_TIMEOUT = 600.0  # seconds
_KIBI = 1024
_MODEL, _COMPILED = "model.tflite", "model_vela.tflite"
_ON_NPU = "ethos-u"  # the operator that stands for all that the NPU runs
_UNPACKED = ("DENSIFY", OPERATOR)  # make a weight while the model runs, so that no compiler knows it


@dataclass(frozen=True)
class VelaReport(Report):
    """Report of `vela`: the cycles and memory of a file on an Arm Ethos-U NPU, as its compiler estimates them.

    Attributes:
        accelerator: The NPU, and how many multiplications it does in a cycle.
        system: The clock and the memories that were assumed, by their name in the compiler's configuration.
        memory: What lies in which of them, by its name there.
        cycles: The cycles of one inference, without what the processor runs.
        microseconds: The same as time.
        sram: The bytes of SRAM for activations, and weights on their way.
        weights: The number of weights, as the compiler counts them.
        weight_bytes: What these take in the compiler's own compressed form.
        storage: The bytes of flash or DRAM for weights, biases and commands.
        on_cpu: The operators that are left to the processor: by name, how often each occurs.
        compiler: The name and version of the compiler.

    Example:
        >>> report = tfprune.export.vela("ethos-u55-128").report(model)
        >>> report.weight_bytes < report.weights  # as nine in ten are 0
        True
    """

    accelerator: str
    system: str
    memory: str
    cycles: int
    microseconds: float
    sram: int
    weights: int
    weight_bytes: int
    storage: int
    on_cpu: dict[str, int]
    compiler: str

    def __str__(self) -> str:
        left = ", ".join(f"{count} {name}" for name, count in self.on_cpu.items())
        rows = [
            ["one inference", f"{self.microseconds:,.1f} us"],
            ["SRAM", f"{self.sram:,} bytes"],
            ["weights", f"{self.weight_bytes:,} bytes for {self.weights:,} of 8 bits"],
            ["flash or DRAM", f"{self.storage:,} bytes"],
            ["on the processor", left or "none"],
            ["assumed", f"{self.system}, {self.memory}"],
            ["estimated by", self.compiler],
        ]
        return table([f"on {self.accelerator}", f"{self.cycles:,} cycles"], rows, left=2)


def check_accelerator(accelerator: Any) -> None:
    """Refuse NPUs that do not exist, and all of them without the compiler.

    Raises:
        TypeError: If the name is not a string.
        ValueError: If there is no such NPU; or (also an ImportError) if ethos-u-vela is not installed.
    """
    check_choice(accelerator, "accelerator", choices=ACCELERATORS)
    if importlib.util.find_spec(_PACKAGE) is None:
        raise MissingPackage(
            "Expected ethos-u-vela, the compiler for Arm's Ethos-U. Received: it is not installed. "
            f"Run {install('vela')}."
        )


def compile_file(source: Source, accelerator: str, *, system: str | None, memory: str | None) -> VelaReport:
    """Compile a file in a process of its own; see `vela`.

    Raises:
        TypeError: If `source` is neither a path nor bytes, or an argument has another type.
        ValueError: If the file cannot be read, makes its weights while it runs, or holds nothing for the NPU, or the
            compiler refuses it or a name.
    """
    check_accelerator(accelerator)
    file = ModelFile.open(source)
    content, ops = file.content, file.graph.ops
    runtime = [name for name in _UNPACKED if name in ops]
    if runtime:
        raise ValueError(
            f"Expected a file with its weights as they are, which the compiler packs itself. Received: {runtime[0]}, "
            "which makes them while the model runs. Write the file with optimize='dense' and without target='micro'."
        )
    with TemporaryFolder() as name:
        folder = Path(name)
        (folder / _MODEL).write_bytes(content)
        options = {"--accelerator-config": accelerator, "--system-config": system, "--memory-mode": memory}
        write_job(folder, "job", settings={option: value for option, value in options.items() if value is not None})
        completed = run_job(_run_job, folder, timeout=_TIMEOUT)
        if not completed.ok:
            message = completed.reason.rpartition("Error: ")[2].rstrip("'")
            raise ValueError(
                f"Expected a file that Vela compiles for {accelerator}, and names of its configuration. Received: "
                f"{message}. It takes dense int8 files: to_tflite(quantize='int8', optimize='dense')."
            )
        with next(folder.glob("*_summary_*.csv")).open(encoding="utf-8", newline="") as stream:
            summary = next(csv.DictReader(stream))
        left = {name: count for name, count in read((folder / _COMPILED).read_bytes()).ops.items() if name != _ON_NPU}
    return _report(summary, accelerator, on_cpu=left, ops=ops)


def _report(summary: dict[str, str], accelerator: str, *, on_cpu: dict[str, int], ops: dict[str, int]) -> VelaReport:
    cycles = int(summary["cycles_total"])
    if not cycles:
        raise ValueError(
            f"Expected a file with operators for {accelerator}, which computes with integers. Received: none of "
            f"{', '.join(ops)} runs there. Write an int8 file: to_tflite(quantize='int8', io_dtype='int8')."
        )
    stores = ("dram_memory_used", "on_chip_flash_memory_used", "off_chip_flash_memory_used")
    return VelaReport(
        accelerator=accelerator,
        system=summary["system_config"],
        memory=summary["memory_mode"],
        cycles=cycles,
        microseconds=float(summary["inference_time"]) * 1e6,
        sram=math.ceil(float(summary["sram_memory_used"]) * _KIBI),
        weights=int(summary["total_original_weights"]),
        weight_bytes=int(summary["total_npu_encoded_weights"]),
        storage=math.ceil(sum(float(summary[store]) for store in stores) * _KIBI),
        on_cpu=on_cpu,
        compiler=f"Vela {importlib.metadata.version('ethos-u-vela')}",
    )


def _run_job(folder: Path) -> None:
    from ethosu.vela.vela import main

    settings, _ = read_job(folder, "job")
    options = [part for pair in settings.items() for part in pair]
    if main([str(folder / _MODEL), "--output-dir", str(folder), *options]):
        raise ValueError("Vela ended with an error")


# A file as C++ source that a program for a microcontroller is compiled with.

_ENDINGS = (".cc", ".cpp", ".cxx")
_BYTES_PER_LINE = 12  # bytes in a line

# Words of C++, and names that <cstddef>, compilers or the interpreter use already.
_RESERVED_NAMES = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t class
compl concept const const_cast consteval constexpr constinit continue co_await co_return co_yield decltype
default delete do double dynamic_cast else enum explicit export extern false float for friend goto if inline
int long mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public register
reinterpret_cast requires return short signed sizeof static static_assert static_cast struct switch template
this thread_local throw true try typedef typeid typename union unsigned using virtual void volatile wchar_t
while xor xor_eq main std tflite size_t ptrdiff_t nullptr_t max_align_t NULL offsetof linux unix i386 typeof
"""

_HEADER = """\
// {title}, {bytes} bytes, made by tfprune.
#ifndef {guard}
#define {guard}

#include <cstddef>

extern const unsigned char {name}[];
extern const std::size_t {name}_size;
{arena}
// How many operators the resolver has room for: tflite::MicroMutableOpResolver<{name}_operators> resolver;
constexpr unsigned int {name}_operators = {operators};

// Registers them: true if all went well.
template <typename Resolver>
bool {name}_register(Resolver& resolver) {{
  return {calls};
}}

#endif  // {guard}
"""
_ARENA = """
// Bytes of RAM in which the interpreter for 64-bit machines runs it. Kernels of a chip's maker may need more.
constexpr std::size_t {name}_arena_size = {arena};
"""
_CODE = """\
#include "{header}"

alignas(16) const unsigned char {name}[] = {{
{lines}
}};
const std::size_t {name}_size = sizeof({name});
"""


def c_array(source: Source, path: str | os.PathLike[str], *, arena: int | None = None) -> ArrayReport:
    """Write a .tflite file as a C++ array, aligned to 16 bytes, with a header that registers its operators.

    Use it to compile a file of `target="micro"` into the program of a microcontroller.

    Args:
        source: A path, or the bytes of a .tflite file.
        path: Where the C++ source is written, ending in .cc, .cpp or .cxx; the header is written beside it and ends
            in .h. The array has the name of the file.
        arena: The bytes of RAM that the header states as the size of the arena; None (the default) states no size.

    Returns:
        A report of both files.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If the file cannot be read or written, has operators that the interpreter for microcontrollers
            lacks, or its name makes no name in C++.

    Example:
        >>> report = c_array("digits.tflite", "digits.cc")
        >>> report.header
        'digits.h'
    """
    target = check_destination(path)
    header, name = target.with_suffix(".h"), cpp_name(target.stem)
    is_quotable = header.name.isprintable() and not set(header.name) & {'"', "\\"}
    if target.suffix not in _ENDINGS or name is None or not is_quotable:
        raise ValueError(
            f"Expected a path that ends in {', '.join(_ENDINGS)}, with a name that begins with a letter, is not a "
            f"word of C++, and has no quotes or newlines. Received: {str(target)!r}. Call it model.cc, for example."
        )
    file = ModelFile.open(source)
    if lacking := missing(file.graph.ops):
        raise ValueError(
            f"Expected a file whose operators the interpreter for microcontrollers has. Received: "
            f"{source_name(source)} with {', '.join(lacking)}. Export it with target='micro'."
        )
    if isinstance(source, (str, os.PathLike)):
        for written in (target, header):
            check_not_read(str(written), os.fspath(source))
    size = None if arena is None else check_count(arena, "arena", least=1)
    texts = array_texts(file, name, header=header.name, title=title_of(source), arena=size)
    write_together({header: texts[0].encode(), target: texts[1].encode()})
    return ArrayReport(str(target), str(header), name, len(file.content), tuple(registrations(file.graph.ops)))


def cpp_name(stem: str) -> str | None:
    """Return the name in C++ that a file's name makes; None if it makes none."""
    name = re.sub(r"\W", "_", stem, flags=re.ASCII)
    return name if re.match("[A-Za-z]", name) and name not in _RESERVED_NAMES.split() else None


def title_of(source: Source) -> str:
    """Return how a file is called in the comment of its source."""
    return printable(Path(source).name) if isinstance(source, (str, os.PathLike)) else "A model"


def array_texts(file: ModelFile, name: str, *, header: str, title: str, arena: int | None) -> tuple[str, str]:
    """Return the header and the source of a file as a C++ array.

    Args:
        file: The file.
        name: The name of the array.
        header: The name of the header, for the source.
        title: What the comment calls the file.
        arena: The bytes of RAM that the header states; None states none.
    """
    calls = registrations(file.graph.ops)
    text = _HEADER.format(
        title=title,
        bytes=f"{len(file.content):,}",
        guard=f"{name.upper()}_H_",
        name=name,
        arena="" if arena is None else _ARENA.format(name=name, arena=arena),
        operators=len(calls),
        calls=" &&\n         ".join(f"static_cast<int>(resolver.{call}()) == 0" for call in calls) or "true",
    )
    return text, _CODE.format(header=header, name=name, lines=byte_lines(file.content))


def byte_lines(content: bytes) -> str:
    """Return bytes as lines of numbers in C++."""
    rows = (content[start : start + _BYTES_PER_LINE] for start in range(0, len(content), _BYTES_PER_LINE))
    return "\n".join("  " + " ".join(f"0x{byte:02x}," for byte in row) for row in rows)
