"""Let operators take one tensor where several hold the same values, as each step of an unrolled network has its own.

A sparse tensor has its own indices, so the copies of a weight would cost as much as the weight.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from tfprune.export.rewriting.one_pixel import scales_of
from tfprune.export.tflite import schema
from tfprune.export.tflite.canonical_order import indices_of, put_in_order
from tfprune.export.tflite.editor import load, numbers_operators, save


def merge_constants(data: bytes) -> bytes:
    """Merge constants of one graph that share their values and have the same shape, type and scales.

    Args:
        data: A plain .tflite file.

    Returns:
        The file; the bytes given where there is nothing to merge.

    Raises:
        ValueError: If the bytes are not a whole TFLite file; or (also an ImportError) if ai-edge-litert is not
            installed.
    """
    model = load(data)
    if numbers_operators(model) or not sum(_merge(model, graph) for graph in model.subgraphs):
        return data
    put_in_order(model)
    return save(model)


def _merge(model: schema.ModelT, graph: schema.SubGraphT) -> bool:
    border = {*indices_of(graph.inputs), *indices_of(graph.outputs)}
    first: dict[Hashable, int] = {}
    merged = np.arange(len(graph.tensors) + 1, dtype=np.int32)
    merged[-1] = -1  # no tensor
    for index, tensor in enumerate(graph.tensors):
        filled = model.buffers[tensor.buffer].data is not None and len(model.buffers[tensor.buffer].data)
        if filled and index not in border and tensor.sparsity is None and not tensor.isVariable:
            merged[index] = first.setdefault(_identity(tensor), index)
    taken = [operator for operator in graph.operators or () if operator.inputs is not None]
    changed = [operator for operator in taken if (merged[operator.inputs] != operator.inputs).any()]
    for operator in changed:
        operator.inputs = merged[operator.inputs]
    return bool(changed)


def _identity(tensor: schema.TensorT) -> Hashable:
    # Custom quantization is compared by what holds it: it has a form of its own.
    custom = None if tensor.quantization is None else id(tensor.quantization.details or None)
    return tensor.buffer, np.asarray(tensor.shape).tobytes(), custom, scales_of(tensor)
