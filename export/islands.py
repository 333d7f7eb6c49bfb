"""Put operators that only move values, and that the converter left in float, back among their 8-bit neighbours.

The integer converter leaves such an operator in float when nobody takes one of its results: of the first step of an
unrolled LSTM, for example, which has no use for a forget gate. Whether it does depends on where its objects lie in
memory, so that the same model gives now one file and now another. On integers the outputs are the same, bit for bit.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from tfprune.export.editing import builtin_code, load, save

if TYPE_CHECKING:
    from ai_edge_litert import schema_py_generated as schema

HASHED = b"CONVERSION_METADATA"  # holds a hash of the file as it was
MOVES = {"SPLIT": 1, "SPLIT_V": 0, "UNPACK": 0}  # operators with several results, and where they have their values


def join_islands(data: bytes) -> bytes:
    """Let operators that move 8-bit values by way of float32 move them as they are.

    That is DEQUANTIZE, one of `MOVES`, and QUANTIZE with the scale from before on each result that is taken. Files
    that differ by such islands become the same bytes; so the converter's hash of the file is left out.

    Args:
        data: A plain .tflite file, fresh from the converter.

    Returns:
        The file, written anew.

    Raises:
        ValueError: If the bytes are no TFLite file, or a damaged one; or (also an ImportError) if ai-edge-litert is
            not installed.
    """
    model = load(data)
    for graph in model.subgraphs:
        if graph.operators:
            _Joining(model, graph).apply()
    model.metadata = [entry for entry in model.metadata or () if entry.name != HASHED]
    _renumber_codes(model)
    _renumber_buffers(model)
    return save(model)


class _Joining:
    """Changes one graph."""

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._names = {getattr(schema.BuiltinOperator, name): name for name in (*MOVES, "DEQUANTIZE", "QUANTIZE")}
        self._model = model
        self._graph = graph
        self._outputs = {*_places(graph.outputs)}
        self._takers: dict[int, list[schema.OperatorT]] = defaultdict(list)
        self._producer: dict[int, schema.OperatorT] = {}
        for operator in graph.operators:
            self._producer.update(dict.fromkeys(_places(operator.outputs), operator))
            for place in {*_places(operator.inputs)}:
                self._takers[place].append(operator)

    def apply(self) -> None:
        """Join every island of the graph, and leave out the tensors that are not needed then."""
        dropped = [gone for operator in self._graph.operators for gone in self._join(operator)]
        if dropped:
            gone = {*map(id, dropped)}
            self._graph.operators = [operator for operator in self._graph.operators if id(operator) not in gone]
            self._drop_tensors({place for operator in dropped for place in _places(operator.outputs)})

    def _join(self, operator: schema.OperatorT) -> list[schema.OperatorT]:
        """Let an operator work on integers if it is such an island; return the operators that are not needed then."""
        slot = MOVES.get(self._kind(operator), -1)
        before = None if slot < 0 else self._producer.get(int(operator.inputs[slot]))
        if before is None or self._kind(before) != "DEQUANTIZE":
            return []
        source, float_source = int(before.inputs[0]), int(operator.inputs[slot])
        results = _places(operator.outputs)
        after = [taker for place in results for taker in self._takers[place]]
        if self._outputs & {*results} or not all(self._gives_back(taker, source) for taker in after):
            return []
        self._retake(operator, {float_source: source})
        for place in results:
            tensor = self._graph.tensors[place]
            tensor.type, tensor.quantization = self._values_of(source)
            for taker in self._takers.pop(place, ()):
                for follower in [*self._takers[int(taker.outputs[0])]]:
                    self._retake(follower, {int(taker.outputs[0]): place})
        unneeded = not self._takers[float_source] and float_source not in self._outputs
        return [*after, before] if unneeded else after

    def _gives_back(self, operator: schema.OperatorT, source: int) -> bool:
        """Tell whether an operator makes of a float tensor the integers that it came from."""
        target = int(operator.outputs[0])
        if self._kind(operator) != "QUANTIZE" or target in self._outputs:
            return False
        (kind, old), (other, new) = self._values_of(source), self._values_of(target)
        return kind == other and np.array_equal(old.scale, new.scale) and np.array_equal(old.zeroPoint, new.zeroPoint)

    def _retake(self, operator: schema.OperatorT, other: dict[int, int]) -> None:
        """Let an operator take other tensors than it did."""
        operator.inputs = np.array([other.get(place, place) for place in operator.inputs.tolist()], np.int32)
        for old, new in other.items():
            self._takers[old] = [taker for taker in self._takers[old] if taker is not operator]
            self._takers[new].append(operator)

    def _drop_tensors(self, unneeded: set[int]) -> None:
        kept = [place for place in range(len(self._graph.tensors)) if place not in unneeded]
        moved = np.full(len(self._graph.tensors) + 1, -1, np.int32)  # the last one stands for -1, no tensor
        moved[kept] = np.arange(len(kept))
        for part in [self._graph, *self._graph.operators]:
            part.inputs, part.outputs = (moved[_numbers(places)] for places in (part.inputs, part.outputs))
        for operator in self._graph.operators:
            if operator.intermediates is not None:
                operator.intermediates = moved[_numbers(operator.intermediates)]
        for signature in self._model.signatureDefs or ():
            if self._model.subgraphs[signature.subgraphIndex] is self._graph:
                for entry in [*(signature.inputs or ()), *(signature.outputs or ())]:
                    entry.tensorIndex = int(moved[entry.tensorIndex])
        self._graph.tensors = [self._graph.tensors[place] for place in kept]

    def _values_of(self, place: int) -> tuple[int, schema.QuantizationParametersT]:
        return self._graph.tensors[place].type, self._graph.tensors[place].quantization

    def _kind(self, operator: schema.OperatorT) -> str:
        return self._names.get(builtin_code(self._model.operatorCodes[operator.opcodeIndex]), "")


def _renumber_codes(model: schema.ModelT) -> None:
    """Keep the operator codes that are used, in the order in which they are."""
    operators = [operator for graph in model.subgraphs for operator in graph.operators or ()]
    used = [*dict.fromkeys(operator.opcodeIndex for operator in operators)]
    for operator in operators:
        operator.opcodeIndex = used.index(operator.opcodeIndex)
    model.operatorCodes = [model.operatorCodes[place] for place in used]


def _renumber_buffers(model: schema.ModelT) -> None:
    """Keep the buffers that are used, in the order in which they are; the first one is empty by convention."""
    users = [tensor for graph in model.subgraphs for tensor in graph.tensors] + [*(model.metadata or ())]
    used = [*dict.fromkeys([0, *(user.buffer for user in users)])]
    moved = {old: new for new, old in enumerate(used)}
    for user in users:
        user.buffer = moved[user.buffer]
    model.buffers = [model.buffers[place] for place in used]


def _numbers(places: object) -> np.ndarray:
    return np.zeros(0, np.int32) if places is None else np.asarray(places, np.int32)


def _places(places: object) -> list[int]:
    """Return the tensors of a list; optional ones that are left out have no place."""
    return [place for place in _numbers(places).tolist() if place >= 0]
