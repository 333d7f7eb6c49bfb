"""Let operators take one tensor where several hold the same values, as each step of an unrolled network has its own.

A sparse tensor has its own indices, so the copies of a weight would cost as much as the weight. And the other way
round: where the converter lets layers share a bias that means another number to each, each gets one of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.canonical_order import indices_of
from tfprune.export.file.tflite.editor import (
    add_tensor,
    add_values,
    builtin_code,
)
from tfprune.export.rewriting.shapes.one_pixel import scales_of

LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")  # with a bias as their third input


def merge_constants(model: schema.ModelT) -> bool:
    """Merge constants of one graph that share their values and have the same shape, type and scales.

    Args:
        model: An open file.

    Returns:
        Whether there was something to merge.
    """
    return sum(_merge(model, graph) for graph in model.subgraphs) > 0


def own_biases(model: schema.ModelT) -> bool:
    """Give each 16-bit layer a bias in units of its own: the scale of its input times those of its weight.

    Steps of an unrolled network share a bias, but not the scale of their inputs; the converter writes one bias for
    all of them, in the units of the first.

    Args:
        model: An open file of the converter.

    Returns:
        Whether a bias had to change.
    """
    operators = [(graph, operator) for graph in model.subgraphs for operator in graph.operators or ()]
    return sum(_own_bias(model, graph, operator) for graph, operator in operators) > 0


def _own_bias(model: schema.ModelT, graph: schema.SubGraphT, operator: schema.OperatorT) -> bool:
    layers = {getattr(schema.BuiltinOperator, name) for name in LAYERS}
    widths = {schema.TensorType.INT32: "<i4", schema.TensorType.INT64: "<i8"}
    if builtin_code(model.operatorCodes[operator.opcodeIndex]) not in layers or not (operator.inputs[2:] >= 0).all():
        return False
    source, weight, *others = (graph.tensors[index] for index in operator.inputs)
    if source.type != schema.TensorType.INT16 or not others or others[0].type not in widths:
        return False
    (bias,) = others
    wanted = (source.quantization.scale * weight.quantization.scale).astype(np.float32)
    if np.allclose(bias.quantization.scale, wanted, rtol=1e-5, atol=0):
        return False
    width = widths[bias.type]
    values = np.asarray(model.buffers[bias.buffer].data).view(width) * (bias.quantization.scale / wanted)
    quantization = copy.copy(bias.quantization)
    quantization.scale = wanted
    buffer = add_values(model, np.rint(values).astype(width))
    inputs = operator.inputs.copy()
    inputs[2] = add_tensor(graph, bias, buffer=buffer, quantization=quantization)
    operator.inputs = inputs
    return True


def _merge(model: schema.ModelT, graph: schema.SubGraphT) -> bool:
    border = {*indices_of(graph.inputs), *indices_of(graph.outputs)}
    first: dict[Hashable, int] = {}
    merged = np.arange(len(graph.tensors) + 1, dtype=np.int32)
    merged[-1] = -1  # no tensor
    for index, tensor in enumerate(graph.tensors):
        filled = model.buffers[tensor.buffer].data is not None and len(model.buffers[tensor.buffer].data)
        if filled and index not in border and tensor.sparsity is None and not tensor.isVariable:
            merged[index] = first.setdefault(_identity(tensor), index)
    operators = [operator for operator in graph.operators or () if operator.inputs is not None]
    changed = [operator for operator in operators if (merged[operator.inputs] != operator.inputs).any()]
    for operator in changed:
        operator.inputs = merged[operator.inputs]
    return bool(changed)


def _identity(tensor: schema.TensorT) -> Hashable:
    # Custom quantization is compared by what holds it: it has a form of its own.
    custom = None if tensor.quantization is None else id(tensor.quantization.details or None)
    return tensor.buffer, np.asarray(tensor.shape).tobytes(), custom, scales_of(tensor)
