"""Files whose convolutions are sparse 1x1 convolutions between shifts: the same outputs, on sparse kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from file_graphs import SAME, VALID, FileGraph

from tfprune.export.device.runner import Runner
from tfprune.export.file import schema, xnnpack
from tfprune.export.file.document import add_constant, add_operator, operator_name, save_objects
from tfprune.export.file.model_file import ModelFile
from tfprune.export.rewriting import sparse_convolutions
from tfprune.export.rewriting.phases import runs_in_blocks
from tfprune.export.rewriting.rewrite import rewrite
from tfprune.export.rewriting.sparse_convolutions import spread_convolutions
from tfprune.export.rewriting.sparsify import sparsify

CLOSE = 1e-5  # of the largest output


def outputs(content: bytes, image: np.ndarray) -> list[np.ndarray]:
    found = Runner(content).predict(image)
    return [found] if isinstance(found, np.ndarray) else [*found]


def assert_same_outputs(before: bytes, after: bytes) -> None:
    shape = ModelFile.open(before).graph.inputs[0].shape
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for expected, found in zip(outputs(before, image), outputs(after, image), strict=True):
        np.testing.assert_allclose(found, expected, atol=CLOSE * np.abs(expected).max())


def spread(content: bytes) -> bytes:
    """Return the file with sparse weights after the rewriting, which all its groups take."""
    file, gain = spread_convolutions(ModelFile.open(content))
    assert gain >= 1.1
    stored = ModelFile.open(sparsify(file.content).data)
    assert stored.inference.active and not stored.hazards
    return stored.content


def layer(graph: FileGraph, x: int, channels: int, **options: Any) -> int:
    return graph.convolution(x, channels, zeros=0.95, **options)


def residual(graph: FileGraph) -> list[int]:
    x = layer(graph, graph.input, 32)
    x = graph.binary("ADD", x, layer(graph, layer(graph, x, 32), 32))
    x = graph.binary("ADD", layer(graph, layer(graph, x, 64, stride=2), 64), layer(graph, x, 64, size=1, stride=2))
    return [graph.dense(graph.mean(x), 10)]


def stem(graph: FileGraph) -> list[int]:
    x = graph.pool(layer(graph, graph.input, 32, size=7, stride=2), size=3, padding=SAME)
    return [graph.dense(graph.mean(layer(graph, layer(graph, x, 64), 64)), 10)]


def without_padding(graph: FileGraph) -> list[int]:
    x = layer(graph, layer(graph, graph.input, 32, padding=VALID), 64, padding=VALID)
    x = layer(graph, graph.pool(x), 64, padding=VALID)
    return [graph.dense(graph.flatten(layer(graph, x, 64, padding=VALID)), 10)]


def skips(graph: FileGraph) -> list[int]:
    fine = layer(graph, layer(graph, graph.input, 32), 32)
    coarse = layer(graph, layer(graph, graph.pool(fine), 64), 64)
    joined = graph.concatenation(graph.enlarged(coarse), fine)
    return [layer(graph, layer(graph, joined, 32), 2, size=1), graph.dense(graph.mean(coarse), 10)]


def gates(graph: FileGraph) -> list[int]:
    x = layer(graph, graph.input, 48, size=5)
    x = graph.binary("MUL", x, graph.unary("LOGISTIC", x))
    x = graph.pool(layer(graph, x, 64), "AVERAGE_POOL_2D")
    return [layer(graph, graph.depthwise(layer(graph, x, 64)), 64, groups=2)]


def squeezed(graph: FileGraph, x: int, *, reshapes: bool = False) -> int:
    """Multiply a map by a gate for each channel."""
    depth = graph.shape(x)[-1]
    pixel = graph.reshape(graph.mean(x), 1, 1, 1, depth) if reshapes else graph.mean(x, keeps=True)
    pixel = graph.convolution(graph.convolution(pixel, 8, size=1), depth, size=1)
    return graph.binary("MUL", x, graph.unary("LOGISTIC", pixel))


def normalized(graph: FileGraph, x: int) -> int:
    """Multiply and add a number for each channel, as batch normalization that was not folded."""
    depth = graph.shape(x)[-1]
    return graph.binary("ADD", graph.binary("MUL", x, graph.weights(depth)), graph.weights(1, 1, 1, depth))


def numbers(graph: FileGraph) -> list[int]:
    number = graph.constant(np.float32(0.1))
    x = graph.binary("SUB", layer(graph, graph.binary("MUL", graph.input, number), 48), number)
    x = layer(graph, normalized(graph, graph.binary("PRELU", x, graph.weights(1, 1, 48))), 64)
    x = squeezed(graph, graph.binary("SUB", number, graph.binary("MAXIMUM", x, number)))
    x = graph.binary("DIV", layer(graph, x, 64), number)
    x = squeezed(graph, graph.binary("SUB", x, layer(graph, x, 64)), reshapes=True)
    return [layer(graph, x, 32), graph.dense(graph.mean(x), 10)]


def pools(graph: FileGraph) -> list[int]:
    """Windows over maps with negative values, beyond the border of the image, and of single pixels."""
    x = graph.unary("TANH", layer(graph, graph.input, 48))
    x = graph.pool(layer(graph, x, 64), "AVERAGE_POOL_2D", size=3, padding=SAME, stride=1)
    x = graph.binary("SUB", x, graph.weights(64))
    x = graph.binary("ADD", graph.pool(x, size=3, padding=SAME), graph.pool(x, size=1))
    x = graph.concatenation(graph.pool(x, "AVERAGE_POOL_2D", size=3, padding=SAME), graph.pool(x, padding=SAME))
    return [layer(graph, x, 64)]


@pytest.mark.parametrize(
    "shape",
    [(1, 16, 16, 3), *(pytest.param(each, marks=pytest.mark.programs) for each in [(1, 24, 16, 1), (1, 16, 16, 40)])],
)
@pytest.mark.parametrize("network", [residual, stem, without_padding, skips, gates, numbers, pools])
def test_a_network_gives_the_same_outputs_and_runs_sparse(network, shape):
    graph = FileGraph(0, shape=shape)
    content = graph.content(*network(graph))
    assert_same_outputs(content, spread(content))


@pytest.mark.parametrize("shape", [(1, 31, 31, 3), (1, 30, 22, 20)])
def test_maps_of_odd_size(shape):
    graph = FileGraph(0, shape=shape)
    content = graph.content(layer(graph, layer(graph, layer(graph, graph.input, 48, stride=2), 64, stride=2), 64))
    assert_same_outputs(content, spread(content))


KINDS: dict[str, Callable[[FileGraph, int], int]] = {
    "dilation 2": lambda graph, x: layer(graph, x, 64, dilation=2),
    "5x5, dilation 2": lambda graph, x: layer(graph, x, 64, dilation=2, size=5),
    "1x7": lambda graph, x: layer(graph, x, 64, size=(1, 7)),
    "7x1": lambda graph, x: layer(graph, x, 64, size=(7, 1)),
    "7x7": lambda graph, x: layer(graph, x, 64, size=7),
    "7x7, stride 2": lambda graph, x: layer(graph, x, 64, size=7, stride=2),
    "unequal padding": lambda graph, x: layer(graph, graph.pad(x), 64, size=2, padding=VALID),
    "unequal padding, stride 2": lambda graph, x: layer(graph, graph.pad(x), 64, size=3, stride=2, padding=VALID),
    "depth multiplier 2": lambda graph, x: graph.depthwise(x, multiplier=2),
    "transposed 2x2": lambda graph, x: graph.transposed(x, 64, size=2, zeros=0.95),
    "transposed 3x3": lambda graph, x: graph.transposed(x, 64, size=3, zeros=0.95),
    "transposed 4x4": lambda graph, x: graph.transposed(x, 64, size=4, zeros=0.95),
    "bilinear": lambda graph, x: layer(graph, graph.resized(x), 64),
    "groups": lambda graph, x: layer(graph, x, 64, groups=4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_convolution_runs_in_the_group(kind):
    graph = FileGraph(0, shape=(1, 16, 16, 3))
    content = graph.content(layer(graph, KINDS[kind](graph, layer(graph, graph.input, 48)), 64))
    after = spread(content)
    assert_same_outputs(content, after)
    file = ModelFile.open(after)
    assert {row.kind for row in file.inference.rows if not row.sparse} <= {"PAD"}  # before the group
    graph = file.graph.subgraphs[0]
    kernels = [graph.tensors[each.inputs[1]].shape for each in graph.operators if each.name == "CONV_2D"]
    assert {shape[1:3] for shape in kernels} == {(3, 3), (1, 1)}
    assert [shape[3] for shape in kernels if shape[1:3] == (3, 3)] == [3]  # the beginning of the group


def test_a_first_convolution_without_zeros_runs_in_the_group_and_in_no_blocks_of_rows():
    graph = FileGraph(0, shape=(1, 32, 32, 3))
    content = graph.content(layer(graph, layer(graph, graph.convolution(graph.input, 32), 64), 64))
    file, _ = spread_convolutions(ModelFile.open(content))
    assert_same_outputs(content, file.content)
    weights = [each for each in file.graph.weights if each.shape[1:3] == (1, 1)]
    assert {each.shape[1:3] for each in file.graph.weights} == {(3, 3), (1, 1)} and len(weights) > 4
    assert not any(runs_in_blocks(each.values.raw.view("<f4").reshape(each.shape[0], -1)) for each in weights)


@pytest.mark.parametrize("reads", [FileGraph.mean, FileGraph.enlarged])
def test_an_image_of_odd_size_is_read_beside_its_convolutions(reads):
    graph = FileGraph(0, shape=(1, 31, 31, 3))
    x = layer(graph, layer(graph, layer(graph, graph.input, 48, stride=2), 64), 64)
    content = graph.content(reads(graph, graph.input), graph.dense(graph.mean(x), 5))
    assert_same_outputs(content, spread(content))


def test_a_root_is_not_drawn_where_a_map_has_no_meaning():
    graph = FileGraph(0, shape=(1, 32, 32, 3))
    x = graph.unary("SQRT", layer(graph, layer(graph, graph.input, 48), 64, padding=VALID))
    content = graph.content(layer(graph, layer(graph, x, 64, padding=VALID), 64, padding=VALID))
    after = spread(content)
    assert_same_outputs(content, after)
    graph = ModelFile.open(after).graph.subgraphs[0]
    assert [graph.tensors[each.inputs[0]].shape for each in graph.operators if each.name == "SQRT"] == [
        (1, 30, 30, 64)
    ]


def narrowed(content: bytes, kind: type[np.generic], *, slot: int = 1) -> bytes:
    """Store kernels (or biases) as float16, or as 8-bit integers with a step for each output, behind DEQUANTIZE."""
    model = ModelFile.open(content).objects()
    graph = model.subgraphs[0]
    for operator in [each for each in graph.operators if operator_name(model, each) in KERNELS]:
        index, axis = int(operator.inputs[slot]), 3 * (operator_name(model, operator) == "DEPTHWISE_CONV_2D")
        tensor = graph.tensors[index]
        values = np.moveaxis(model.buffers[tensor.buffer].data.view(np.float32).reshape(tensor.shape), axis, -1)
        steps = np.maximum(np.abs(values).max(axis=tuple(range(values.ndim - 1))), 1e-6) / 127
        grid = schema.QuantizationParametersT(quantizedDimension=axis)
        grid.scale, grid.zeroPoint = steps.astype(np.float32), np.zeros(len(steps), np.int64)
        small = np.moveaxis(np.rint(values / steps) if kind is np.int8 else values, -1, axis).astype(kind)
        stored = add_constant(model, graph, name=b"", values=np.ascontiguousarray(small))
        graph.tensors[stored].quantization = grid if kind is np.int8 else None
        tensor.buffer = 0
        add_operator(model, graph, name="DEQUANTIZE", inputs=[stored], outputs=[index])
    return save_objects(model)


KERNELS = ("CONV_2D", "DEPTHWISE_CONV_2D")


@pytest.mark.parametrize("kind", [np.float16, np.int8])
@pytest.mark.parametrize("network", [residual, gates])
def test_kernels_behind_dequantize_are_read_and_those_of_8_bits_keep_them(network, kind):
    graph = FileGraph(0, shape=(1, 16, 16, 3))
    whole = graph.content(*network(graph))
    content = narrowed(whole, kind)
    found = spread(content)
    assert_same_outputs(content, found)
    assert kind is np.float16 or len(found) < len(spread(whole)) - 3 * values_of(content)


def values_of(content: bytes) -> int:
    """The entries of its kernels that are not zero."""
    weights = ModelFile.open(content).graph.weights
    return sum(weight.nnz or 0 for weight in weights if len(weight.shape) == 4)


def drawn(seed: int, *, steps: int) -> bytes:
    """Return a random network of operators that have a form, and some that have none."""
    graph = FileGraph(seed, shape=(1, *[(16, 16, 3), (12, 8, 3), (15, 9, 3), (16, 16, 1), (16, 16, 20)][seed % 5]))
    random, x = graph.random, layer(graph, graph.input, 24)
    for _ in range(steps):
        depth, small = graph.shape(x)[-1], min(graph.shape(x)[1:3]) < 6
        draw = int(random.integers(0, 18))
        if draw < 3:
            size, padding = int(random.choice([1, 3, 3, 5])), VALID if random.random() < 0.4 and not small else SAME
            x = layer(graph, x, int(random.choice([16, 24, 40])), size=size, padding=padding)
        elif draw == 3 and not small:
            x = layer(graph, x, 32, stride=2)
        elif draw == 4:
            x = graph.binary("ADD", x, layer(graph, x, depth))
        elif draw == 5 and not small:
            stride = int(random.integers(1, 3))
            x = graph.pool(x, size=int(random.choice([1, 2, 3])), padding=SAME, stride=stride)
        elif draw == 6 and not small:
            size, padding, stride = random.choice([[2, VALID, 2], [3, SAME, 1], [2, SAME, 2], [3, SAME, 2]])
            x = graph.pool(x, "AVERAGE_POOL_2D", size=int(size), padding=int(padding), stride=int(stride))
        elif draw == 7:
            x = graph.concatenation(x, layer(graph, x, 8))
        elif draw == 8 and max(graph.shape(x)[1:3]) < 17:
            x = graph.enlarged(x)
        elif draw in (15, 16) and min(graph.shape(x)[1:3]) >= 2 and max(graph.shape(x)[1:3]) < 17:
            size = int(random.integers(2, 5))
            x = graph.resized(x) if draw == 15 else graph.transposed(x, 24, size=size, zeros=0.9)
        elif draw == 9:
            x = graph.binary("MUL", x, graph.unary("LOGISTIC", x))
        elif draw == 10:
            x = graph.depthwise(x, multiplier=int(random.integers(1, 3)))
        elif draw == 11:
            x = squeezed(graph, x, reshapes=random.random() < 0.5)
        elif draw == 12:
            x = normalized(graph, x)
        elif draw == 13:
            x = graph.binary("PRELU", x, graph.weights(1, 1, depth))
        elif draw == 14:
            x = graph.binary(["MAXIMUM", "SUB", "MUL"][int(random.integers(3))], x, graph.constant(np.float32(0.2)))
        else:
            x = graph.unary(["TANH", "RELU"][int(random.integers(2))], graph.pad(x) if random.random() < 0.3 else x)
    return graph.content(x if random.random() < 0.5 else graph.dense(graph.mean(x), 5))


@pytest.mark.parametrize(
    "seeds",
    [range(12), *(pytest.param(range(first, first + 30), marks=pytest.mark.slow) for first in range(12, 312, 30))],
)
def test_random_networks_give_the_same_outputs_wherever_a_group_begins(seeds, monkeypatch):
    monkeypatch.setattr(sparse_convolutions, "LEAST_GAIN", 0.0)
    rewritten = 0
    for seed in seeds:
        content = drawn(seed, steps=7)
        file, gain = spread_convolutions(ModelFile.open(content))
        if gain != 1.0:
            rewritten += 1
            assert_same_outputs(content, file.content)
            assert not ModelFile.open(sparsify(file.content).data).hazards
    assert rewritten >= len(seeds) / 2


def tiled(graph: FileGraph, x: int) -> int:
    return graph.operator("TILE", [x, graph.integers(1, 1, 1, 2)], (1, 16, 16, 128))


def with_a_fused_curve(graph: FileGraph, x: int) -> int:
    return graph.operator("SUB", [graph.constant(np.float32(1)), x], graph.shape(x), kind="SubOptions", **TANH)


def scaled_softmax(graph: FileGraph, x: int) -> int:
    return graph.operator("SOFTMAX", [x], graph.shape(x), kind="SoftmaxOptions", beta=2.0)


def skipping(graph: FileGraph, x: int) -> int:
    """Skip every third row and column, by a pool with strides beyond its window."""
    places = graph.operator("RESIZE_BILINEAR", [x, graph.integers(48, 48)], (1, 48, 48, 64), **BILINEAR)
    return graph.pool(places, size=2, stride=3, padding=SAME)


TANH, BILINEAR = {"fusedActivationFunction": 4}, {"kind": "ResizeBilinearOptions"}


@pytest.mark.parametrize("between", [tiled, with_a_fused_curve, scaled_softmax, skipping])
def test_operators_that_xnnpack_does_not_take_are_not_between_parts_of_a_group(between):
    """A file is cut in two there, and a group that goes across would give wrong outputs on ARM."""
    graph = FileGraph(0, shape=(1, 16, 16, 3))
    first = layer(graph, layer(graph, graph.input, 48), 64)
    cut = between(graph, first)
    content = graph.content(layer(graph, graph.concatenation(layer(graph, cut, 64), first), 64))
    file, _ = spread_convolutions(ModelFile.open(content))
    operators = file.graph.subgraphs[0].operators
    names = [operator.name for operator in operators]
    assert delegates(content) > 1
    behind = names[next(number for number, each in enumerate(operators) if cut in each.outputs) :]
    assert behind.count("CONV_2D") == 2 and "DEPTHWISE_CONV_2D" not in behind
    assert_same_outputs(content, file.content)


@pytest.mark.parametrize("is_first", [True, False])
def test_operators_that_xnnpack_does_not_take_may_come_before_all_that_it_takes(is_first):
    """As the mirrored image of sparse-ready files; behind an operator that it takes, they cut the file in parts."""
    graph = FileGraph(0, shape=(1, 16, 16, 3))
    image = graph.input if is_first else graph.unary("TANH", graph.input)
    mirrored = graph.operator("REVERSE_V2", [image, graph.integers(1, 2)], graph.shape(image))
    content = graph.content(layer(graph, layer(graph, layer(graph, mirrored, 48), 64), 64))
    if is_first:
        assert_same_outputs(content, spread(content))
    else:
        assert spread_convolutions(ModelFile.open(content))[1] == 1


def delegates(content: bytes) -> int:
    """Return the parts of a file that XNNPACK runs."""
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    return sum(each["op_name"] == "DELEGATE" for each in interpreter._get_ops_details())


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int8])
def test_a_kernel_of_zeros_stays_dense_and_its_file_runs_whole(kind):
    """A sparse tensor without values counts as one that is computed, and XNNPACK takes no such kernels."""
    graph = FileGraph(0, shape=(1, 16, 16, 3))
    x = layer(graph, graph.input, 48)
    kernel = graph.constant(np.zeros((48, 1, 1, 48), np.float32))
    empty = graph.operator("CONV_2D", [x, kernel, graph.weights(48)], graph.shape(x), kind="Conv2DOptions", **UNIT)
    content = graph.content(layer(graph, graph.binary("ADD", x, empty), 48))
    content = content if kind is np.float32 else narrowed(content, kind)
    stored = sparsify(content)
    assert [row.form for row in stored.rows if row.sparsity == 1] == ["dense"]
    assert delegates(stored.data) == delegates(content) == 1
    assert_same_outputs(content, stored.data)


UNIT = {"strideH": 1, "strideW": 1, "padding": VALID}


def test_sparse_kernels_of_float16_are_beside_biases_of_float16():
    """With biases of float32, LiteRT.js 2.5.3 gave wrong outputs: off by 0.2 and more, or NaN."""
    graph = FileGraph(0, shape=(1, 16, 16, 3))
    x = graph.convolution(graph.pad(graph.input, sides=1), 16, stride=2, padding=VALID)
    x = layer(graph, layer(graph, x, 64, size=1), 64, size=1)
    mixed = narrowed(graph.content(graph.dense(graph.mean(x), 10)), np.float16)
    refused = [row.reason for row in sparsify(mixed).rows if row.dtype == "float16"]
    assert len(refused) == 3 and any("store both as float16" in reason for reason in refused)
    stored = sparsify(narrowed(mixed, np.float16, slot=2))
    assert [row.form for row in stored.rows if row.shape == (64, 1, 1, 64)] == ["csr"]
    assert ModelFile.open(stored.data).inference.active and not ModelFile.open(stored.data).hazards


def several(graph: FileGraph, x: int) -> int:
    return graph.concatenation(*[x] * 6)


def few(graph: FileGraph, x: int) -> int:
    return graph.concatenation(*[x] * 5)


def same_pixels(graph: FileGraph, x: int) -> int:
    return graph.pool(x, size=1, stride=1)


def every_second(graph: FileGraph, x: int) -> int:
    return graph.pool(x, size=1)


@pytest.mark.parametrize(
    "between", [tiled, with_a_fused_curve, scaled_softmax, several, few, same_pixels, every_second]
)
def test_hazards_know_where_xnnpack_cuts_a_file(between):
    graph = FileGraph(0, shape=(1, 16, 16, 64))
    content = graph.content(layer(graph, between(graph, layer(graph, graph.input, 64)), 8))
    (analysis,) = ModelFile.open(content).analyses
    steps = [(step.is_delegated, step.inputs, step.outputs) for step in analysis.steps]
    assert len(xnnpack.delegated_parts(steps)) == delegates(content)


def unchanged(graph: FileGraph, *made: int) -> bool:
    file = ModelFile.open(graph.content(*made))
    return spread_convolutions(file) == (file, 1.0)


def test_files_that_would_not_be_faster_stay_as_they_are():
    dense, open_batch, vector = FileGraph(0, shape=(1, 16, 16, 3)), FileGraph(0, shape=(1, 16, 16, 3)), FileGraph(0)
    assert unchanged(dense, dense.mean(dense.convolution(dense.convolution(dense.input, 32), 32)))
    made = layer(open_batch, layer(open_batch, open_batch.input, 48), 64)
    for tensor in open_batch.graph.tensors:
        if len(tensor.shape) == 4 and tensor.buffer == 0:
            tensor.shapeSignature = np.array([-1, *tensor.shape[1:]], np.int32)
    assert unchanged(open_batch, made)
    assert unchanged(vector, vector.dense(vector.flatten(vector.input), 10))


@pytest.mark.programs
def test_rewrite_takes_the_form_for_the_fewest_milliseconds_alone(tmp_path):
    graph = FileGraph(0, shape=(1, 16, 16, 3))
    (tmp_path / "old.tflite").write_bytes(graph.content(*residual(graph)))
    fast = rewrite(tmp_path / "old.tflite", tmp_path / "fast.tflite", optimize="latency")
    small = rewrite(tmp_path / "old.tflite", tmp_path / "small.tflite")
    assert fast.sparse_inference.active and not small.sparse_inference.active
    assert any("times as fast" in form.name and not form.reason for form in fast.candidates)
