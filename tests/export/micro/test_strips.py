"""Layers that run strip by strip along an image: equal outputs, less RAM, and which layers cannot."""

import math
import shutil
from collections import Counter

import numpy as np
import pytest
from file_graphs import NONE, SAME, VALID, FileGraph
from hypothesis import given, settings
from hypothesis import strategies as st

from tfprune.export import Micro, rewrite
from tfprune.export.file import schema
from tfprune.export.file.document import NamedTensors, load_objects, operator_name, put_in_order, save_objects
from tfprune.export.file.model_file import ModelFile
from tfprune.export.micro.interpreter import chip_arena, kept_bytes, layout_bytes, run_files
from tfprune.export.micro.memory import _in_strips, _regions, split_rows
from tfprune.export.micro.reports import firmwares

MISSING = "tflite-micro is not installed (extra `micro`)"
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


@pytest.mark.programs
@settings(max_examples=6, deadline=None)
@given(STEPS, st.integers(7, 33), st.booleans(), st.lists(st.integers(0, 10**6), min_size=4, max_size=4))
def test_any_chain_gives_the_same_outputs_in_strips(steps, height, integers, picks):
    pytest.importorskip("tflite_micro", reason=MISSING)
    graph = FileGraph(0, shape=(1, height, 9, 3))
    x = graph.input
    for step in steps:
        x = grown(graph, x, step)
    content = graph.content(x)
    content = as_int8(content) if integers else content
    files = [file for pick in picks if (file := in_strips(content, pick)) is not None]
    files.append(split(content, excess=picks[0])[0])
    samples = np.random.default_rng(1).normal(size=(2, height, 9, 3)).astype(np.float32) * 3
    before, *runs = run_files([content, *files], [samples])
    assert not before.reason
    assert [run.reason for run in runs] == [""] * len(runs)
    assert all(run.equals(before) for run in runs)


@pytest.mark.programs
@pytest.mark.parametrize(("height", "integers"), [(29, False), (32, True)])
def test_every_part_of_a_chain_runs_in_strips(height, integers):
    """With strides of 2, whose windows do not begin at each row, and windows that are padded."""
    pytest.importorskip("tflite_micro", reason=MISSING)
    graph = FileGraph(1, shape=(1, height, 9, 3))
    x = graph.convolution(graph.input, 4, stride=2)
    x = grown(graph, x, ("AVERAGE_POOL_2D", 3, 1, 1, SAME))
    x = grown(graph, x, ("DEPTHWISE_CONV_2D", 4, 2, 1, SAME))
    content = graph.content(grown(graph, x, ("PAD", 1, 2, 2, SAME)))
    content = as_int8(content) if integers else content
    files, places = [], set()
    for count in (2, 3):
        model = load_objects(content)
        file = NamedTensors(model)
        for region in [*_regions(file)]:
            strips = _in_strips(file, region, count, math.inf)
            if strips is not None:
                changed = load_objects(content)
                changed.subgraphs[0].operators[region.place : strips.end] = strips.write(NamedTensors(changed))
                files.append(save_objects(changed))
                places.add((region.place, strips.end))
    assert len(places) == 10  # of four operators
    samples = np.random.default_rng(1).normal(size=(2, height, 9, 3)).astype(np.float32) * 3
    before, *runs = run_files([content, *files], [samples])
    assert [run.reason for run in [before, *runs]] == [""] * (1 + len(files))
    assert all(run.equals(before) for run in runs)


def plain(*, integers=True):
    """Return a file with convolutions and pools, whose first images take most RAM."""
    graph = FileGraph(3, shape=(1, 80, 48, 2))
    x = graph.input
    for channels in (8, 12, 16):
        x = graph.pool(graph.convolution(x, channels))
    content = graph.content(graph.mean(x))
    return as_int8(content) if integers else content


def samples_of(content, *, count=3):
    shape = ModelFile(content).graph.inputs[0].shape[1:]
    return np.random.default_rng(4).normal(size=(count, *shape)).astype(np.float32) * 3


def split(content, *, excess):
    model = load_objects(content)
    extra = split_rows(model, excess=excess)
    put_in_order(model)  # without the images that nothing makes any more
    return save_objects(model), extra


@pytest.mark.programs
def test_a_budget_that_no_file_keeps_to_lets_layers_run_in_strips(tmp_path):
    pytest.importorskip("tflite_micro", reason=MISSING)
    content, path = plain(), tmp_path / "small.tflite"
    x = samples_of(content)
    whole = rewrite(content, path, target="micro", check_on=x).micro
    assert whole.extra_work is None and "strip" not in str(whole)
    budget = int(0.7 * whole.arena)
    report = rewrite(content, path, target=Micro(arena=budget), check_on=x).micro
    assert report.arena <= budget and 0 < report.extra_work < 0.3
    assert f"layers run strip by strip                                  {1 + report.extra_work:.2f}"[:24] in str(
        report
    )
    assert (whole.flash, whole.arena) in report.curve
    assert [row.reason for row in report.rows].count("it runs strip by strip") >= 1
    assert len(report.rows) == 3  # each weight once
    before, after = run_files([content, path], [x])
    assert after.equals(before) and np.unique(before.raw[0]).size > 10
    again = rewrite(path, tmp_path / "again.tflite", target="micro", check_on=x).micro
    assert again.arena <= report.arena


@pytest.mark.programs
def test_a_budget_that_strips_do_not_keep_to_either_is_refused_with_the_least(tmp_path):
    pytest.importorskip("tflite_micro", reason=MISSING)
    content = plain()
    whole = rewrite(content, tmp_path / "whole.tflite", target="micro").micro
    with pytest.raises(ValueError, match="Expected a file for arena=2,000 bytes") as refusal:
        rewrite(content, tmp_path / "small.tflite", target=Micro(arena=2000))
    least = int(str(refusal.value).split("the smallest arena is ")[1].split(" ")[0].replace(",", ""))
    assert least < 0.8 * whole.arena


@pytest.mark.parametrize("integers", [True, False])
def test_the_layout_and_what_is_kept_are_those_of_the_interpreter(integers):
    pytest.importorskip("tflite_micro", reason=MISSING)
    pytest.importorskip("mcufit", reason="mcufit is not installed: see the extra `micro`")
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    content = plain(integers=integers)
    size = layout_bytes(load_objects(content).subgraphs[0])
    files = [content, *(split(content, excess=int(part * size))[0] for part in (0.1, 0.3, 1.0))]
    runs = run_files(files, [samples_of(content)])
    chips = [chip_arena(ModelFile(file), run) for file, run in zip(files, runs, strict=True)]
    models = [load_objects(file) for file in files]
    assert [chip.activations for chip in chips] == [layout_bytes(model.subgraphs[0]) for model in models]
    kept = [kept_bytes(model, model.subgraphs[0]) for model in models]
    for chip, size in zip(chips[1:], kept[1:], strict=True):
        assert size - kept[0] == pytest.approx(chip.persistent - chips[0].persistent, rel=0.1)
    assert all(run.equals(runs[0]) for run in runs)


def multiplications(content):
    """Count those of convolutions by the shapes in a file."""
    model = load_objects(content)
    graph = model.subgraphs[0]
    total = 0
    for operator in graph.operators:
        if operator_name(model, operator) == "CONV_2D":
            output, weight = (graph.tensors[int(index)].shape for index in (operator.outputs[0], operator.inputs[1]))
            total += int(np.prod(output)) * int(np.prod(weight[1:]))
    return total


def test_the_extra_work_is_that_of_the_rows_that_are_computed_again():
    content = plain()
    small, extra = split(content, excess=10**6)
    assert extra == pytest.approx(multiplications(small) / multiplications(content) - 1, abs=0.01)
    assert 0 < extra <= 0.3
    eased, less = split(content, excess=2000)
    assert 0 <= less < extra and len(eased) < len(small)


def test_all_firmware_has_the_operators_of_strips():
    small, _ = split(plain(), excess=10**6)
    assert {"CONCATENATION", "STRIDED_SLICE"} <= {*ModelFile(small).graph.ops}
    for firmware in firmwares().values():
        assert {*ModelFile(small).graph.ops} <= {*firmware.operators}


def test_where_nothing_can_run_in_strips_nothing_changes():
    graph = FileGraph(0, shape=(1, 8, 8, 3))
    x = graph.transpose(graph.convolution(graph.input, 8), 0, 2, 1, 3)
    wide = graph.convolution(graph.mean(x, keeps=True), 16, size=1)  # of one row
    content = graph.content(wide, x)
    model = load_objects(content)
    operators = [*model.subgraphs[0].operators]
    assert split_rows(model, excess=10**6) is None
    assert model.subgraphs[0].operators == operators


def regions_of(graph, *outputs):
    file = NamedTensors(load_objects(graph.content(*outputs)))
    return Counter(
        tuple(operator_name(file.model, each.operator) for each in region.operators) for region in _regions(file)
    )


def test_a_region_has_one_image_that_is_taken_later():
    graph = FileGraph(0)
    first = graph.convolution(graph.input, 4)
    second = graph.unary("RELU", first)
    third = graph.binary("ADD", first, second)
    assert regions_of(graph, third) == {
        ("CONV_2D",): 1,
        ("RELU",): 1,
        ("RELU", "ADD"): 1,
        ("CONV_2D", "RELU", "ADD"): 1,
    }
    assert ("CONV_2D", "RELU", "ADD") not in regions_of(graph, third, second)


def test_a_constant_with_rows_is_not_cut():
    graph = FileGraph(0)
    x = graph.binary("ADD", graph.input, graph.weights(1, 8, 1, 1))
    assert not regions_of(graph, x)
    graph = FileGraph(0)
    x = graph.binary("ADD", graph.input, graph.weights(1, 1, 1, 3))
    assert regions_of(graph, x) == {("ADD",): 1}
