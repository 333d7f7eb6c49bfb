"""Compute 8-bit fully connected layers as 1x1 convolutions, whose weights XNNPACK takes sparse.

RESHAPE to [rows, 1, 1, inputs], CONV_2D, RESHAPE back: the same sums, rounded in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import add_constant, inputs_of, operator_code
from tfprune.export.rewriting.shapes.one_pixel import OnePixelImages, keep_images, lengths_of, shape_of

INTEGERS_SINCE = 3  # the version of CONV_2D that takes 8-bit values


def pointwise_refusal(model: schema.ModelT, graph: schema.SubGraphT, *, weight: int) -> str:
    """Say why the fully connected layers of a weight cannot be convolutions; empty if they can."""
    images = OnePixelImages(model, graph)
    layers = [operator for operator in graph.operators if _is_layer(images, operator, weight)]
    return next(filter(None, (_refusal(images, layer) for layer in layers)), "")


def make_pointwise(model: schema.ModelT, graph: schema.SubGraphT, *, weights: Collection[int]) -> None:
    """Turn the fully connected layers of some weights into convolutions, in place.

    Args:
        model: The model, which gets the operators.
        graph: The graph of it that is changed. Its tensors keep their indices.
        weights: Tensors that `pointwise_refusal` has nothing against.
    """
    images = OnePixelImages(model, graph)
    for weight in weights:
        values = graph.tensors[weight]
        values.shape = np.array([values.shape[0], 1, 1, values.shape[1]], np.int32)
    biases: dict[int, int] = {}  # by weight
    for operator in [*graph.operators]:
        if any(_is_layer(images, operator, weight) for weight in weights):
            _add_bias(images, operator, biases)
            _rewrite(images, operator)
        else:
            keep_images(images, operator)
    images.finish()


def _is_layer(images: OnePixelImages, operator: schema.OperatorT, weight: int) -> bool:
    return images.kind(operator) == "FULLY_CONNECTED" and inputs_of(operator)[1:2] == [weight]


def _refusal(images: OnePixelImages, layer: schema.OperatorT) -> str:
    tensors = images.graph.tensors
    source, weight, *bias = (tensors[index] for index in inputs_of(layer) if index >= 0)
    target, origin = tensors[layer.outputs[0]], tensors[images.origin(inputs_of(layer)[0])]
    integers = [tensor.type == schema.TensorType.INT8 for tensor in (source, target, origin)]
    scaled = [tensor.quantization is not None and np.size(tensor.quantization.scale) for tensor in (source, weight)]
    if not all(integers + scaled) or any(tensor.type != schema.TensorType.INT32 for tensor in bias):
        return "its operators do not compute in int8"
    if getattr(layer.builtinOptions, "weightsFormat", 0) or len(layer.outputs) > 1:
        return "its values are shuffled"
    if not shape_of(target) or sum(length < 0 for length in lengths_of(target)) > 1:
        return "more than one dimension of what its operator gives is open"
    if math.prod(shape_of(origin)) % shape_of(weight)[1]:
        return "the shape of what its operator takes is not known"
    return ""


def _add_bias(images: OnePixelImages, layer: schema.OperatorT, biases: dict[int, int]) -> None:
    """Give a layer without a bias one of zeros, without which no kernel takes an 8-bit convolution.

    All steps of an unrolled network get the same: zeros are zeros at any scale.
    """
    source, weight, *bias = inputs_of(layer)
    if bias and bias[0] >= 0:
        return
    if weight not in biases:
        kernel, scale = images.graph.tensors[weight], images.graph.tensors[source].quantization.scale[0]
        zeros, name = np.zeros(kernel.shape[0], np.int32), (kernel.name or b"") + b"/bias"
        biases[weight] = add_constant(images.model, images.graph, name=name, values=zeros)
        scales = (scale * kernel.quantization.scale).astype(np.float32)
        quantization = schema.QuantizationParametersT(scale=scales, zeroPoint=np.zeros(len(scales), np.int64))
        images.graph.tensors[biases[weight]].quantization = quantization
    layer.inputs = np.array([source, weight, biases[weight]], np.int32)


def _rewrite(images: OnePixelImages, layer: schema.OperatorT) -> None:
    source, weight, bias = inputs_of(layer)
    outputs, _, _, inputs = images.graph.tensors[weight].shape.tolist()
    layer.inputs = np.array([images.image_of(source, inputs), weight, bias], np.int32)
    image = images.image_for(int(layer.outputs[0]), outputs)
    images.move_name(int(layer.outputs[0]), image)
    layer.outputs = np.array([image], np.int32)
    layer.opcodeIndex = operator_code(images.model, schema.BuiltinOperator.CONV_2D)
    code = images.model.operatorCodes[layer.opcodeIndex]
    code.version = max(code.version, INTEGERS_SINCE)
    layer.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
    layer.builtinOptions = schema.Conv2DOptionsT(
        padding=schema.Padding.VALID,
        strideH=1,
        strideW=1,
        fusedActivationFunction=getattr(layer.builtinOptions, "fusedActivationFunction", 0),
    )
