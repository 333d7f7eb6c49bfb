"""Give products the biases that are added behind them, as the converter does where it knows the weights."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import add_tensor, inputs_of, operator_name

BIAS = 2  # its place among the inputs of FULLY_CONNECTED
MISSING = -1


def fuse_biases(model: schema.ModelT, graph: schema.SubGraphT) -> None:
    """Turn FULLY_CONNECTED, perhaps a RESHAPE, and ADD of a constant into FULLY_CONNECTED with a bias.

    Args:
        model: The file.
        graph: The graph of it that is changed. Tensors that nothing uses any more remain.
    """
    takers: dict[int, list[schema.OperatorT]] = defaultdict(list)
    for operator in graph.operators:
        for index in inputs_of(operator):
            takers[index].append(operator)
    for index in graph.outputs:
        takers[int(index)] += [None, None]  # has to remain
    fused = set()
    for product in graph.operators:
        if operator_name(model, product) != "FULLY_CONNECTED" or product.inputs[BIAS] != MISSING:
            continue
        last, addition = product, _only(takers[int(product.outputs[0])])
        if addition is not None and operator_name(model, addition) == "RESHAPE":
            last, addition = addition, _only(takers[int(addition.outputs[0])])
        if addition is None or operator_name(model, addition) != "ADD":
            continue
        bias = next(index for index in inputs_of(addition) if index != last.outputs[0])
        count = int(graph.tensors[product.outputs[0]].shape[-1])
        if _is_bias(model, graph.tensors[bias], graph.tensors[last.outputs[0]], count):
            flat = add_tensor(graph, graph.tensors[bias], shape=np.array([count], np.int32), shapeSignature=None)
            product.inputs = np.array([*product.inputs[:BIAS], flat], np.int32)
            product.builtinOptions.fusedActivationFunction = addition.builtinOptions.fusedActivationFunction
            last.outputs = addition.outputs
            fused.add(id(addition))
    graph.operators = [operator for operator in graph.operators if id(operator) not in fused]


def _only(operators: list[schema.OperatorT]) -> schema.OperatorT | None:
    return operators[0] if len(operators) == 1 else None


def _is_bias(model: schema.ModelT, bias: schema.TensorT, sums: schema.TensorT, count: int) -> bool:
    """Tell whether a tensor is a constant with a number for each output of a product, repeated along the rest."""
    values = model.buffers[bias.buffer].data
    is_constant = values is not None and values.nbytes == 4 * count and bias.type == schema.TensorType.FLOAT32
    shape = tuple(map(int, bias.shape)) if bias.shape is not None else ()
    trailing = tuple(map(int, sums.shape))[len(sums.shape) - len(shape) :]
    return bool(is_constant and shape and shape == trailing)
