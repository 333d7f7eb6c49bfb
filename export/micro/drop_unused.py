"""Leave out of a file what the interpreter for microcontrollers never reads."""

from __future__ import annotations

import copy

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.canonical_order import indices_of, put_in_order


def drop_unused(model: schema.ModelT) -> None:
    """Leave out names, signatures, metadata, files behind the flatbuffer and known scales of biases.

    Inputs and outputs keep their names, those of the signature if there is one. A bias has the scale of its input
    times that of its weight, and the interpreter takes it from these for each channel.
    """
    _name_ends(model)
    ends = {index for kind in ("inputs", "outputs") for index in indices_of(getattr(model.subgraphs[0], kind))}
    for number, graph in enumerate(model.subgraphs):
        graph.name = b"" if number == 0 else graph.name
        for index, tensor in enumerate(graph.tensors):
            tensor.name = tensor.name if number == 0 and index in ends else None
            tensor.shapeSignature = None
            tensor.quantization = _quantization(tensor)
            data = model.buffers[tensor.buffer].data
            if not tensor.isVariable and (data is None or not len(data)):
                tensor.buffer = 0  # the empty one
    model.signatureDefs = model.metadata = model.metadataBuffer = model.description = None
    model.archive = b""
    put_in_order(model)
    for name in ("metadata", "signatureDefs"):
        setattr(model, name, getattr(model, name) or None)


def _name_ends(model: schema.ModelT) -> None:
    for signature in model.signatureDefs or ():
        if signature.subgraphIndex == 0:
            for entry in (*(signature.inputs or ()), *(signature.outputs or ())):
                model.subgraphs[0].tensors[entry.tensorIndex].name = entry.name
            return


def _quantization(tensor: schema.TensorT) -> schema.QuantizationParametersT | None:
    quantization = copy.copy(tensor.quantization)
    if quantization is None or (tensor.type == schema.TensorType.INT32 and np.size(quantization.scale) > 1):
        return None
    if quantization.scale is None or not np.size(quantization.scale):
        return None
    quantization.min = quantization.max = None
    points = quantization.zeroPoint
    if np.size(points) > 1 and (points == points[0]).all():  # one stands for all channels, of 8 bytes each
        quantization.zeroPoint = points[:1]
    return quantization
