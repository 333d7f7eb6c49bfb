"""Put operators that only move values, and that the converter left in float, back among their 8-bit neighbours.

The integer converter may leave such an operator in float when one of its results is unused, as in the first step of
an unrolled LSTM, which needs no forget gate. That depends on where the converter's objects lie in memory, so the same
model gives different files from run to run. On integers the outputs are the same, bit for bit.
"""

from __future__ import annotations

import copy
from collections import defaultdict

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.canonical_order import QUANTIZED, drop_hash, indices_of
from tfprune.export.file.tflite.editor import add_tensor, operator_name

INTEGERS_SINCE = 2  # the version of each of `MOVES` that takes 8-bit values
MOVES = {"SPLIT": 1, "SPLIT_V": 0, "UNPACK": 0}  # operators with several results, and the index of their input


def join_islands(model: schema.ModelT) -> bool:
    """Let operators that move 8-bit values as float32 move them as integers.

    That is DEQUANTIZE, or an input of the model, then one of `MOVES`, and QUANTIZE with one scale on all results that
    are taken.

    Args:
        model: An open file of the converter.

    Returns:
        True, also without islands: in canonical order, and without the converter's hash, files that differ by such
        islands become the same bytes.
    """
    for graph in model.subgraphs:
        if graph.operators:
            _Joining(model, graph).apply()
    drop_hash(model)
    return True


class _Joining:
    """Changes one graph."""

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT) -> None:
        self._model = model
        self._graph = graph
        self._inputs = indices_of(graph.inputs)
        self._outputs = {*indices_of(graph.outputs)}
        self._takers: dict[int, list[schema.OperatorT]] = defaultdict(list)
        self._producer: dict[int, schema.OperatorT] = {}
        for operator in graph.operators:
            self._producer.update(dict.fromkeys(indices_of(operator.outputs), operator))
            for index in {*indices_of(operator.inputs)}:
                self._takers[index].append(operator)

    def apply(self) -> None:
        """Join every island of the graph."""
        gone = {id(unneeded) for operator in [*self._graph.operators] for unneeded in self._join(operator)}
        self._graph.operators = [operator for operator in self._graph.operators if id(operator) not in gone]

    def _join(self, operator: schema.OperatorT) -> list[schema.OperatorT]:
        """Let an operator work on integers if it is such an island; return the operators that are then unused."""
        if self._kind(operator) not in MOVES:
            return []
        floating, results = int(operator.inputs[MOVES[self._kind(operator)]]), indices_of(operator.outputs)
        if self._graph.tensors[floating].type != schema.TensorType.FLOAT32:
            return []
        after = [taker for index in results for taker in self._takers[index]]
        targets = [int(taker.outputs[0]) for taker in after]
        if self._outputs & {*results, *targets} or any(self._kind(taker) != "QUANTIZE" for taker in after):
            return []
        source = self._integers(floating, targets)
        if source is None:
            return []
        self._retake(operator, floating, source)
        code = self._model.operatorCodes[operator.opcodeIndex]
        code.version = max(code.version, INTEGERS_SINCE)
        for index in results:
            tensor = self._graph.tensors[index]
            tensor.type, tensor.quantization = self._values_of(source)
            for taker in self._takers.pop(index, ()):
                for follower in [*self._takers[int(taker.outputs[0])]]:
                    self._retake(follower, int(taker.outputs[0]), index)
        unneeded = not self._takers[floating] and floating not in self._outputs and floating in self._producer
        return [*after, self._producer[floating]] if unneeded else after

    def _integers(self, floating: int, targets: list[int]) -> int | None:
        """Return integers with the targets' scale that a float tensor came from or, if it is an input, becomes."""
        before = self._producer.get(floating)
        sources = [int(before.inputs[0])] if before is not None and self._kind(before) == "DEQUANTIZE" else []
        if floating in self._inputs:
            quantizing = [taker for taker in self._takers[floating] if self._kind(taker) == "QUANTIZE"]
            sources += [int(taker.outputs[0]) for taker in quantizing]
        fitting = [index for index in sources if all(self._mean_the_same(index, target) for target in targets)]
        if fitting or floating not in self._inputs or not targets:
            return fitting[0] if fitting else None
        same = all(self._mean_the_same(targets[0], target) for target in targets)
        return self._quantized(floating, targets[0]) if same else None

    def _quantized(self, floating: int, target: int) -> int:
        """Add an operator that quantizes an input as the target's operator quantizes a part of it."""
        kind, quantization = self._values_of(target)
        self._model.buffers.append(schema.BufferT())  # empty and of its own, as the converter gives it
        like, buffer = self._graph.tensors[floating], len(self._model.buffers) - 1
        index = add_tensor(self._graph, like, name=QUANTIZED, buffer=buffer, type=kind, quantization=quantization)
        operator = copy.copy(self._producer[target])
        operator.inputs, operator.outputs = np.array([floating], np.int32), np.array([index], np.int32)
        self._graph.operators.append(operator)
        self._producer[index] = operator
        self._takers[floating].append(operator)
        return index

    def _mean_the_same(self, index: int, target: int) -> bool:
        (old_kind, old), (new_kind, new) = self._values_of(index), self._values_of(target)
        return (
            old_kind == new_kind
            and np.array_equal(old.scale, new.scale)
            and np.array_equal(old.zeroPoint, new.zeroPoint)
        )

    def _retake(self, operator: schema.OperatorT, old: int, new: int) -> None:
        """Replace a tensor among the inputs of an operator."""
        operator.inputs = np.array([new if index == old else index for index in operator.inputs.tolist()], np.int32)
        self._takers[old] = [taker for taker in self._takers[old] if taker is not operator]
        self._takers[new].append(operator)

    def _values_of(self, index: int) -> tuple[int, schema.QuantizationParametersT]:
        return self._graph.tensors[index].type, self._graph.tensors[index].quantization

    def _kind(self, operator: schema.OperatorT) -> str:
        return operator_name(self._model, operator)
