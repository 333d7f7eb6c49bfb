"""Put operators that only move values, and that the converter left in float, back among their 8-bit neighbours.

The integer converter leaves such an operator in float when nobody takes one of its results: of the first step of an
unrolled LSTM, for example, which has no use for a forget gate. Whether it does depends on where its objects lie in
memory, so that the same model gives now one file and now another. On integers the outputs are the same, bit for bit.
"""

from __future__ import annotations

import copy
from collections import defaultdict

import numpy as np

from tfprune.export.converting.canonical_order import QUANTIZED, places_of, put_in_order
from tfprune.export.tflite import schema
from tfprune.export.tflite.editor import add_tensor, builtin_code, load, numbers_operators, save

INTEGERS_SINCE = 2  # the version of each of `MOVES` that takes 8-bit values
MOVES = {"SPLIT": 1, "SPLIT_V": 0, "UNPACK": 0}  # operators with several results, and where they have their values


def join_islands(data: bytes) -> bytes:
    """Let operators that move 8-bit values by way of float32 move them as they are.

    That is DEQUANTIZE, or an input of the model, then one of `MOVES`, and QUANTIZE with one scale on all results that
    are taken. Files that differ by such islands become the same bytes (`put_in_order`).

    Args:
        data: A plain .tflite file, fresh from the converter.

    Returns:
        The file, written anew; the bytes given where it numbers its operators, which would be other ones.

    Raises:
        ValueError: If the bytes are no TFLite file, or a damaged one; or (also an ImportError) if ai-edge-litert is
            not installed.
    """
    model = load(data)
    if numbers_operators(model):
        return data
    for graph in model.subgraphs:
        if graph.operators:
            _Joining(model, graph).apply()
    put_in_order(model)
    return save(model)


class _Joining:
    """Changes one graph."""

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT) -> None:
        self._names = {getattr(schema.BuiltinOperator, name): name for name in (*MOVES, "DEQUANTIZE", "QUANTIZE")}
        self._model = model
        self._graph = graph
        self._inputs = places_of(graph.inputs)
        self._outputs = {*places_of(graph.outputs)}
        self._takers: dict[int, list[schema.OperatorT]] = defaultdict(list)
        self._producer: dict[int, schema.OperatorT] = {}
        for operator in graph.operators:
            self._producer.update(dict.fromkeys(places_of(operator.outputs), operator))
            for place in {*places_of(operator.inputs)}:
                self._takers[place].append(operator)

    def apply(self) -> None:
        """Join every island of the graph."""
        gone = {id(unneeded) for operator in [*self._graph.operators] for unneeded in self._join(operator)}
        self._graph.operators = [operator for operator in self._graph.operators if id(operator) not in gone]

    def _join(self, operator: schema.OperatorT) -> list[schema.OperatorT]:
        """Let an operator work on integers if it is such an island; return the operators that are not needed then."""
        if self._kind(operator) not in MOVES:
            return []
        floating, results = int(operator.inputs[MOVES[self._kind(operator)]]), places_of(operator.outputs)
        if self._graph.tensors[floating].type != schema.TensorType.FLOAT32:
            return []
        after = [taker for place in results for taker in self._takers[place]]
        targets = [int(taker.outputs[0]) for taker in after]
        if self._outputs & {*results, *targets} or any(self._kind(taker) != "QUANTIZE" for taker in after):
            return []
        source = self._integers(floating, targets)
        if source is None:
            return []
        self._retake(operator, floating, source)
        code = self._model.operatorCodes[operator.opcodeIndex]
        code.version = max(code.version, INTEGERS_SINCE)
        for place in results:
            tensor = self._graph.tensors[place]
            tensor.type, tensor.quantization = self._values_of(source)
            for taker in self._takers.pop(place, ()):
                for follower in [*self._takers[int(taker.outputs[0])]]:
                    self._retake(follower, int(taker.outputs[0]), place)
        unneeded = not self._takers[floating] and floating not in self._outputs and floating in self._producer
        return [*after, self._producer[floating]] if unneeded else after

    def _integers(self, floating: int, targets: list[int]) -> int | None:
        """Return integers that mean what those in the targets do, of a float tensor that was one or is an input."""
        before = self._producer.get(floating)
        found = [int(before.inputs[0])] if before is not None and self._kind(before) == "DEQUANTIZE" else []
        if floating in self._inputs:
            quantizing = [taker for taker in self._takers[floating] if self._kind(taker) == "QUANTIZE"]
            found += [int(taker.outputs[0]) for taker in quantizing]
        fitting = [place for place in found if all(self._mean_the_same(place, target) for target in targets)]
        if fitting or floating not in self._inputs or not targets:
            return fitting[0] if fitting else None
        same = all(self._mean_the_same(targets[0], target) for target in targets)
        return self._quantized(floating, targets[0]) if same else None

    def _quantized(self, floating: int, target: int) -> int:
        """Add an operator that makes of an input what another one makes of a part of it."""
        kind, quantization = self._values_of(target)
        self._model.buffers.append(schema.BufferT())  # empty and of its own, as the converter gives it
        changes = {"name": QUANTIZED, "buffer": len(self._model.buffers) - 1, "type": kind}
        place = add_tensor(self._graph, self._graph.tensors[floating], **changes, quantization=quantization)
        operator = copy.copy(self._producer[target])
        operator.inputs, operator.outputs = np.array([floating], np.int32), np.array([place], np.int32)
        self._graph.operators.append(operator)
        self._producer[place] = operator
        self._takers[floating].append(operator)
        return place

    def _mean_the_same(self, one: int, other: int) -> bool:
        (kind, old), (wanted, new) = self._values_of(one), self._values_of(other)
        return (
            kind == wanted and np.array_equal(old.scale, new.scale) and np.array_equal(old.zeroPoint, new.zeroPoint)
        )

    def _retake(self, operator: schema.OperatorT, old: int, new: int) -> None:
        """Let an operator take another tensor than it did."""
        operator.inputs = np.array([new if place == old else place for place in operator.inputs.tolist()], np.int32)
        self._takers[old] = [taker for taker in self._takers[old] if taker is not operator]
        self._takers[new].append(operator)

    def _values_of(self, place: int) -> tuple[int, schema.QuantizationParametersT]:
        return self._graph.tensors[place].type, self._graph.tensors[place].quantization

    def _kind(self, operator: schema.OperatorT) -> str:
        return self._names.get(builtin_code(self._model.operatorCodes[operator.opcodeIndex]), "")
