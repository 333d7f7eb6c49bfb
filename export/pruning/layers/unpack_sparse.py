"""Unpack the weights of layers that are stored sparse, so that they are pruned as others are."""

from __future__ import annotations

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.canonical_order import indices_of
from tfprune.export.file.tflite.editor import (
    add_values,
    load_with_graph,
    numbers_operators,
    operator_name,
)
from tfprune.export.file.tflite.tensor_values import PLAIN, TensorValues
from tfprune.export.pruning.layers.linear_operators import linear_operators
from tfprune.export.pruning.layers.pieces import Pieces


def unpack_sparse(content: bytes) -> schema.ModelT:
    """Return the objects of a plain file, with the sparse weights of its layers as dense constants.

    All other tensors stay as they are stored, and so do all in a file that names operators by their indices.
    """
    file, model = load_with_graph(content)
    if numbers_operators(model):
        return model
    pieces = Pieces(model)
    operators = [operator for number in pieces.entries for operator in linear_operators(pieces.sibling(number))[0]]
    weights = {(operator.home(pieces).number, operator.weight) for operator in operators}
    dense: dict[int, int] = {}  # the new buffer of each old one
    for number, index in sorted(weights):
        values = file.subgraphs[number].tensors[index].values
        tensor = model.subgraphs[number].tensors[index]
        if tensor.sparsity is None or values is None or values.dtype not in PLAIN or {*values.zeros} != {0}:
            continue
        if tensor.buffer not in dense:
            dense[tensor.buffer] = add_values(model, _unpacked(values))
        _replace(model, model.subgraphs[number], tensor=index, buffer=dense[tensor.buffer])
    buffers_in_use = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    for old in dense.keys() - buffers_in_use:
        model.buffers[old].data = None
    return model


def _unpacked(values: TensorValues) -> np.ndarray:
    flat = np.zeros(values.size, np.dtype(values.dtype).newbyteorder("<"))
    for positions, entries in values.pieces():
        flat[positions] = entries
    return flat


def _replace(model: schema.ModelT, graph: schema.SubGraphT, *, tensor: int, buffer: int) -> None:
    """Make a sparse tensor dense, and let it stand for what DENSIFY makes of it."""
    own = graph.tensors[tensor]
    own.buffer, own.sparsity = buffer, None
    for step in [each for each in graph.operators if operator_name(model, each) == "DENSIFY"]:
        if indices_of(step.inputs) != [tensor]:
            continue
        output = int(step.outputs[0])
        own.quantization = graph.tensors[output].quantization or own.quantization
        graph.operators.remove(step)
        for operator in graph.operators:
            if operator.inputs is not None:
                operator.inputs = np.where(np.asarray(operator.inputs) == output, tensor, operator.inputs)
