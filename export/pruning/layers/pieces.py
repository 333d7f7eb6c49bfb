"""Cut operators out of a file as another file, whose inputs and outputs are the tensors that are alive there."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.export.device.interpreter import find_interpreter
from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.canonical_order import graphs_of_signatures, indices_of
from tfprune.export.file.tflite.editor import inputs_of, operator_name, save_objects
from tfprune.export.pruning.layers.stored_weight import type_name

CALLS_GRAPHS = ("IF", "WHILE", "CALL", "STABLEHLO_COMPOSITE", "STABLEHLO_WHILE")
RANDOM = ("RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL")
STATE = ("CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE")
TABLES = ("HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT", "HASHTABLE_SIZE")
UNPACKS = ("DEQUANTIZE", "DENSIFY")
MAX_THREADS = 2


@dataclass(frozen=True)
class FilePiece:
    """Some operators as a file.

    Attributes:
        content: The plain file.
        inputs: The tensors of the whole graph that it takes, in the order of its inputs.
        outputs: Those that it makes and that are needed after it, in the order of its outputs.
    """

    content: bytes
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


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
            if name in STATE:
                self.outputs += [tensor for tensor in inputs[1:] if tensor in values and tensor not in self.outputs]
            elif inputs and not values.intersection(inputs) and name not in (*RANDOM, *CALLS_GRAPHS):
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
        refused = TABLES if self.number in self.entries else (*STATE, *TABLES)
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
        names: dict[int, bytes] = {}
        variables: dict[int, bytes] = {}
        states: dict[int, int] = {}
        for operator in self.graph.operators or ():
            kind, inputs = operator_name(self.model, operator), indices_of(operator.inputs)
            if kind == "VAR_HANDLE":
                names[int(operator.outputs[0])] = operator.builtinOptions.sharedName
            elif kind == "READ_VARIABLE":
                variables[int(operator.outputs[0])] = names[inputs[0]]
            elif kind == "ASSIGN_VARIABLE":  # those read later in the same run are not from the run before
                states |= {tensor: inputs[1] for tensor, name in variables.items() if name == names[inputs[0]]}
        return [*variables], states

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
        while tensor in self._folded and operator_name(self.model, self._folded[tensor]) in UNPACKS:
            tensor = int(self._folded[tensor].inputs[0])
        return tensor

    def has_values(self, tensor: int) -> bool:
        """Tell whether a tensor is a constant that lies in the file."""
        data = self.model.buffers[self.graph.tensors[tensor].buffer].data
        return data is not None and len(data) > 0 and tensor not in self._values and tensor not in self._folded

    def alive(self, step: int) -> set[int]:
        """Return the tensors that steps from this one on, or the user, need."""
        inputs = {index for operator in self.steps[step:] for index in indices_of(operator.inputs)}
        return (inputs | {*self.outputs}) & self._values

    def cut(self, start: int, stop: int) -> FilePiece:
        """Return the steps from `start` to the one before `stop` as a file."""
        steps = self.steps[start:stop]
        needed_inputs = {index for operator in steps for index in indices_of(operator.inputs)}
        written = {index for operator in steps for index in indices_of(operator.outputs)}
        inputs = sorted((needed_inputs & self._values) - written)
        outputs = sorted(written & self.alive(stop))
        operators = [*self._needed(needed_inputs), *steps]
        return FilePiece(self._file(operators, inputs, outputs), tuple(inputs), tuple(outputs))

    def constants(self, tensors: Iterable[int]) -> dict[int, np.ndarray]:
        """Return the values of tensors that no input changes."""
        plain = [index for index in tensors if self.has_values(index)]
        folded = sorted({*tensors} & self._folded.keys())
        piece = FilePiece(self._file(self._needed(folded), [], folded), (), tuple(folded))
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
        if not any(operator_name(self.model, operator) in CALLS_GRAPHS for operator in operators):
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

    def __init__(self, piece: FilePiece) -> None:
        interpreter, self.runtime = find_interpreter()
        self._piece = piece
        self._interpreter: Any = interpreter(
            model_content=piece.content, num_threads=min(MAX_THREADS, os.cpu_count() or 1)
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
