"""Layers that run strip by strip along an image: equal outputs, less RAM, and what is refused."""

import math

import numpy as np
import pytest
from file_graphs import NONE, SAME, VALID, FileGraph
from hypothesis import given, settings
from hypothesis import strategies as st

from tfprune.export.file import schema
from tfprune.export.file.document import NamedTensors, load_objects, operator_name, save_objects
from tfprune.export.micro.interpreter import run_files
from tfprune.export.micro.memory import _in_strips, _regions

SCALE, ZERO = 0.1, 7  # of all images in int8 files
PADDINGS = st.sampled_from([SAME, VALID])


def window(graph, x, kind, size, stride, dilation, padding):
    """Add a depthwise convolution, or a pool, with windows of any form."""
    reach = dilation * (size - 1) + 1
    count, height, width, depth = graph.shape(x)
    less = 0 if padding == SAME else reach - 1
    shape = (count, -(-(height - less) // stride), -(-(width - less) // stride), depth)
    options = {"strideH": stride, "strideW": stride, "padding": padding, "fusedActivationFunction": NONE}
    if kind != "DEPTHWISE_CONV_2D":
        return graph.operator(kind, [x], shape, kind="Pool2DOptions", filterHeight=size, filterWidth=size, **options)
    options |= {"dilationHFactor": dilation, "dilationWFactor": dilation, "depthMultiplier": 1}
    inputs = [x, graph.weights(1, size, size, depth), graph.weights(depth)]
    return graph.operator(kind, inputs, shape, kind="DepthwiseConv2DOptions", **options)


def padded(graph, x, rows, columns):
    count, height, width, depth = graph.shape(x)
    margins = graph.constant(np.array([(0, 0), rows, columns, (0, 0)], np.int32))
    shape = (count, height + sum(rows), width + sum(columns), depth)
    return graph.operator("PAD", [x, margins], shape, kind="PadOptions")


def grown(graph, x, step):
    """Add the operators of a drawn step."""
    kind, size, stride, dilation, padding = step
    if kind == "residual":
        made = graph.convolution(x, graph.shape(x)[-1], size=size)
        return graph.binary("ADD", x, made)
    if kind == "both":
        made = [graph.convolution(x, 3, size=size, stride=stride), graph.convolution(x, 2, size=1, stride=stride)]
        return graph.concatenation(*made)
    if kind == "PAD":
        return padded(graph, x, (stride - 1, dilation), (1, 0))
    if kind in ("RELU", "HARD_SWISH"):
        return graph.unary(kind, x)
    if padding == VALID and min(graph.shape(x)[1:3]) < dilation * (size - 1) + 1:
        padding = SAME
    if kind == "CONV_2D":
        return graph.convolution(x, 4, size=size, stride=stride, dilation=dilation, padding=padding)
    return window(graph, x, kind, size, stride, dilation if kind == "DEPTHWISE_CONV_2D" else 1, padding)


def as_int8(content):
    """Return an int8 file of a float one: with one scale for all images, and one for each filter."""
    model = load_objects(content)
    graph = model.subgraphs[0]
    for operator in graph.operators:
        if len(operator.inputs) == 3:
            _, weight, bias = (graph.tensors[index] for index in operator.inputs)
            axis = 3 if operator_name(model, operator) == "DEPTHWISE_CONV_2D" else 0
            values, addends = (model.buffers[each.buffer].data.view("<f4") for each in (weight, bias))
            values = np.moveaxis(values.reshape(weight.shape), axis, -1)
            scales = np.abs(values).max((0, 1, 2)) / 127
            store(model, weight, np.moveaxis(np.round(values / scales), -1, axis).astype(np.int8), scales, axis=axis)
            store(model, bias, np.round(addends / (SCALE * scales)).astype(np.int32), SCALE * scales)
    for tensor in graph.tensors:
        if tensor.type == schema.TensorType.FLOAT32:
            store(model, tensor, np.zeros(0, np.int8), [SCALE], zero=ZERO)
    for code in model.operatorCodes:
        code.version = 3
    return save_objects(model)


def store(model, tensor, values, scales, *, zero=0, axis=0):
    tensor.type = getattr(schema.TensorType, values.dtype.name.upper())
    points = np.full(len(scales), zero, np.int64)
    tensor.quantization = schema.QuantizationParametersT(
        scale=np.asarray(scales, np.float32), zeroPoint=points, quantizedDimension=axis
    )
    if values.size:
        model.buffers[tensor.buffer].data = np.frombuffer(values.tobytes(), np.uint8)


def in_strips(content, pick):
    """Return the file with one of its regions in strips, or None if there are none."""
    model = load_objects(content)
    file = NamedTensors(model)
    choice = [
        strips
        for region in _regions(file)
        for count in range(2, min(10, region.operators[-1].heights[1]) + 1)
        if (strips := _in_strips(file, region, count, math.inf)) is not None
    ]
    if not choice:
        return None
    strips = choice[pick % len(choice)]
    model.subgraphs[0].operators[strips.region.place : strips.end] = strips.write(file)
    return save_objects(model)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["CONV_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "AVERAGE_POOL_2D", "PAD", "RELU", "HARD_SWISH"]
            + ["residual", "both"]
        ),
        st.integers(1, 5),
        st.integers(1, 2),
        st.integers(1, 2),
        PADDINGS,
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=8, deadline=None)
@given(STEPS, st.integers(7, 33), st.booleans(), st.lists(st.integers(0, 10**6), min_size=4, max_size=4))
def test_any_chain_gives_the_same_outputs_in_strips(steps, height, integers, picks):
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed (extra `micro`)")
    graph = FileGraph(0, shape=(1, height, 9, 3))
    x = graph.input
    for step in steps:
        x = grown(graph, x, step)
    content = graph.content(x)
    content = as_int8(content) if integers else content
    files = [file for pick in picks if (file := in_strips(content, pick)) is not None]
    samples = np.random.default_rng(1).normal(size=(2, height, 9, 3)).astype(np.float32) * 3
    before, *runs = run_files([content, *files], [samples])
    assert not before.reason
    assert [run.reason for run in runs] == [""] * len(runs)
    assert all(run.equals(before) for run in runs)
