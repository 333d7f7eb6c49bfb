"""The interpreter for microcontrollers, the operators and boards that it knows, and weights that it unpacks."""

from __future__ import annotations

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
from collections import Counter
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
    add_constant,
    add_tensor,
    add_values,
    indices_of,
    inputs_of,
    operator_code,
    operator_name,
)
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.reader import DAMAGE_ERRORS
from tfprune.export.file.schema import MissingPackage
from tfprune.export.file.sparse_tensors import OPERATOR, DecodeConstants, encode_pruned, encode_table
from tfprune.report import Report, install

# Run files in the interpreter for microcontrollers, in a process of its own: it ends when in doubt.

_PACKAGE = "tflite_micro"
_MAX_ARENA_BYTES = 2**28  # bytes of an arena that no microcontroller has; what is not touched takes no memory
_TIMEOUT = 600.0  # seconds for all files of one call, unless it says otherwise
_ARENA_ALIGNMENT = 16  # bytes: parts of an arena begin at multiples
_TOTAL = "Arena allocation total "
_REPEATING_LINES = ("Failed to", "Node ", "Additional ")  # lines that repeat what an earlier one says


@dataclass(frozen=True)
class MicroRun:
    """How a file ran.

    Attributes:
        reason: Why it did not; empty if it did.
        arena: The smallest arena in which it runs, in bytes.
        raw: Its outputs for all samples, one array for each, in the types of the file.
        outputs: The same, as float32 where the file holds real numbers as integers.
    """

    reason: str
    arena: int = 0
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
            runs.append(MicroRun(settings["reason"], settings["arena"], values[:count], values[count:]))
        return runs


@dataclass(frozen=True)
class ChipArena(Report):
    """The RAM of a file in the interpreter with pointers of 32 bits, as chips have them, in bytes.

    Attributes:
        activations: What tensors and the scratch memory of operators take that live for a part of a run.
        persistent: What stays: variables, the data that operators prepare, and the descriptions of both.
    """

    activations: int
    persistent: int

    @property
    def total(self) -> int:
        """The bytes of both."""
        return self.activations + self.persistent


def chip_arena(file: ModelFile) -> ChipArena | None:
    """Return the RAM of a file on 32 bits, measured in WebAssembly, where the program that measures takes 2 kB of it.

    None if the file does not run there, or if the package mcufit, which holds the interpreter built for WebAssembly,
    or Node, which runs it, is not installed.
    """
    node = shutil.which("node")
    if node is None or importlib.util.find_spec("mcufit") is None:
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
    counts = [
        re.search(rf"^\s*{part} \|\s*(\d+)", done.stdout, re.MULTILINE) for part in ("NonPersistent", "Persistent")
    ]
    found = [int(count[1]) for count in counts if count is not None]
    return ChipArena(*found) if len(found) == len(counts) else None


def _ended(reason: str) -> str:
    return f"was {reason}" if reason.startswith("killed") else f"stopped: {reason}"


def _run_job(folder: Path) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # that of forks, in whose way a thread could stand
    settings, arrays = read_job(folder, "job")
    for index, count in enumerate(settings["outputs"]):
        data, said = (folder / f"{index}.tflite").read_bytes(), folder / f"{index}.said"
        try:
            arena, raw, outputs = _load_and_run(data, [*arrays.values()], outputs=count, said=said)
        except (RuntimeError, ValueError) as error:
            reason = _last_words(said) or " ".join(str(error).split())
            write_job(folder, str(index), settings={"reason": reason.rstrip("."), "arena": 0})
            continue
        both = {
            f"{kind}{place}": array
            for kind, arrays in (("r", raw), ("o", outputs))
            for place, array in enumerate(arrays)
        }
        write_job(folder, str(index), settings={"reason": "", "arena": arena}, arrays=both)


def _load_and_run(
    data: bytes, inputs: Sequence[np.ndarray], *, outputs: int, said: Path
) -> tuple[int, list[np.ndarray], list[np.ndarray]]:
    """Run a file here, where it may take the process down.

    Args:
        data: The file.
        inputs: As `run_files` takes them.
        outputs: How many it has.
        said: A file that gets what native code says.

    Returns:
        The smallest arena, and the outputs in it, raw and as real numbers.

    Raises:
        RuntimeError: If the interpreter refuses the file.
        ValueError: If the file is damaged, or the inputs do not fit.
    """
    with _said_to(said):
        interpreter = _load(data, _MAX_ARENA_BYTES)
        interpreter.print_allocations()
    total = int(said.read_text(errors="replace").rpartition(_TOTAL)[2].split()[0])
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
    return arena, raw, [end.decode(array) for end, array in zip(ends, raw, strict=True)]


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


# The layers of a graph whose weights can be unpacked while the model runs, and what is live beside them.

# The axis of the weight along which the outputs lie; None where parts of a layer cannot be joined.
_CUT = {"CONV_2D": 0, "FULLY_CONNECTED": 0, "DEPTHWISE_CONV_2D": 3, "TRANSPOSE_CONV": None}
_BY_CHANNEL = "DEPTHWISE_CONV_2D"  # where a part of the outputs needs a part of the input
_TYPES: dict[int, Any] = {0: np.dtype("<f4"), 7: np.dtype("<i2"), 9: np.dtype("i1")}  # by the format's number
_ALIGNMENT = 16  # bytes to which the interpreter rounds each tensor up


@dataclass(frozen=True, eq=False)
class Layer:
    """An operator with a weight.

    Attributes:
        operator: The operator.
        kind: Its name.
        name: The name of its weight.
        weight: The index of the weight.
        buffer: Where its values lie.
        values: The weight.
        pieces: Into how many parts its outputs can be cut; 1 if they cannot.
        source: Bytes of the input of which each part takes a part; 0 if each takes all of it.
        live: Bytes of all tensors that are needed while it runs, without the weight.
        freed: Bytes of these that nothing needs afterwards.
        output: Bytes of what it makes.
        reason: Why the weight has to stay as it is; empty if it has not.
    """

    operator: schema.OperatorT
    kind: str
    name: str
    weight: int
    buffer: int
    values: np.ndarray
    pieces: int
    source: int
    live: int
    freed: int
    output: int
    reason: str = ""

    @property
    def axis(self) -> int:
        """The axis of the weight along which it is cut."""
        return _CUT[self.kind] or 0

    def slice_bytes(self, pieces: int) -> int:
        """Bytes in the arena of the largest part of the weight."""
        return _aligned(self._part(self.values.nbytes, pieces))

    def peak(self, pieces: int) -> int:
        """Bytes that are live while the layer runs in so many parts, and while these are put together."""
        if pieces == 1:
            return self.live + self.slice_bytes(1)
        running = self.live + self.slice_bytes(pieces) + _aligned(self._part(self.source, pieces))
        return max(running, self.live - self.freed + self.output)

    def _part(self, size: int, pieces: int) -> int:
        return size // self.pieces * -(-self.pieces // pieces) if pieces > 1 else size


def layers_of(model: schema.ModelT) -> list[Layer]:
    """Return the layers of the first graph, in order."""
    graph = model.subgraphs[0]
    live, freed = _live(model, graph)
    readers, takers = _other_readers(model), Counter(_weights_read(model, graph))
    layers = []
    for number, operator in enumerate(graph.operators):
        kind, inputs = operator_name(model, operator), inputs_of(operator)
        if kind not in _CUT or not _is_constant(model, graph, inputs[1]):
            continue
        tensor = graph.tensors[inputs[1]]
        dtype = _TYPES.get(tensor.type)
        if dtype is None or len(_shape(tensor)) < 2:
            continue
        values = np.asarray(model.buffers[tensor.buffer].data).view(dtype).reshape(_shape(tensor))
        reason = _refusal(model, tensor) or readers.get(tensor.buffer, "")
        source = graph.tensors[inputs[0]]
        pieces = _most_pieces(kind, source, values) if takers[tensor.buffer] == 1 else 1
        output = sum(_bytes(graph.tensors[index]) for index in indices_of(operator.outputs))
        name = (tensor.name or b"").decode("utf-8", "replace")
        layers.append(
            Layer(
                operator,
                kind,
                name,
                inputs[1],
                tensor.buffer,
                values,
                pieces,
                _bytes(source) if kind == _BY_CHANNEL else 0,
                live[number],
                freed[number],
                output,
                reason,
            )
        )
    return layers


def largest_live(model: schema.ModelT) -> int:
    """Return the bytes of tensors that are live at once, at most, in the first graph as it is."""
    return max(_live(model, model.subgraphs[0])[0], default=0)


def _aligned(size: int) -> int:
    """Return a size as it counts in the arena."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _live(model: schema.ModelT, graph: schema.SubGraphT) -> tuple[list[int], list[int]]:
    """Return for each operator the bytes that are live, and those of them for the last time."""
    first = dict.fromkeys(indices_of(graph.inputs), 0)
    last: dict[int, int] = {}
    for number, operator in enumerate(graph.operators):
        for index in indices_of(operator.outputs):
            first.setdefault(index, number)
            last[index] = number
        last.update({index: number for index in inputs_of(operator) if index in first})
    last.update(dict.fromkeys(indices_of(graph.outputs), len(graph.operators)))
    sizes = {index: _bytes(graph.tensors[index]) for index in first}
    steps = range(len(graph.operators))
    live = [
        sum(size for index, size in sizes.items() if first[index] <= step <= last.get(index, 0)) for step in steps
    ]
    outputs = [{*indices_of(operator.outputs)} for operator in graph.operators]
    freed = [
        sum(size for index, size in sizes.items() if last.get(index) == step and index not in outputs[step])
        for step in steps
    ]
    return live, freed


def _is_constant(model: schema.ModelT, graph: schema.SubGraphT, index: int) -> bool:
    data = model.buffers[graph.tensors[index].buffer].data if index >= 0 else None
    return data is not None and len(data) > 0


def _shape(tensor: schema.TensorT) -> tuple[int, ...]:
    return () if tensor.shape is None else tuple(map(int, tensor.shape))


def _bytes(tensor: schema.TensorT) -> int:
    widths = {schema.TensorType.FLOAT32: 4, schema.TensorType.INT32: 4, schema.TensorType.INT16: 2}
    widths |= {schema.TensorType.INT64: 8}
    return _aligned(math.prod(_shape(tensor)) * widths.get(tensor.type, 1))


def _most_pieces(kind: str, source: schema.TensorT, values: np.ndarray) -> int:
    """Return into how many parts a layer can be cut; where each takes a part of the input, by its channels."""
    channels = _shape(source)[-1:]
    if kind == _BY_CHANNEL:
        return channels[0] if channels and values.ndim == 4 and values.shape[-1] % channels[0] == 0 else 1
    grouped = values.ndim == 4 and channels != values.shape[-1:]  # filters see a part of the channels
    return 1 if grouped or _CUT[kind] is None else len(values)


def _weights_read(model: schema.ModelT, graph: schema.SubGraphT) -> Iterator[int]:
    """Yield the buffers of weights where layers read them."""
    for operator in graph.operators:
        if operator_name(model, operator) in _CUT:
            yield graph.tensors[inputs_of(operator)[1]].buffer


def _other_readers(model: schema.ModelT) -> dict[int, str]:
    """Say of buffers what reads them that cannot take them unpacked."""
    main, *others = model.subgraphs
    readers = {tensor.buffer: "another graph reads it, too" for graph in others for tensor in graph.tensors}
    for operator in main.operators:
        kind = operator_name(model, operator)
        for place, index in enumerate(inputs_of(operator)):
            if index >= 0 and (kind not in _CUT or place != 1):
                readers[main.tensors[index].buffer] = f"{kind} reads it, too"
    return readers


def _refusal(model: schema.ModelT, tensor: schema.TensorT) -> str:
    if tensor.sparsity is not None:
        return "it is sparse already"
    quantization = tensor.quantization
    if quantization is not None and quantization.zeroPoint is not None and np.any(quantization.zeroPoint):
        return "its zeros are not stored as 0"
    scales = 0 if quantization is None or quantization.scale is None else len(quantization.scale)
    if scales > 1 and quantization.quantizedDimension not in (0, len(_shape(tensor)) - 1):
        return "its scales lie along a dimension that DECODE does not know"
    if any(entry.buffer == tensor.buffer for entry in model.metadata or ()):
        return "metadata name its values"
    return ""


# Put DECODE in front of layers, and cut large layers into parts whose weights are unpacked one after the other.

_MAX_CONCATENATED = 10  # tensors that the interpreter's CONCATENATION takes, at most
_INTEGERS_SINCE = 2  # the version of CONCATENATION and SLICE that takes int8


def encode_smallest(values: np.ndarray) -> DecodeConstants:
    """Return a weight in the form that takes fewer bytes."""
    table, pruned = encode_table(values), encode_pruned(values)
    return pruned if table is None or pruned.bytes <= table.bytes else table


class Unpacker:
    """Changes the layers of a model's first graph.

    Args:
        model: The model, which is changed.
    """

    def __init__(self, model: schema.ModelT) -> None:
        self._model, self._graph = model, model.subgraphs[0]
        self._encoded: dict[int, list[int]] = {}  # by the weight's buffer: the two constants

    def unpack(self, layer: Layer, pieces: int) -> list[DecodeConstants]:
        """Let a layer unpack its weight, whole or in parts; return these as they are stored."""
        if pieces > 1:
            return self._unpack_parts(layer, pieces)
        encoded = encode_smallest(layer.values)
        if layer.buffer not in self._encoded:
            self._encoded[layer.buffer] = self._constants(encoded)
        weight = self._without_values(layer.weight)
        place = self._place(layer.operator)
        self._graph.operators.insert(place, self._decode(self._encoded[layer.buffer], weight))
        inputs = inputs_of(layer.operator)
        layer.operator.inputs = np.array([inputs[0], weight, *inputs[2:]], np.int32)
        return [encoded]

    def _unpack_parts(self, layer: Layer, pieces: int) -> list[DecodeConstants]:
        each = layer.values.shape[layer.axis] // layer.pieces
        bounds = (each * np.linspace(0, layer.pieces, pieces + 1).round().astype(int)).tolist()
        stored: list[DecodeConstants] = []
        added: list[schema.OperatorT] = []
        joints: list[int] = []
        waiting: list[int] = []
        for start, end in zip(bounds, bounds[1:], strict=False):
            encoded = encode_smallest(layer.values.take(range(start, end), layer.axis))
            weight = self._without_values(layer.weight, rows=slice(start, end), axis=layer.axis)
            part = self._part(layer.operator, weight, start, end)
            if layer.source:
                channel_slice = self._channels(part.inputs[0], start // each, end // each)
                part.inputs[0] = channel_slice.outputs[0]
                added.append(channel_slice)
            added += [self._decode(self._constants(encoded), weight), part]
            stored.append(encoded)
            waiting.append(int(added[-1].outputs[0]))
            if len(waiting) == _MAX_CONCATENATED and pieces > _MAX_CONCATENATED:
                added.append(self._joined(waiting, self._output(layer.operator, sum(map(self._width, waiting)))))
                joints, waiting = [*joints, int(added[-1].outputs[0])], []
        added.append(self._joined([*joints, *waiting], int(layer.operator.outputs[0])))
        place = self._place(layer.operator)
        self._graph.operators[place : place + 1] = added
        return stored

    def _place(self, operator: schema.OperatorT) -> int:
        return next(index for index, other in enumerate(self._graph.operators) if other is operator)

    def _constants(self, encoded: DecodeConstants) -> list[int]:
        return [
            add_constant(self._model, self._graph, name=b"", values=raw) for raw in (encoded.bits, encoded.ancillary)
        ]

    def _without_values(self, weight: int, rows: slice | None = None, axis: int = 0) -> int:
        tensor = self._graph.tensors[weight]
        changes = {} if rows is None else self._of_rows(tensor, rows, axis)
        return add_tensor(self._graph, tensor, buffer=0, **changes)

    def _of_rows(self, tensor: schema.TensorT, rows: slice, axis: int = 0) -> dict[str, object]:
        """Return shape and scales of some indices along a dimension, along which the scales lie."""
        shape = np.array(tensor.shape, np.int32)
        shape[axis] = rows.stop - rows.start
        quantization = copy.copy(tensor.quantization)
        if quantization is not None and np.size(quantization.scale) > 1:
            for name in ("scale", "zeroPoint", "min", "max"):
                values = getattr(quantization, name)
                setattr(quantization, name, values[rows] if np.size(values) > 1 else values)
        return {"shape": shape, "quantization": quantization}

    def _part(self, operator: schema.OperatorT, weight: int, start: int, end: int) -> schema.OperatorT:
        source, _, *bias = inputs_of(operator)
        part = copy.copy(operator)
        part.inputs = np.array([source, weight, *(self._bias(index, start, end) for index in bias)], np.int32)
        part.outputs = np.array([self._output(operator, end - start)], np.int32)
        return part

    def _channels(self, source: int, start: int, end: int) -> schema.OperatorT:
        """Take some channels of an input."""
        tensor = self._graph.tensors[source]
        shape = np.array([*tensor.shape[:-1], end - start], np.int32)
        bounds = [np.array([0] * (len(shape) - 1) + [start], np.int32), shape]
        constants = [add_constant(self._model, self._graph, name=b"", values=values) for values in bounds]
        index = operator_code(self._model, schema.BuiltinOperator.SLICE)
        code = self._model.operatorCodes[index]
        code.version = max(code.version, _INTEGERS_SINCE)
        return schema.OperatorT(
            opcodeIndex=index,
            inputs=np.array([source, *constants], np.int32),
            outputs=np.array([add_tensor(self._graph, tensor, shape=shape, shapeSignature=None, name=b"")], np.int32),
            builtinOptionsType=schema.BuiltinOptions.SliceOptions,
            builtinOptions=schema.SliceOptionsT(),
        )

    def _bias(self, bias: int, start: int, end: int) -> int:
        if bias < 0:
            return bias
        tensor = self._graph.tensors[bias]
        raw = np.asarray(self._model.buffers[tensor.buffer].data)
        values = raw.reshape(int(tensor.shape[0]), -1)[start:end]
        changes = self._of_rows(tensor, slice(start, end))
        return add_tensor(self._graph, tensor, name=b"", buffer=add_values(self._model, values), **changes)

    def _output(self, operator: schema.OperatorT, width: int) -> int:
        tensor = self._graph.tensors[int(operator.outputs[0])]
        shape = np.array([*tensor.shape[:-1], width], np.int32)
        return add_tensor(self._graph, tensor, shape=shape, shapeSignature=None, name=b"")

    def _width(self, tensor: int) -> int:
        return int(self._graph.tensors[tensor].shape[-1])

    def _joined(self, parts: Sequence[int], output: int) -> schema.OperatorT:
        index = operator_code(self._model, schema.BuiltinOperator.CONCATENATION)
        code = self._model.operatorCodes[index]
        code.version = max(code.version, _INTEGERS_SINCE)
        axis = len(self._graph.tensors[output].shape) - 1
        return schema.OperatorT(
            opcodeIndex=index,
            inputs=np.array(parts, np.int32),
            outputs=np.array([output], np.int32),
            builtinOptionsType=schema.BuiltinOptions.ConcatenationOptions,
            builtinOptions=schema.ConcatenationOptionsT(axis=axis),
        )

    def _decode(self, constants: Sequence[int], weight: int) -> schema.OperatorT:
        inputs, outputs = np.array(constants, np.int32), np.array([weight], np.int32)
        return schema.OperatorT(opcodeIndex=self._decode_code(), inputs=inputs, outputs=outputs)

    def _decode_code(self) -> int:
        codes, name = self._model.operatorCodes, OPERATOR.encode()
        for index, code in enumerate(codes):
            if code.customCode == name:
                return index
        custom = schema.BuiltinOperator.CUSTOM
        codes.append(
            schema.OperatorCodeT(deprecatedBuiltinCode=custom, builtinCode=custom, customCode=name, version=1)
        )
        return len(codes) - 1


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
