"""Find the weights of a file that can be pruned, each with all operators that use it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import inputs_of
from tfprune.export.pruning.layers.file_layer import FileLayer
from tfprune.export.pruning.layers.linear_operators import TABLES, LinearOperator, linear_operators
from tfprune.export.pruning.layers.pieces import Pieces
from tfprune.export.pruning.layers.stored_weight import BIASES, StoredWeight, bias_scale, type_name
from tfprune.export.pruning.layers.table_layer import TableLayer


def find_layers(pieces: Pieces) -> tuple[list[FileLayer], list[tuple[str, str]]]:
    """Return the weights of a graph that can be pruned, in order, and the names of the others, each with the reason.

    Operators in the graphs of other signatures may use the same weights.
    """
    operators, skipped = linear_operators(pieces)
    by_buffer: dict[int, list[LinearOperator]] = {}
    for operator in operators:
        by_buffer.setdefault(_tensor(pieces, operator).buffer, []).append(operator)
    for number in pieces.entries:
        for operator in linear_operators(pieces.sibling(number))[0] if number != pieces.number else ():
            by_buffer.get(_tensor(pieces, operator).buffer, []).append(operator)
    layers = []
    for sharing in by_buffer.values():
        layer = _layer_of(pieces, sharing)
        if isinstance(layer, FileLayer):
            layers.append(layer)
        else:
            name = _tensor(pieces, sharing[0]).name or b""
            skipped.append((name.decode(errors="replace"), f"{sharing[0].kind}: {layer}"))
    return layers, skipped


def _tensor(pieces: Pieces, operator: LinearOperator) -> schema.TensorT:
    return operator.home(pieces).graph.tensors[operator.weight]


def _layer_of(pieces: Pieces, operators: Sequence[LinearOperator]) -> FileLayer | str:
    """Return a weight with all operators that use it; a string says why it is left alone."""
    first = operators[0]
    tensor = _tensor(pieces, first)
    stored = StoredWeight.of(tensor)
    if isinstance(stored, str):
        return stored
    homes = {home.number: home for home in (operator.home(pieces) for operator in operators)}
    outside = [graph for number, graph in enumerate(pieces.model.subgraphs) if number not in homes]
    if any(each.buffer == tensor.buffer for graph in outside for each in graph.tensors or ()):
        return "another graph of the file has the same weights"
    takers = [step for home in homes.values() for step in home.steps if any(_reads(home, step, tensor.buffer))]
    if len(takers) > len(operators):
        return "an operator of another kind uses the same weights"
    if stored.axis not in (None, first.output_axis):
        return "its scales are not those of its outputs"
    for operator in operators:
        other = StoredWeight.of(_tensor(pieces, operator))
        is_same = isinstance(other, StoredWeight) and np.array_equal(other.scales, stored.scales)
        if not is_same or _form(operator) != _form(first):
            return "operators of other kinds or scales use the same weights"
        if operator.bias_place >= 0 and not _has_known_bias(operator.home(pieces), operator):
            return "its bias has a type or scales that are not known"
    return (TableLayer if first.kind in TABLES else FileLayer)(pieces, operators, stored)


def _form(operator: LinearOperator) -> tuple:
    return operator.kind, operator.positions, operator.groups, operator.output_axis


def _reads(pieces: Pieces, step: schema.OperatorT, buffer: int) -> list[bool]:
    constants = [pieces.constant_behind(index) for index in inputs_of(step) if index >= 0]
    return [pieces.graph.tensors[index].buffer == buffer for index in constants]


def _has_known_bias(pieces: Pieces, operator: LinearOperator) -> bool:
    tensor = pieces.graph.tensors[inputs_of(pieces.steps[operator.step])[operator.bias_place]]
    if type_name(tensor.type) not in BIASES or tensor.sparsity is not None:
        return False
    has_scale = tensor.quantization is not None and tensor.quantization.scale is not None
    return type_name(tensor.type) == "FLOAT32" or (has_scale and bool((bias_scale(tensor) > 0).all()))
