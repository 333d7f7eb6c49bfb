"""Let the operators between 1x1 convolutions work on images of one pixel, so that nothing has to be reshaped there.

They work on each entry alone, or on the last dimension: the gates of an unrolled LSTM or GRU, for example.
"""

from __future__ import annotations

import math

import numpy as np

from tfprune.export.file.tflite import schema
from tfprune.export.file.tflite.editor import inputs_of
from tfprune.export.rewriting.one_pixel import OnePixelImages, lengths_of, shape_of

ELEMENTWISE = {
    *("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "QUANTIZE", "LOGISTIC", "TANH"),
    *("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "LEAKY_RELU", "HARD_SWISH"),
}


def keep_images(images: OnePixelImages, operator: schema.OperatorT) -> None:
    """Let an operator take images, and give some, if all that it computes with was reshaped from such images."""
    kind = images.kind(operator)
    if kind in ELEMENTWISE:
        _elementwise(images, operator)
    elif kind == "SPLIT" and _is_last_axis(images, operator):
        _split(images, operator)
    elif kind == "STRIDED_SLICE":
        _slice(images, operator)


def _elementwise(images: OnePixelImages, operator: schema.OperatorT) -> None:
    tensors, inputs = images.graph.tensors, inputs_of(operator)
    found = {index: images.origin(index) for index in inputs if not _is_spread(images, index)}
    shapes = {tuple(shape_of(tensors[origin])) for origin in found.values()}
    channels = {_channels(images, index) for index in found}
    if len(channels) != 1 or 0 in channels or len(shapes) > 1:
        return
    target, lengths = shape_of(tensors[operator.outputs[0]]), {tuple(lengths_of(tensors[index])) for index in found}
    is_open = len(lengths) > 1 and -1 in {length for each in lengths for length in each}
    # Two rows of one dimension and two of another would give four.
    if is_open or math.prod(target) != math.prod(shapes.pop()) or target[-1:] != [*channels]:
        return
    operator.inputs = np.array([found.get(index, index) for index in inputs], np.int32)
    operator.outputs = np.array([images.image_for(int(operator.outputs[0]), channels.pop())], np.int32)


def _split(images: OnePixelImages, operator: schema.OperatorT) -> None:
    source = inputs_of(operator)[1]
    if not _channels(images, source):
        return
    axis = images.constant([3], shape=())
    operator.inputs = np.array([axis, images.origin(source)], np.int32)
    targets = [(int(index), shape_of(images.graph.tensors[index])) for index in operator.outputs]
    operator.outputs = np.array([images.image_for(index, shape[-1]) for index, shape in targets], np.int32)


def _slice(images: OnePixelImages, operator: schema.OperatorT) -> None:
    """Cut channels out of an image, where all rows are taken."""
    source, *limits = inputs_of(operator)
    values = [_numbers(images, index) for index in limits]
    options = operator.builtinOptions
    if not isinstance(options, schema.StridedSliceOptionsT):
        return
    others = [options.ellipsisMask, options.newAxisMask, options.shrinkAxisMask, getattr(options, "offset", False)]
    masks = options.beginMask, options.endMask
    takes_all_rows = [mask & 1 for mask in masks] == [1, 1] and [len(value) for value in values] == [2, 2, 2]
    if any(others) or not takes_all_rows or values[2] != [1, 1] or not _channels(images, source):
        return
    target = int(operator.outputs[0])
    begin, end, strides = ([rest] * 3 + [value[1]] for rest, value in zip((0, 0, 1), values, strict=True))
    cut = [images.constant(numbers) for numbers in (begin, end, strides)]
    operator.inputs = np.array([images.origin(source), *cut], np.int32)
    channels = shape_of(images.graph.tensors[target])[-1]
    operator.outputs = np.array([images.image_for(target, channels)], np.int32)
    begin_mask, end_mask = (0b111 | (mask & 0b10) << 2 for mask in masks)
    operator.builtinOptions = schema.StridedSliceOptionsT(beginMask=begin_mask, endMask=end_mask)


def _channels(images: OnePixelImages, index: int) -> int:
    """Return the length of a tensor's last dimension if it was reshaped from an image with as many channels, or 0."""
    channels = images.channels(images.origin(index))
    return channels if shape_of(images.graph.tensors[index])[-1:] == [channels] else 0


def _is_spread(images: OnePixelImages, index: int) -> bool:
    """Tell whether a tensor is a constant that has at most one dimension, the last: it fits any image."""
    shape = shape_of(images.graph.tensors[index])
    return _is_constant(images, index) and len(shape) <= 4 and {*shape[:-1]} <= {1}


def _is_constant(images: OnePixelImages, index: int) -> bool:
    data = images.model.buffers[images.graph.tensors[index].buffer].data
    return data is not None and len(data) > 0


def _is_last_axis(images: OnePixelImages, operator: schema.OperatorT) -> bool:
    axis, source = inputs_of(operator)
    rank = len(shape_of(images.graph.tensors[source]))
    return _numbers(images, axis) in ([-1], [rank - 1])


def _numbers(images: OnePixelImages, index: int) -> list[int]:
    """Return a constant of whole numbers; an empty list if it is not known before the model runs."""
    tensor = images.graph.tensors[index]
    if not _is_constant(images, index) or tensor.type != schema.TensorType.INT32:
        return []
    return np.asarray(images.model.buffers[tensor.buffer].data, np.uint8).view("<i4").tolist()
