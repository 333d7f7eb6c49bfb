"""The interpreter for microcontrollers: how it runs files and lays out RAM, and the operators and boards it knows."""

from __future__ import annotations

import bisect
import copy
import difflib
import functools
import importlib.metadata
import importlib.resources
import importlib.util
import math
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.base.folders import TemporaryFolder, parse_json, read_fields
from tfprune.export.device.processes import read_job, run_job, write_job
from tfprune.export.device.runner import IOTensor
from tfprune.export.device.verify import Run
from tfprune.export.file import schema
from tfprune.export.file.container import Source
from tfprune.export.file.document import (
    NamedTensors,
    indices_of,
    inputs_of,
    operator_name,
    put_in_order,
)
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import DAMAGE_ERRORS
from tfprune.export.file.schema import MissingPackage
from tfprune.export.file.sparse_tensors import OPERATOR
from tfprune.report import Report, install

# Run files in the interpreter for microcontrollers, in a process of its own: it ends when in doubt.

_PACKAGE = "tflite_micro"
_MAX_ARENA_BYTES = 2**28  # bytes of an arena that no microcontroller has; what is not touched takes no memory
_TIMEOUT = 600.0  # seconds for all files of one call, unless it says otherwise
_ARENA_ALIGNMENT = 16  # bytes: parts of an arena begin at multiples
_STAYS = "Arena allocation tail "
_TOTAL = "Arena allocation total "
_REPEATING_LINES = ("Failed to", "Node ", "Additional ")  # lines that repeat what an earlier one says


@dataclass(frozen=True)
class MicroRun:
    """How a file ran.

    Attributes:
        reason: Why it did not; empty if it did.
        arena: The smallest arena in which it runs here, with pointers of 64 bits, in bytes.
        planning: Those of its bytes that do not stay: what a run needs, or if that is more, laying memory out.
        raw: Its outputs for all samples, one array for each, in the types of the file.
        outputs: The same, as float32 where the file holds real numbers as integers.
    """

    reason: str
    arena: int = 0
    planning: int = 0
    raw: list[np.ndarray] = field(default_factory=list)
    outputs: list[np.ndarray] = field(default_factory=list)

    def equals(self, other: MicroRun) -> bool:
        """Return True if both gave the same outputs, bit for bit."""
        pairs = zip(self.raw, other.raw, strict=True)
        return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def require_interpreter() -> None:
    """Refuse to go on without the interpreter.

    Raises:
        MissingPackage: If tflite-micro is not installed.
    """
    if importlib.util.find_spec(_PACKAGE) is None:
        raise MissingPackage(
            "Expected tflite-micro, the interpreter that microcontrollers run. Received: it is not installed. "
            f"Run {install('micro')}."
        )


def runtime_name() -> str:
    """Return the name and version of the interpreter, which is installed."""
    return f"tflite-micro {importlib.metadata.version('tflite-micro')}"


def run_by_name(file: ModelFile, inputs: Mapping[str, np.ndarray], *, timeout: float) -> Run:
    """Run a file as `verify.run_in_child` does, by the names of its inputs and outputs, but here.

    Raises:
        MissingPackage: If tflite-micro is not installed.
    """
    (run,) = run_files([file], [inputs[info.name] for info in file.graph.inputs], timeout=timeout)
    names = [info.name for info in file.graph.outputs] if not run.reason else []
    return Run(dict(zip(names, run.outputs, strict=True)), runtime_name(), run.reason)


def run_files(
    files: Sequence[Source | ModelFile], inputs: Sequence[np.ndarray], *, timeout: float = _TIMEOUT
) -> list[MicroRun]:
    """Run files on the same samples.

    Args:
        files: Paths, contents of files, or files that are open.
        inputs: An array for each input, in the order of the graph: of the input's shape, or with any number of
            samples along its first dimension if the file takes one.
        timeout: Seconds for all of them.

    Returns:
        How each ran. One that takes the process down has that as its reason.

    Raises:
        MissingPackage: If tflite-micro is not installed.
    """
    require_interpreter()
    opened, runs = [*map(ModelFile.open, files)], list[MicroRun]()
    while len(runs) < len(opened):
        runs += _run(opened[len(runs) :], inputs, timeout)
    return runs


def _run(files: Sequence[ModelFile], inputs: Sequence[np.ndarray], timeout: float) -> list[MicroRun]:
    """Run files until one takes the process down."""
    with TemporaryFolder() as name:
        folder = Path(name)
        arrays = {str(index): array for index, array in enumerate(inputs)}
        counts = [len(file.graph.subgraphs[0].outputs) for file in files]
        write_job(folder, "job", settings={"outputs": counts}, arrays=arrays)
        for index, file in enumerate(files):
            (folder / f"{index}.tflite").write_bytes(file.content)
        completed = run_job(_run_job, folder, timeout=timeout)
        runs: list[MicroRun] = []
        for index in range(len(files)):
            if not (folder / f"{index}.json").exists():
                said = _last_words(folder / f"{index}.said")
                return [*runs, MicroRun(f"the interpreter {_ended(completed.reason)}{said and f': {said}'}")]
            settings, arrays = read_job(folder, str(index))
            count = len(arrays) // 2
            values = [*arrays.values()]
            runs.append(MicroRun(**settings, raw=values[:count], outputs=values[count:]))
        return runs


@dataclass(frozen=True)
class ChipArena(Report):
    """The RAM of a file in the interpreter with pointers of 32 bits, as chips have them, in bytes.

    Attributes:
        activations: What tensors and the scratch memory of operators take that live for a part of a run.
        planning: What it takes to lay these out before the first run, in their place.
        descriptions: What stays: of tensors and operators, and of the interpreter.
        kernels: What stays: variables, and the data that operators prepare.
    """

    activations: int
    planning: int
    descriptions: int
    kernels: int

    @property
    def persistent(self) -> int:
        """The bytes that stay."""
        return self.descriptions + self.kernels

    @property
    def total(self) -> int:
        """The bytes of the smallest arena in which the file runs."""
        return -(-(self.persistent + max(self.activations, self.planning)) // _ARENA_ALIGNMENT) * _ARENA_ALIGNMENT

    def __str__(self) -> str:
        parts = {"activations": self.activations, "variables and kernels": self.kernels}
        parts["descriptions"] = self.descriptions
        if self.planning > self.activations:
            parts = {"planning, before the first run": self.planning, **parts}
        return ", ".join(f"{size:,} {name}" for name, size in parts.items())


_CHIP_PARTS = ("NonPersistent", "Persistent", "Persistent buffer data")  # that mcufit's program counts
_RESERVED_BYTES = (
    2112  # that this program takes besides, by the comparison of bench/micro_arena.py: for 100 variables
)
_TABLE_BYTES, _VARIABLE_BYTES = 8, 20  # that a chip's program takes for a table of variables, and for each of them
_LONGER_BYTES = 8  # of 64 bits, in what lays out a tensor


def chip_arena(file: ModelFile, run: MicroRun) -> ChipArena | None:
    """Return the RAM of a file on 32 bits, measured in WebAssembly.

    Args:
        file: The file.
        run: How it ran here.

    Returns:
        The bytes; None if it does not run, or if the package mcufit, which holds the interpreter built for
        WebAssembly, or Node, which runs it, is not installed.
    """
    node = shutil.which("node")
    if run.reason or node is None or importlib.util.find_spec("mcufit") is None:
        return None
    program = Path(str(importlib.resources.files("mcufit.wasm")), "run_benchmark.mjs")
    with TemporaryFolder() as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(file.content)
        try:
            done = subprocess.run(
                [node, program, path], capture_output=True, text=True, timeout=_TIMEOUT, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
    rows = [line.split("|") for line in done.stdout.splitlines()]
    counts = {row[0].strip(): int(row[-2] if len(row) == 3 else row[2]) for row in rows if len(row) in (3, 6)}
    if not {*_CHIP_PARTS} <= counts.keys():
        return None
    activations, persistent, kernels = (counts[part] for part in _CHIP_PARTS)
    variables, tensors = variables_of(file), sum(len(graph.tensors) for graph in file.graph.subgraphs)
    beside = _RESERVED_BYTES - (_TABLE_BYTES + variables * _VARIABLE_BYTES if variables else 0)
    return ChipArena(
        activations=activations,
        planning=max(0, run.planning - tensors * _LONGER_BYTES),
        descriptions=persistent - kernels,
        kernels=kernels - beside,
    )


def variables_of(file: ModelFile) -> int:
    """Return the number of variables of a file."""
    if "VAR_HANDLE" not in file.graph.ops:
        return 0
    model = file.objects()
    operators = [each for graph in model.subgraphs for each in graph.operators or ()]
    handles = [each.builtinOptions for each in operators if operator_name(model, each) == "VAR_HANDLE"]
    return len({(handle.container, handle.sharedName) for handle in handles})


def _ended(reason: str) -> str:
    return f"was {reason}" if reason.startswith("killed") else f"stopped: {reason}"


def _run_job(folder: Path) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # that of forks, in whose way a thread could stand
    settings, arrays = read_job(folder, "job")
    for index, count in enumerate(settings["outputs"]):
        data, said = (folder / f"{index}.tflite").read_bytes(), folder / f"{index}.said"
        try:
            sizes, raw, outputs = _load_and_run(data, [*arrays.values()], outputs=count, said=said)
        except (RuntimeError, ValueError) as error:
            reason = _last_words(said) or " ".join(str(error).split())
            settings = {"reason": reason.rstrip("."), "arena": 0, "planning": 0}
            write_job(folder, str(index), settings=settings)
            continue
        both = {
            f"{kind}{place}": array
            for kind, arrays in (("r", raw), ("o", outputs))
            for place, array in enumerate(arrays)
        }
        write_job(folder, str(index), settings={"reason": "", **sizes}, arrays=both)


def _load_and_run(
    data: bytes, inputs: Sequence[np.ndarray], *, outputs: int, said: Path
) -> tuple[dict[str, int], list[np.ndarray], list[np.ndarray]]:
    """Run a file here, where it may take the process down.

    Args:
        data: The file.
        inputs: As `run_files` takes them.
        outputs: How many it has.
        said: A file that gets what native code says.

    Returns:
        The smallest arena, with what does not stay of it, and the outputs in it, raw and as real numbers.

    Raises:
        RuntimeError: If the interpreter refuses the file.
        ValueError: If the file is damaged, or the inputs do not fit.
    """
    with _said_to(said):
        interpreter = _load(data, _MAX_ARENA_BYTES)
        interpreter.print_allocations()
    text = said.read_text(errors="replace")
    total, stays = (int(text.rpartition(part)[2].split()[0]) for part in (_TOTAL, _STAYS))
    with _said_to(said):
        arena = _smallest(total, lambda size: _loads(data, size))
        interpreter = _load(data, arena)
        ends = [
            IOTensor.of(str(place), {**interpreter.get_input_details(place), "index": place})
            for place in range(len(inputs))
        ]
        samples = [end.encode(array) for end, array in zip(ends, inputs, strict=True)]
        results = [_invoke(interpreter, row, outputs) for row in _rows(ends, samples)]
    raw = [np.concatenate(parts) if parts[0].ndim else parts[0] for parts in zip(*results, strict=True)]
    details = [interpreter.get_output_details(place) for place in range(len(raw))]
    ends = [IOTensor.of(str(place), {**detail, "index": place}) for place, detail in enumerate(details)]
    sizes = {"arena": arena, "planning": arena - stays}
    return sizes, raw, [end.decode(array) for end, array in zip(ends, raw, strict=True)]


def _smallest(total: int, loads: Callable[[int], bool]) -> int:
    """Return the fewest bytes that do: what was counted, or what it takes while memory is laid out."""
    low = high = -(-total // _ARENA_ALIGNMENT)
    while not loads(high * _ARENA_ALIGNMENT):
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if loads(middle * _ARENA_ALIGNMENT) else (middle + 1, high)
    return high * _ARENA_ALIGNMENT


def _load(data: bytes, arena: int) -> Any:
    from tflite_micro.python.tflite_micro import runtime

    try:
        return runtime.Interpreter.from_bytes(data, arena_size=arena)
    except DAMAGE_ERRORS as error:  # its Python half reads all options of all operators
        raise ValueError(f"the file is damaged: {error}") from error


def _loads(data: bytes, arena: int) -> bool:
    """Return True if a file loads in an arena. Operators may crash in it, so a fork tries."""
    child = os.fork()
    if not child:
        os.close(2)  # what it says is no news
        try:
            _load(data, arena)
        except RuntimeError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def _rows(ends: Sequence[IOTensor], samples: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    if all(array.shape == end.info.shape for end, array in zip(ends, samples, strict=True)):
        yield [*samples]
        return
    for end, array in zip(ends, samples, strict=True):
        if end.batch != 1 or not end.takes(array) or len(array) != len(samples[0]):
            raise ValueError(f"an input takes the shape {end.info.shape}, and samples have {array.shape}")
    for row in range(len(samples[0])):
        yield [array[row : row + 1] for array in samples]


def _invoke(interpreter: Any, row: Sequence[np.ndarray], outputs: int) -> list[np.ndarray]:
    for place, array in enumerate(row):
        interpreter.set_input(array, place)
    interpreter.invoke()
    # Asked for more outputs than there are, it may crash.
    return [interpreter.get_output(place) for place in range(outputs)]


@contextmanager
def _said_to(path: Path) -> Iterator[None]:
    """Keep what native code writes to stderr."""
    before = os.dup(2)
    with path.open("wb") as stream:
        os.dup2(stream.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)


def _last_words(path: Path) -> str:
    """Return the first line that says what went wrong."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    telling = [line for line in lines if line.strip() and not line.startswith(("[", *_REPEATING_LINES))]
    return telling[0].strip().rstrip(".") if telling else ""


# How the interpreter lays out the tensors of a file in RAM, and what it keeps besides.

# Bytes that stay on 32 bits: of an operator with its output, of others, and of each filter of a convolution.
_OPERATOR_BYTES, _BYTES_OF = 120, {"CONV_2D": 132, "DEPTHWISE_CONV_2D": 152, "SPLIT_V": 66, "STRIDED_SLICE": 180}
_FILTER_BYTES, _WITH_FILTERS = 8, ("CONV_2D", "DEPTHWISE_CONV_2D")
_PLANNED_BYTES, _DESCRIBED_BYTES = 40, 24  # to lay out a tensor that an operator makes, and to describe any


def aligned(size: int) -> int:
    """Return a size as it counts in the arena."""
    return -(-size // _ARENA_ALIGNMENT) * _ARENA_ALIGNMENT


def shape_of(tensor: schema.TensorT) -> tuple[int, ...]:
    """Return the lengths of a tensor along its dimensions."""
    return () if tensor.shape is None else tuple(map(int, tensor.shape))


def tensor_bytes(tensor: schema.TensorT) -> int:
    """Return the bytes of the arena that a tensor takes while it is needed."""
    widths = {schema.TensorType.FLOAT32: 4, schema.TensorType.INT32: 4, schema.TensorType.INT16: 2}
    widths |= {schema.TensorType.INT64: 8}
    return aligned(math.prod(shape_of(tensor)) * widths.get(tensor.type, 1))


def _spans(graph: schema.SubGraphT, operators: Sequence[schema.OperatorT]) -> dict[int, tuple[int, int]]:
    """Return the first and the last operator that a tensor is needed for, by the tensor."""
    first = dict.fromkeys(indices_of(graph.inputs), 0)
    last: dict[int, int] = {}
    for number, operator in enumerate(operators):
        for index in indices_of(operator.outputs):
            first.setdefault(index, number)
            last[index] = number
        last.update({index: number for index in inputs_of(operator) if index in first})
    last.update(dict.fromkeys(indices_of(graph.outputs), len(operators)))
    return {index: (number, last.get(index, 0)) for index, number in first.items()}


def live_bytes(
    graph: schema.SubGraphT, operators: Sequence[schema.OperatorT] | None = None
) -> tuple[list[int], list[int]]:
    """Return for each operator the bytes that are live, and those of them for the last time."""
    operators = graph.operators if operators is None else operators
    spans = _spans(graph, operators)
    sizes = {index: tensor_bytes(graph.tensors[index]) for index in spans}
    live, freed = [0] * len(operators), [0] * len(operators)
    for index, (first, last) in spans.items():
        for number in range(first, min(last + 1, len(operators))):
            live[number] += sizes[index]
        if last < len(operators) and index not in indices_of(operators[last].outputs):
            freed[last] += sizes[index]
    return live, freed


def largest_live(model: schema.ModelT, operators: Sequence[schema.OperatorT] | None = None) -> int:
    """Return the bytes of tensors that are live at once, at most, in the first graph, or with its operators so."""
    return max(live_bytes(model.subgraphs[0], operators)[0], default=0)


def live_at_peak(model: schema.ModelT) -> set[int]:
    """Return the tensors of the first graph that are live where most bytes are."""
    graph = model.subgraphs[0]
    live, spans = live_bytes(graph)[0], _spans(graph, graph.operators)
    peak = live.index(max(live))
    return {index for index, (first, last) in spans.items() if first <= peak <= last}


def layout_bytes(graph: schema.SubGraphT) -> int:
    """Return the bytes in which the interpreter lays out what is live, which may be more than is live at once.

    The largest tensors come first, each into the first gap between those that are live at the same time.
    """
    spans = _spans(graph, graph.operators)
    order = sorted(
        ((tensor_bytes(graph.tensors[index]), number, *spans[index]) for number, index in enumerate(spans)),
        reverse=True,
    )
    places: list[tuple[int, int, int, int]] = []  # where a tensor begins and ends, in bytes and in operators
    for size, _, first, last in order:
        place = 0
        for begin, end, start, stop in places:
            if start <= last and first <= stop:
                if begin - place >= size:
                    break
                place = max(place, end)
        bisect.insort(places, (place, place + size, first, last))
    return max((end for _, end, _, _ in places), default=0)


def kept_bytes(model: schema.ModelT, graph: schema.SubGraphT) -> int:
    """Return the bytes that stay in the arena for the operators of a graph, about, as those on images take."""
    total = 0
    for operator in graph.operators:
        kind, shape = operator_name(model, operator), shape_of(graph.tensors[int(operator.outputs[0])])
        total += _BYTES_OF.get(kind, _OPERATOR_BYTES)
        total += _FILTER_BYTES * shape[-1] if kind in _WITH_FILTERS else 0
    return total


def arena_bytes(model: schema.ModelT, graph: schema.SubGraphT) -> int:
    """Return the bytes of the arena of a graph on 32 bits, about: their differences are those of similar graphs."""
    planning = _PLANNED_BYTES * len(graph.operators) + _DESCRIBED_BYTES * len(graph.tensors)
    return max(layout_bytes(graph), planning) + kept_bytes(model, graph)


@dataclass(frozen=True)
class OperatorMemory(Report):
    """What is live while an operator runs.

    Attributes:
        operator: The number of the operator and its kind, such as `3, CONV_2D`.
        live: Bytes of all tensors that are needed then.
        added: Bytes of what it makes.
    """

    operator: str
    live: int
    added: int


def memory_of_operators(model: schema.ModelT) -> tuple[OperatorMemory, ...]:
    """Return what is live while each operator of the first graph runs, in order."""
    file = NamedTensors(model)
    live, _ = live_bytes(file.graph)
    rows = []
    for number, (operator, size) in enumerate(zip(file.graph.operators, live, strict=True)):
        added = sum(tensor_bytes(file.tensors[index]) for index in indices_of(operator.outputs))
        rows.append(OperatorMemory(f"{number}, {file.kind(operator)}", size, added))
    return tuple(rows)


# The operators that the interpreter for microcontrollers has, and how an application registers each.

# Of tflite-micro 0.dev20261023; tests/export/micro/test_operators.py asks the interpreter for each.
_NAMES = """
ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND BROADCAST_ARGS
BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV
DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED
GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG
LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG
NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE
RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND
SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE
TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE ZEROS_LIKE
"""
_CUSTOM = {
    OPERATOR: "AddDecode",
    "CIRCULAR_BUFFER": "AddCircularBuffer",
    "TFLite_Detection_PostProcess": "AddDetectionPostprocess",
}
# Where the name is not what the rule makes of it.
_IRREGULAR_NAMES = {
    "BATCH_MATMUL": "AddBatchMatMul",
    "CUMSUM": "AddCumSum",
    "PADV2": "AddPadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
}
KNOWN_OPERATORS = frozenset(_NAMES.split()) | frozenset(_CUSTOM)


def missing(names: Iterable[str]) -> list[str]:
    """Return the operators that the interpreter lacks, in order."""
    return sorted({*names} - KNOWN_OPERATORS)


def registrations(names: Iterable[str]) -> list[str]:
    """Return the functions of the resolver that an application calls for operators, in order.

    Example:
        >>> registrations(["SOFTMAX", "CONV_2D"])
        ['AddConv2D', 'AddSoftmax']
    """
    return sorted(_CUSTOM.get(name) or _IRREGULAR_NAMES.get(name) or _rule(name) for name in {*names})


def _rule(name: str) -> str:
    words = name.split("_")
    return "Add" + "".join("2D" if word == "2D" else word.capitalize() for word in words)


# Common boards, and whether a file and its arena fit on them.

_BOARDS_FILE = "boards.json"  # beside this module: the memory of boards, and who says so
_BY_HAND = "flash=1048576,ram=262144"
_MOST_CLOSE = 3  # names that an error suggests


@dataclass(frozen=True)
class Board(Report):
    """A board: what its chip has for the program, the model and the arena together.

    Attributes:
        name: How it is asked for.
        title: What it says on the box, and its chip.
        flash: The bytes of flash memory.
        ram: The bytes of RAM.
        reserved: The bytes of RAM that the system, the radio and the libraries of the board usually take.
        source: Where these numbers are from.
    """

    name: str
    title: str
    flash: int
    ram: int
    reserved: int = 0
    source: str = ""

    @property
    def usable(self) -> int:
        """The bytes of RAM that are left for the program and the arena."""
        return self.ram - self.reserved


@functools.cache
def boards() -> dict[str, Board]:
    """Return the boards of the table by name."""
    rows = parse_json((importlib.resources.files(__package__) / _BOARDS_FILE).read_bytes())
    return {row["name"]: read_fields(Board, row) for row in rows}


@dataclass(frozen=True)
class BoardFit(Report):
    """Whether a file and its arena fit on a board.

    Attributes:
        board: The name of the board.
        title: Its name in full.
        flash_left: The bytes of flash that are left for the program; negative if some are missing.
        ram_left: The bytes of usable RAM that are left for it; negative if some are missing.
        usable: The bytes of RAM that the system of the board leaves.
        ram: The bytes of RAM of its chip.
    """

    board: str
    title: str
    flash_left: int
    ram_left: int
    usable: int
    ram: int

    @property
    def fits(self) -> bool:
        """Whether nothing is missing."""
        return self.flash_left >= 0 and self.ram_left >= 0

    def __str__(self) -> str:
        kinds = {"flash": self.flash_left, "RAM": self.ram_left}
        lacking = [f"{-left:,} bytes of {kind}" for kind, left in kinds.items() if left < 0]
        if lacking:
            return f"lacks {' and '.join(lacking)}"
        return f"FITS, leaves {self.flash_left:,} bytes of flash and {self.ram_left:,} of RAM for the program"


def find_board(name: str) -> Board:
    """Return a board of the table, or one whose memory is given by hand, as in `"flash=1048576,ram=262144"`.

    Raises:
        TypeError: If the name is no string.
        ValueError: If it is not in the table, or memory given by hand cannot be read.
    """
    if not isinstance(name, str):
        raise TypeError(f"Expected the name of a board. Received: {name!r} of type {type(name).__name__}.")
    if name in boards():
        return boards()[name]
    if "=" in name:
        return _board_by_hand(name)
    wanted = name.lower().replace("_", "-")
    within = [each for each in boards() if each in wanted or wanted in each] if wanted else []
    close = [*dict.fromkeys([*within, *difflib.get_close_matches(wanted, boards(), n=_MOST_CLOSE)])][:_MOST_CLOSE]
    meant = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise ValueError(
        f"Expected a board of {', '.join(boards())}. Received: {name!r}.{meant} For another board, give the bytes of "
        f"its flash and of the RAM that its system leaves: board={_BY_HAND!r}."
    )


def _board_by_hand(text: str) -> Board:
    sizes = dict(re.findall(r"(flash|ram)=0*([1-9][0-9]{0,14})(?:,|$)", text))
    if len(sizes) != 2 or text.count("=") != 2:
        raise ValueError(
            f"Expected flash and usable RAM of a board in bytes, such as board={_BY_HAND!r}. Received: {text!r}. "
            "Give both as whole numbers."
        )
    return Board(text, "this board", int(sizes["flash"]), int(sizes["ram"]), source="given by hand")


def fits(flash: int, arena: int, *, board: str | None = None) -> tuple[BoardFit, ...]:
    """Say for one board, or for all, whether a file of so many bytes and its arena fit into flash and usable RAM."""
    asked = boards().values() if board is None else [find_board(board)]
    return tuple(
        BoardFit(each.name, each.title, each.flash - flash, each.usable - arena, each.usable, each.ram)
        for each in asked
    )


# Leave out of a file what the interpreter for microcontrollers never reads.


def drop_unused(model: schema.ModelT) -> None:
    """Leave out names, signatures, metadata, files behind the flatbuffer and known scales of biases.

    Inputs and outputs keep their names, those of the signature if there is one. A bias has the scale of its input
    times that of its weight, and the interpreter takes it from these for each channel.
    """
    _name_ends(model)
    ends = {index for kind in ("inputs", "outputs") for index in indices_of(getattr(model.subgraphs[0], kind))}
    for number, graph in enumerate(model.subgraphs):
        graph.name = b"" if number == 0 else graph.name
        for index, tensor in enumerate(graph.tensors):
            tensor.name = tensor.name if number == 0 and index in ends else None
            tensor.shapeSignature = None
            tensor.quantization = _quantization(tensor)
            data = model.buffers[tensor.buffer].data
            if not tensor.isVariable and (data is None or not len(data)):
                tensor.buffer = 0  # the empty one
    model.signatureDefs = model.metadata = model.metadataBuffer = model.description = None
    model.archive = b""
    put_in_order(model)
    for name in ("metadata", "signatureDefs"):
        setattr(model, name, getattr(model, name) or None)


def _name_ends(model: schema.ModelT) -> None:
    for signature in model.signatureDefs or ():
        if signature.subgraphIndex == 0:
            for entry in (*(signature.inputs or ()), *(signature.outputs or ())):
                model.subgraphs[0].tensors[entry.tensorIndex].name = entry.name
            return


def _quantization(tensor: schema.TensorT) -> schema.QuantizationParametersT | None:
    quantization = copy.copy(tensor.quantization)
    if quantization is None or (tensor.type == schema.TensorType.INT32 and np.size(quantization.scale) > 1):
        return None
    if quantization.scale is None or not np.size(quantization.scale):
        return None
    quantization.min = quantization.max = None
    points = quantization.zeroPoint
    if np.size(points) > 1 and (points == points[0]).all():  # one stands for all channels, of 8 bytes each
        quantization.zeroPoint = points[:1]
    return quantization
