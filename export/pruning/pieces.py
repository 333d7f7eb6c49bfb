"""A file cut into pieces that run one after the other, between which all samples stay as live tensors."""

from __future__ import annotations

import copy
import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.export.device.runner import find_interpreter, plain_interpreter
from tfprune.export.file import schema
from tfprune.export.file.document import (
    add_tensor,
    add_values,
    graphs_of_signatures,
    indices_of,
    inputs_of,
    load_objects,
    operator_name,
    save_objects,
)
from tfprune.export.rewriting.weights import packed
from tfprune.solving.surgery import SAMPLES_FELT, output_error, variation

# A constant of a file as real numbers, and back: on its own scales, which grow where values no longer fit.

_RANGES = {"INT8": (-127, 127), "UINT8": (0, 255), "INT4": (-7, 7)}
_FLOATS = {"FLOAT32": "<f4", "FLOAT16": "<f2"}
BIASES = {"FLOAT32": "<f4", "INT32": "<i4", "INT64": "<i8"}


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """A weight: its integers or floats, and the grid that they lie on.

    Attributes:
        kind: The name of its type, such as `"INT8"`.
        shape: Its shape.
        axis: The dimension with a scale for each index; None if there is one scale for all.
        scales: The scales, of shape (1,) or (length of `axis`,); empty for floats.
        zero_point: The integer that means zero.
    """

    kind: str
    shape: tuple[int, ...]
    axis: int | None
    scales: np.ndarray
    zero_point: int

    @classmethod
    def of(cls, tensor: schema.TensorT) -> StoredWeight | str:
        """Describe a tensor; a string says why it is left alone."""
        kind, shape = type_name(tensor.type), tuple(int(length) for length in tensor.shape)
        if tensor.sparsity is not None:
            return "its weights are stored sparse already"
        if kind in _FLOATS:
            return cls(kind, shape, None, np.zeros(0), 0)
        quantization = tensor.quantization
        if kind not in _RANGES or quantization is None or quantization.scale is None:
            return f"weights of type {kind.lower()} are not pruned"
        if quantization.details is not None:
            return "its weights have scales for blocks"
        scales, zeros = np.asarray(quantization.scale, np.float64), np.unique(quantization.zeroPoint)
        if len(zeros) > 1:
            return "its weights have several zero points"
        if not (scales > 0).all():
            return "its weights have scales that are not positive"
        axis = int(quantization.quantizedDimension) if len(scales) > 1 else None
        return cls(kind, shape, axis, scales, int(zeros[0]) if len(zeros) else 0)

    @property
    def is_integer(self) -> bool:
        """Whether it lies on a grid."""
        return self.kind in _RANGES

    def read(self, buffer: schema.BufferT) -> np.ndarray:
        """Return its real numbers, in its shape."""
        raw = np.asarray(buffer.data, np.uint8)
        if self.kind in _FLOATS:
            return raw.view(_FLOATS[self.kind]).astype(np.float32).reshape(self.shape)
        if self.kind == "INT4":
            halves = np.stack([raw & 15, raw >> 4], axis=-1).ravel()[: int(np.prod(self.shape))].astype(np.int8)
            integers = np.where(halves > 7, halves - 16, halves)
        else:
            integers = raw.view(self.kind.lower())
        steps = integers.reshape(self.shape).astype(np.float32) - self.zero_point
        return steps * self._along(self.scales).astype(np.float32)

    def grown(self, values: np.ndarray) -> StoredWeight:
        """Return the same weight with scales so large that some values fit."""
        if not self.is_integer:
            return self
        low, high = _RANGES[self.kind]
        steps = np.maximum(values / (high - self.zero_point), -values / max(self.zero_point - low, 1))
        others = tuple(axis for axis in range(values.ndim) if axis != self.axis)
        scales = np.maximum(self.scales, steps.max(axis=others).reshape(-1)).astype(np.float32)
        changed = copy.copy(self)
        object.__setattr__(changed, "scales", scales.astype(np.float64))
        return changed

    def write(self, values: np.ndarray) -> np.ndarray:
        """Return the bytes of real numbers."""
        if self.kind in _FLOATS:
            return np.ascontiguousarray(values.astype(_FLOATS[self.kind])).reshape(-1).view(np.uint8)
        integers = np.rint(values / self._along(self.scales)) + self.zero_point
        integers = np.clip(integers, *_RANGES[self.kind])
        if self.kind == "INT4":
            return packed(integers.astype(np.int8))
        return integers.astype(self.kind.lower()).reshape(-1).view(np.uint8)

    def steps(self) -> np.ndarray:
        """Return the distance of two neighboring values, in a shape that broadcasts to the weight."""
        return np.broadcast_to(self._along(self.scales), self.shape)

    def _along(self, numbers: np.ndarray) -> np.ndarray:
        lengths = [1] * len(self.shape)
        if self.axis is not None:
            lengths[self.axis] = -1
        return numbers.reshape(lengths)


def read_bias(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray:
    """Return a bias as real numbers."""
    raw = np.asarray(model.buffers[tensor.buffer].data, np.uint8).view(BIASES[type_name(tensor.type)])
    return raw.astype(np.float64) * bias_scale(tensor)


def bias_scale(tensor: schema.TensorT) -> np.ndarray:
    """Return the scale of a bias; 1 for floats."""
    if type_name(tensor.type) == "FLOAT32":
        return np.ones(1)
    return np.asarray(tensor.quantization.scale, np.float64)


def own_bias(
    model: schema.ModelT, graph: schema.SubGraphT, *, tensor: int, values: np.ndarray, growth: np.ndarray
) -> int:
    """Return the index of a new bias with other values, and with scales that are larger by some factors."""
    old = graph.tensors[tensor]
    kind = BIASES[type_name(old.type)]
    if kind == "<f4":
        return add_tensor(graph, old, buffer=add_values(model, values.astype(kind)))
    quantization = copy.copy(old.quantization)
    quantization.scale = (bias_scale(old) * growth).astype(np.float32)
    limits = np.iinfo(kind)
    steps = np.rint(values / quantization.scale.astype(np.float64))
    buffer = add_values(model, np.clip(steps, limits.min, limits.max).astype(kind))
    return add_tensor(graph, old, buffer=buffer, quantization=quantization)


def type_name(kind: int) -> str:
    """Return the name of a type of the format, such as `"FLOAT32"`."""
    names = {number: name for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
    return names.get(kind, f"type {kind}")


def real(tensor: schema.TensorT, x: np.ndarray) -> np.ndarray:
    """Return what a tensor of the file means, as float32."""
    quantization = tensor.quantization
    if x.dtype.kind == "f" or quantization is None or quantization.scale is None or not len(quantization.scale):
        return x.astype(np.float32, copy=False)
    return (x.astype(np.float32) - np.float32(quantization.zeroPoint[0])) * np.float32(quantization.scale[0])


# Cut operators out of a file as another file, whose inputs and outputs are the tensors that are alive there.

_CALLS_GRAPHS = ("IF", "WHILE", "CALL", "STABLEHLO_COMPOSITE", "STABLEHLO_WHILE")
_RANDOM = ("RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL")
_STATE = ("CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE")
_TABLES = ("HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT", "HASHTABLE_SIZE")
_UNPACKS = ("DEQUANTIZE", "DENSIFY")
_MAX_THREADS = 2


@dataclass(frozen=True)
class _FilePiece:
    """Some operators as a file.

    Attributes:
        content: The plain file.
        inputs: The tensors of the whole graph that it takes, in the order of its inputs.
        outputs: Those that it makes and that are needed after it, in the order of its outputs.
    """

    content: bytes
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Variable:
    """A variable of a graph, which keeps a tensor from one run to the next.

    Attributes:
        name: Its name, which all graphs of the file share.
        read: The tensors that the graph reads from it.
        assigned: Those that the graph assigns to it.
        first: The operators that assign its first value, each with its graph.
        is_shared: Whether another graph uses it that is not run for first values.
    """

    name: str
    read: tuple[int, ...]
    assigned: tuple[int, ...]
    first: tuple[tuple[schema.SubGraphT, schema.OperatorT], ...]
    is_shared: bool


class Pieces:
    """A graph of a file, which can be cut anywhere.

    Operators that compute with constants alone, such as the DEQUANTIZE of 16-bit weights, belong to each piece that
    needs them. The variables of a graph are inputs where it reads them, and outputs where it assigns them.

    Args:
        model: What `load_objects` returns. Changes of its values are seen by pieces that are cut afterwards.
        number: Which of its graphs.

    Attributes:
        steps: The operators that compute with inputs of the graph, in order.
        variables: The tensors read from variables.
        states: For each tensor read from a variable, the one that the run before assigned to it, where that is known.

    Raises:
        ValueError: If a loop has variables, or the graph has hash tables.
    """

    def __init__(self, model: schema.ModelT, number: int = 0) -> None:
        self.model, self.number, self.graph = model, number, model.subgraphs[number]
        self.inputs, self.outputs = indices_of(self.graph.inputs), indices_of(self.graph.outputs)
        self._folded: dict[int, schema.OperatorT] = {}
        self.steps: list[schema.OperatorT] = []
        self._check_state()
        self.variables, self.states = self._variables()
        values = {*self.inputs, *self.variables}
        for operator in self.graph.operators or ():
            name, inputs = operator_name(model, operator), indices_of(operator.inputs)
            outputs = indices_of(operator.outputs)
            if name in _STATE:
                self.outputs += [tensor for tensor in inputs[1:] if tensor in values and tensor not in self.outputs]
            elif inputs and not values.intersection(inputs) and name not in (*_RANDOM, *_CALLS_GRAPHS):
                self._folded |= dict.fromkeys(outputs, operator)
            else:
                self.steps.append(operator)
                values.update(outputs)
        self._values = values
        for assigned in self.states.values():
            self._make_early(assigned)
        self._siblings = {number: self}

    def sibling(self, number: int) -> Pieces:
        """Return another graph of the same model."""
        if number not in self._siblings:
            self._siblings[number] = Pieces(self.model, number)
        return self._siblings[number]

    @property
    def entries(self) -> list[int]:
        """The graphs that a user can run: the first one, and those of signatures."""
        return sorted({0, *graphs_of_signatures(self.model).values()})

    def _check_state(self) -> None:
        refused = _TABLES if self.number in self.entries else (*_STATE, *_TABLES)
        names = [operator_name(self.model, operator) for operator in self.graph.operators or ()]
        stateful = ", ".join(dict.fromkeys(name for name in names if name in refused))
        if stateful:
            stateful += "" if self.number in self.entries else " in a loop"
            raise ValueError(
                "Expected a file without hash tables, and with variables outside of loops only. Received: one with "
                f"{stateful}, whose values pieces of the file do not have. Export the part of the network before or "
                "after it as a file."
            )

    def _variables(self) -> tuple[list[int], dict[int, int]]:
        """Return the tensors read from variables, and those that the run before assigned to these."""
        variables: dict[int, bytes] = {}
        states: dict[int, int] = {}
        for kind, name, operator in self._uses_of_variables(self.graph):
            if kind == "READ_VARIABLE":
                variables[int(operator.outputs[0])] = name
            elif kind == "ASSIGN_VARIABLE":  # those read later in the same run are not from the run before
                assigned = int(operator.inputs[1])
                states |= {tensor: assigned for tensor, other in variables.items() if other == name}
        return [*variables], states

    def _uses_of_variables(self, graph: schema.SubGraphT) -> Iterator[tuple[str, bytes, schema.OperatorT]]:
        """Yield each operator of a graph that reads or assigns a variable, with its kind and the variable's name."""
        names: dict[int, bytes] = {}
        for operator in graph.operators or ():
            kind = operator_name(self.model, operator)
            if kind == "VAR_HANDLE":
                names[int(operator.outputs[0])] = operator.builtinOptions.sharedName
            elif kind in ("READ_VARIABLE", "ASSIGN_VARIABLE"):
                yield kind, names[int(operator.inputs[0])], operator

    def stores(self) -> list[Variable]:
        """Return the variables of the graph, in the order in which it uses them."""
        graphs, uses = self.model.subgraphs, [[*self._uses_of_variables(graph)] for graph in self.model.subgraphs]
        first = {
            operator.builtinOptions.initSubgraphIndex
            for graph in graphs
            for operator in graph.operators or ()
            if operator_name(self.model, operator) == "CALL_ONCE"
        }

        def store(name: bytes) -> Variable:
            by_graph = [[(kind, each) for kind, other, each in own if other == name] for own in uses]
            own = by_graph[self.number]
            elsewhere = {number for number, found in enumerate(by_graph) if found}
            return Variable(
                name=(name or b"").decode(errors="replace"),
                read=tuple(int(each.outputs[0]) for kind, each in own if kind == "READ_VARIABLE"),
                assigned=tuple(int(each.inputs[1]) for kind, each in own if kind == "ASSIGN_VARIABLE"),
                first=tuple((graphs[number], each) for number in sorted(first) for _, each in by_graph[number]),
                is_shared=bool(elsewhere - first - {self.number}),
            )

        return [store(name) for name in dict.fromkeys(name for _, name, _ in uses[self.number])]

    def _make_early(self, assigned: int) -> None:
        """Let what is assigned to a variable be computed as soon as it can be: then the next run can read it."""
        step = next((step for step in self.steps if assigned in indices_of(step.outputs)), None)
        if step is not None:
            self.steps.remove(step)
            inputs = {*indices_of(step.inputs)}
            makers = [place for place, each in enumerate(self.steps) if inputs.intersection(indices_of(each.outputs))]
            self.steps.insert(max(makers, default=-1) + 1, step)

    @functools.cached_property
    def bodies(self) -> dict[int, Pieces]:
        """The bodies of loops among the steps, but those that several loops share, and of loops inside of others."""
        loops = [
            operator.builtinOptions.bodySubgraphIndex
            for graph in self.model.subgraphs
            for operator in graph.operators or ()
            if operator_name(self.model, operator) == "WHILE"
        ]
        numbers = {
            step: operator.builtinOptions.bodySubgraphIndex
            for step, operator in enumerate(self.steps)
            if operator_name(self.model, operator) == "WHILE"
        }
        return {
            step: Pieces(self.model, number)
            for step, number in numbers.items()
            if self.number in self.entries and loops.count(number) == 1
        }

    def constant_behind(self, tensor: int) -> int:
        """Return the constant that a tensor is unpacked from; the tensor itself if it is not unpacked."""
        while tensor in self._folded and operator_name(self.model, self._folded[tensor]) in _UNPACKS:
            tensor = int(self._folded[tensor].inputs[0])
        return tensor

    def has_values(self, tensor: int) -> bool:
        """Return True if a tensor is a constant that lies in the file."""
        data = self.model.buffers[self.graph.tensors[tensor].buffer].data
        return data is not None and len(data) > 0 and tensor not in self._values and tensor not in self._folded

    def alive(self, step: int) -> set[int]:
        """Return the tensors that steps from this one on, or the user, need."""
        inputs = {index for operator in self.steps[step:] for index in indices_of(operator.inputs)}
        return (inputs | {*self.outputs}) & self._values

    def cut(self, start: int, stop: int) -> _FilePiece:
        """Return the steps from `start` to the one before `stop` as a file."""
        steps = self.steps[start:stop]
        needed_inputs = {index for operator in steps for index in indices_of(operator.inputs)}
        written = {index for operator in steps for index in indices_of(operator.outputs)}
        inputs = sorted((needed_inputs & self._values) - written)
        outputs = sorted(written & self.alive(stop))
        operators = [*self._needed(needed_inputs), *steps]
        return _FilePiece(self._file(operators, inputs, outputs), tuple(inputs), tuple(outputs))

    def constants(self, tensors: Iterable[int]) -> dict[int, np.ndarray]:
        """Return the values of tensors that no input changes."""
        plain = [index for index in tensors if self.has_values(index)]
        folded = sorted({*tensors} & self._folded.keys())
        piece = _FilePiece(self._file(self._needed(folded), [], folded), (), tuple(folded))
        values = {index: _values_of(self.model, self.graph.tensors[index]) for index in plain}
        return values | PieceRunner(piece).run({})

    def _needed(self, inputs: Iterable[int]) -> list[schema.OperatorT]:
        """Return the folded operators that make some tensors, those before them first."""
        ordered: dict[int, schema.OperatorT] = {}
        ahead = [*inputs]
        while ahead:
            operator = self._folded.get(ahead.pop())
            if operator is not None:
                ordered.pop(id(operator), None)
                ordered[id(operator)] = operator
                ahead += indices_of(operator.inputs)
        return [*ordered.values()][::-1]

    def _file(self, operators: list[schema.OperatorT], inputs: list[int], outputs: list[int]) -> bytes:
        others = self.model.subgraphs[1:]
        if not any(operator_name(self.model, operator) in _CALLS_GRAPHS for operator in operators):
            others = []
        lists = [
            each for operator in operators for each in (operator.inputs, operator.outputs, operator.intermediates)
        ]
        indices = sorted({*inputs, *outputs, *(index for each in lists for index in indices_of(each))})
        moved = np.full(len(self.graph.tensors) + 1, -1, np.int32)  # the last entry stands for -1, no tensor
        moved[indices] = np.arange(len(indices))
        graph = copy.copy(self.graph)
        graph.tensors = [self.graph.tensors[index] for index in indices]
        graph.operators = [_renumbered(operator, moved) for operator in operators]
        graph.inputs, graph.outputs = moved[inputs], moved[outputs]
        holders = {tensor.buffer for each in (graph, *others) for tensor in each.tensors}
        piece = copy.copy(self.model)
        piece.buffers = [
            buffer if index in holders else schema.BufferT() for index, buffer in enumerate(self.model.buffers)
        ]
        piece.subgraphs, piece.signatureDefs = [graph, *others], None
        piece.metadata = piece.metadataBuffer = None
        piece.archive = b""
        return save_objects(piece)


# The graphs whose channels are followed together.


@dataclass(frozen=True, eq=False)
class FilePart:
    """A graph of a file: the first one, or one that a loop of it runs. Its numbers follow those of the parts before.

    Attributes:
        pieces: The graph.
        first_tensor: The number of its first tensor.
        first_step: The number of its first step.
        loop: The step of the loop; None for the first graph.
        turns: How often it runs, as far as that is known.
    """

    pieces: Pieces
    first_tensor: int = 0
    first_step: int = 0
    loop: int | None = None
    turns: int = 1

    def after(self, pieces: Pieces, loop: int, turns: int = 1) -> FilePart:
        """Return the next part."""
        tensors, steps = len(self.pieces.graph.tensors), len(self.pieces.steps)
        return FilePart(pieces, self.first_tensor + tensors, self.first_step + steps, loop, turns)


def file_parts(pieces: Pieces) -> tuple[FilePart, ...]:
    """Return the first graph of a file, and the body and the condition of each loop that is followed."""
    parts = [FilePart(pieces)]
    options = {step: pieces.steps[step].builtinOptions for step in pieces.bodies}
    conditions = [each.condSubgraphIndex for each in options.values()]
    for step, body in pieces.bodies.items():
        number = options[step].condSubgraphIndex
        if conditions.count(number) == 1:
            condition = Pieces(pieces.model, number)
            parts.append(parts[-1].after(body, step, _turns(body, condition)))
            parts.append(parts[-1].after(condition, step))
    return tuple(parts)


def _turns(body: Pieces, condition: Pieces) -> int:
    """Return how often a loop runs that counts from zero to a constant; 1 if it does not."""
    if {operator_name(condition.model, step) for step in condition.steps} - {"LESS", "LOGICAL_AND"}:
        return 1
    limits = []
    for step in condition.steps:
        counter, limit = inputs_of(step)
        place = condition.inputs.index(counter) if counter in condition.inputs else -1
        adds = [inputs_of(each) for each in body.steps if body.outputs[place] in indices_of(each.outputs)]
        if place >= 0 and condition.has_values(limit) and len(adds) == 1 and body.inputs[place] in adds[0]:
            limits += integers_of(condition, limit)
    return max(min(limits, default=1), 1)


def integers_of(pieces: Pieces, tensor: int) -> list[int]:
    """Return the entries of a constant of integers, such as axes."""
    constant = pieces.graph.tensors[tensor]
    raw = np.asarray(pieces.model.buffers[constant.buffer].data, np.uint8)
    return raw.view(type_name(constant.type).lower()).tolist()


def _values_of(model: schema.ModelT, tensor: schema.TensorT) -> np.ndarray:
    raw = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
    shape = [] if tensor.shape is None else tensor.shape
    return raw.view(type_name(tensor.type).lower()).reshape(shape)


def _renumbered(operator: schema.OperatorT, moved: np.ndarray) -> schema.OperatorT:
    changed = copy.copy(operator)
    changed.inputs = moved[inputs_of(operator)]
    changed.outputs = moved[indices_of(operator.outputs)]
    if operator.intermediates is not None:
        changed.intermediates = moved[np.asarray(operator.intermediates)]
    return changed


class PieceRunner:
    """Runs a piece on arrays of the types that its tensors have in the file.

    Args:
        piece: The piece.

    Raises:
        ValueError: If the interpreter refuses it.
    """

    def __init__(self, piece: _FilePiece) -> None:
        interpreter, self.runtime = find_interpreter()
        self._piece = piece
        self._interpreter: Any = interpreter(
            model_content=piece.content, num_threads=min(_MAX_THREADS, os.cpu_count() or 1)
        )
        details = self._interpreter.get_input_details()
        self._inputs = [detail["index"] for detail in details]
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]
        self._shapes: list[tuple[int, ...]] = []

    def run(self, values: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Return what the piece makes of live tensors, by the indices in the whole graph."""
        if not self._piece.outputs:
            return {}
        arrays = [values[index] for index in self._piece.inputs]
        shapes = [array.shape for array in arrays]
        if shapes != self._shapes:
            for index, shape in zip(self._inputs, shapes, strict=True):
                self._interpreter.resize_tensor_input(index, shape)
            self._interpreter.allocate_tensors()
            self._shapes = shapes
        self._interpreter.reset_all_variables()
        for index, array in zip(self._inputs, arrays, strict=True):
            self._interpreter.set_tensor(index, array)
        self._interpreter.invoke()
        results = (self._interpreter.get_tensor(index) for index in self._outputs)
        return dict(zip(self._piece.outputs, results, strict=True))


# The tensors that are alive between two pieces of a file, for each run: in memory, and beyond a limit in files.

_BYTES_IN_MEMORY = 2**28


class LiveTensors:
    """Runs of a file, all of them as far as the same step.

    Args:
        pieces: The file. Its values may change behind the step that the runs have reached.
        runs: The inputs of each run, by tensor.
        folder: Where arrays lie that do not fit into the memory set aside for them.
    """

    def __init__(self, pieces: Pieces, runs: list[Mapping[int, np.ndarray]], *, folder: Path) -> None:
        self._pieces, self._folder = pieces, folder
        self._numbers = itertools.count()
        self._held = 0
        self._runs: list[dict[int, np.ndarray | Path]] = [{} for _ in runs]
        self.step = 0
        for run, values in zip(self._runs, runs, strict=True):
            run.update({index: self._stored(array) for index, array in values.items()})

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, run: int, tensor: int) -> np.ndarray:
        """Return a tensor of one run."""
        return _loaded(self._runs[run][tensor])

    def all(self, run: int) -> dict[int, np.ndarray]:
        """Return all live tensors of one run."""
        return {index: _loaded(value) for index, value in self._runs[run].items()}

    def advance(self, step: int) -> None:
        """Run the operators up to a step, for all runs; what nothing needs any more is forgotten."""
        if step == self.step:
            return
        piece = self._pieces.cut(self.step, step)
        runner, alive = PieceRunner(piece), self._pieces.alive(step)
        inputs = {*piece.inputs}
        states = {tensor: assigned for tensor, assigned in self._pieces.states.items() if tensor in inputs}
        for before, run in zip([{}, *self._runs], self._runs, strict=False):
            for tensor in [tensor for tensor, assigned in states.items() if assigned in before]:
                self._forget(run[tensor])
                run[tensor] = self._stored(_loaded(before[states[tensor]]))
            results = runner.run({index: _loaded(run[index]) for index in piece.inputs})
            for index in [index for index in run if index not in alive]:
                self._forget(run.pop(index))
            run.update({index: self._stored(array) for index, array in results.items()})
        self.step = step

    def _stored(self, array: np.ndarray) -> np.ndarray | Path:
        if self._held + array.nbytes <= _BYTES_IN_MEMORY:
            self._held += array.nbytes
            return array
        path = self._folder / f"live-{id(self)}-{next(self._numbers)}.npy"
        np.save(path, array)
        return path

    def _forget(self, value: np.ndarray | Path) -> None:
        if isinstance(value, Path):
            value.unlink()
        else:
            self._held -= value.nbytes


def _loaded(value: np.ndarray | Path) -> np.ndarray:
    return np.load(value) if isinstance(value, Path) else value


# The variables of a file that keeps values from one run to the next: what it reads from them in each run.


def has_variables(content: bytes) -> bool:
    """Return True if the first graph of a plain file reads variables."""
    return bool(Pieces(load_objects(content)).variables)


def with_variables(content: bytes, runs: list[Mapping[int, np.ndarray]]) -> list[Mapping[int, np.ndarray]]:
    """Return the inputs of each run together with what the file reads from its variables, where it has some.

    The runs follow each other, from the first values of the variables on.

    Args:
        content: The plain file.
        runs: The inputs of each run of its first graph, by tensor.

    Raises:
        ValueError: If a run of the file takes any number of samples, which would all see the same variables.
    """
    pieces = Pieces(load_objects(content))
    if not pieces.variables:
        return runs
    for tensor in (pieces.graph.tensors[index] for index in indices_of(pieces.graph.inputs)):
        if tensor.shapeSignature is not None and len(tensor.shapeSignature) and tensor.shapeSignature[0] < 0:
            raise ValueError(
                "Expected a file that takes one sample in each run, because it keeps values from run to run. "
                f"Received: input {(tensor.name or b'').decode(errors='replace')!r} for any number of samples. "
                "Export the model with a batch of 1"
            )
    interpreter = plain_interpreter(content, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    followed: list[Mapping[int, np.ndarray]] = []
    for run in runs:
        for index, array in run.items():
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        followed.append({**run, **{index: interpreter.get_tensor(index) for index in pieces.variables}})
    return followed


# The outputs of a file for a few samples, before and after a change of one layer.

Runs = list[Mapping[int, np.ndarray]]
_RUNS_FOR_EACH_FELT = 4  # at least, so that those whose outputs are felt can be kept apart


class FileOutputs:
    """The outputs of the dense file for a few samples, with which others are compared.

    Attributes:
        apart: How many runs, the first ones, no layer should be solved for on before its zeros are felt: where rows
            are few, a layer fits those that it sees. 0 where samples are too few for that.
    """

    def __init__(self, pieces: Pieces, runs: Runs) -> None:
        inputs = [runs[0][index] for index in indices_of(pieces.graph.inputs)]
        rows = max(len(array) if array.ndim else 1 for array in inputs)
        self._pieces, self._runs = pieces, runs[: max(1, SAMPLES_FELT // rows)]
        self.apart = len(self._runs) if _RUNS_FOR_EACH_FELT * len(self._runs) <= len(runs) else 0
        self._dense = self._from(0, self.inputs)
        if not any(variation(values) for values in self._dense.values()):
            raise ValueError(
                "Expected samples for which the outputs of the file differ. Received: samples that all give the "
                "same. Pass samples as the file will see them. The outputs of a network without trained weights may "
                "not depend on them at all."
            )

    def inputs(self, run: int) -> Mapping[int, np.ndarray]:
        """Return the inputs of the file in one run."""
        return self._runs[run]

    def error(self, step: int, values_of: Any) -> float:
        """Return the mean squared error of the outputs, each as a fraction of its variance."""
        changed = self._from(step, values_of)
        return output_error([self._dense[index] for index in changed], [*changed.values()])

    def _from(self, step: int, values_of: Any) -> dict[int, np.ndarray]:
        runner = PieceRunner(self._pieces.cut(step, len(self._pieces.steps)))
        parts_by_output: dict[int, list[np.ndarray]] = {}
        for run in range(len(self._runs)):
            values = values_of(run)
            results = {**values, **runner.run(values)}
            for index in self._pieces.outputs:
                parts_by_output.setdefault(index, []).append(
                    np.atleast_1d(real(self._pieces.graph.tensors[index], results[index]))
                )
        shapes = {index: {each.shape[1:] for each in parts} for index, parts in parts_by_output.items()}
        return {index: np.concatenate(parts) for index, parts in parts_by_output.items() if len(shapes[index]) == 1}
