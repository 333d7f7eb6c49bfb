"""A file without some channels gives what the file with zeros in their place gives, as the runtime says."""

import numpy as np
import pytest
from file_graphs import FileGraph, grown

from tfprune.export.file import schema
from tfprune.export.file.document import load_objects, operator_name, save_objects
from tfprune.export.pruning.channels import file_channels, mixing_layers
from tfprune.export.pruning.pieces import PieceRunner, Pieces
from tfprune.export.pruning.shrink import _cut_channels, _read_bundles


def analyzed(content):
    pieces = Pieces(load_objects(content))
    layers = mixing_layers(pieces)
    return pieces, layers, file_channels(pieces, layers)


def removable(group):
    return group.bundles[:0] if group.stuck else group.free_part().bundles


def chosen(channels, random):
    """Remove channels at random, and leave one of each group and of each part of it."""
    keep = channels.all_kept()
    for group in channels.groups:
        free = removable(group)
        gone = free[random.random(len(free)) < 0.5]
        keep[gone] = False
        for part in (group.bundles, *group.parts):
            if not keep[part].any():
                keep[part[0]] = True
    return keep


def zeroed(content, keep):
    """Return the file with zeros where an operator reads a channel that goes."""
    pieces, layers, channels = analyzed(content)
    for layer in layers:
        weights = layer.weights.copy()
        weights[..., : layer.inputs][..., np.isin(_read_bundles(channels, layer), np.flatnonzero(~keep))] = 0
        layer.write(pieces, weights, layer.stored)
    return save_objects(pieces.model)


def outputs(content, x):
    pieces = Pieces(load_objects(content))
    runner = PieceRunner(pieces.cut(0, len(pieces.steps)))
    return [*runner.run({pieces.inputs[0]: x}).values()]


def check(content, keep, x=None):
    pieces, _, channels = analyzed(content)
    assert channels.flops(keep) < channels.flops(channels.all_kept())
    _cut_channels(channels, keep)
    small = save_objects(pieces.model)
    assert len(small) < len(content)
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32) if x is None else x
    for ours, theirs in zip(outputs(small, x), outputs(zeroed(content, keep), x), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())
    return small


@pytest.mark.parametrize("seed", range(24))
def test_random_networks(seed):
    graph = FileGraph(seed)
    content = graph.content(grown(graph, steps=5))
    _, _, channels = analyzed(content)
    assert not all(group.stuck for group in channels.groups), [group.reason for group in channels.groups]
    keep = chosen(channels, np.random.default_rng(seed))
    small = check(content, keep)
    _, _, again = analyzed(small)
    assert again.flops(again.all_kept()) == channels.flops(keep)


def kept_without(channels, name, gone):
    keep = channels.all_kept()
    (group,) = (group for group in channels.groups if group.name == name)
    keep[removable(group)[gone]] = False
    return keep


def test_columns_of_a_table():
    graph = FileGraph(0, shape=(1, 5))
    graph.graph.tensors[graph.input].type = schema.TensorType.INT32
    table = graph.weights(7, 8)
    rows = graph.operator("GATHER", [table, graph.input], (1, 5, 8), kind="GatherOptions", axis=0)
    pooled = graph.operator("MEAN", [rows, graph.integers(1)], (1, 8), kind="ReducerOptions", keepDims=False)
    content = graph.content(graph.dense(pooled, 4))
    _, _, channels = analyzed(content)
    keep = kept_without(channels, f"constant_{table}", [0, 3, 4])
    small = check(content, keep, np.array([[6, 0, 2, 2, 5]], np.int32))
    assert (7, 5) in [tuple(tensor.shape) for tensor in load_objects(small).subgraphs[0].tensors]


def test_channels_of_zeros_go_with_those_that_they_meet():
    graph = FileGraph(0)
    x = graph.convolution(graph.input, 4)
    wide = graph.pad(x, channels=(0, 4))
    met = graph.binary("ADD", wide, graph.convolution(wide, 8))
    content = graph.content(graph.dense(graph.mean(met), 4))
    _, _, channels = analyzed(content)
    (group, _) = channels.groups
    assert group.free.tolist() == [True] * 8
    keep = channels.all_kept()
    keep[group.bundles[[1, 5, 6]]] = False
    model = load_objects(check(content, keep))
    (pad,) = (each for each in model.subgraphs[0].operators if operator_name(model, each) == "PAD")
    pads = model.buffers[model.subgraphs[0].tensors[pad.inputs[1]].buffer].data
    assert np.asarray(pads, np.uint8).view("<i4").tolist()[6:] == [0, 2]


def packed_then_heads(graph, x, *, heads, take):
    """Queries, keys and values from one kernel, split first into these three, then into heads."""
    _, count, width = graph.shape(x)
    packed = graph.reshape(graph.projected(x, 3 * width), count, 1, 3, width)
    moved = graph.transpose(packed, 2, 0, 1, 3)
    parts = [graph.reshape(take(moved, 0, index), count, heads, width // heads) for index in range(3)]
    return [graph.transpose(part, 1, 0, 2) for part in parts]


def packed_with_heads(graph, x, *, heads):
    """The same, with the heads split off at once."""
    _, count, width = graph.shape(x)
    packed = graph.reshape(graph.projected(x, 3 * width), 1, count, 3, heads, width // heads)
    return graph.unstacked(graph.transpose(packed, 2, 0, 3, 1, 4), 0)


def three_kernels(graph, x, *, heads):
    _, count, width = graph.shape(x)
    parts = [graph.reshape(graph.projected(x, width), 1, count, heads, width // heads) for _ in range(3)]
    return [graph.transpose(part, 0, 2, 1, 3) for part in parts]


def one_key(graph, x, *, heads):
    """Queries that share their only key and value."""
    _, count, width = graph.shape(x)
    query = graph.transpose(graph.reshape(graph.projected(x, width), 1, count, heads, width // heads), 0, 2, 1, 3)
    return [
        query,
        *(graph.reshape(graph.projected(x, width // heads), 1, 1, count, width // heads) for _ in range(2)),
    ]


SPELLINGS = {
    "SLICE": lambda graph, x, heads: packed_then_heads(graph, x, heads=heads, take=graph.part),
    "GATHER": lambda graph, x, heads: packed_then_heads(graph, x, heads=heads, take=graph.picked),
    "UNPACK": lambda graph, x, heads: packed_with_heads(graph, x, heads=heads),
    "three kernels": lambda graph, x, heads: three_kernels(graph, x, heads=heads),
    "one key": lambda graph, x, heads: one_key(graph, x, heads=heads),
}


def attention(graph, spelling, *, heads=4):
    """Return a network with attention over 16 positions of 24 channels, and the tensor of its output."""
    images = graph.convolution(graph.input, 24, stride=2)
    x = graph.reshape(graph.transpose(images, 0, 3, 1, 2), 1, 24, 16)
    x = graph.transpose(x, 0, 2, 1)
    query, key, value = SPELLINGS[spelling](graph, x, heads)
    query = graph.binary("MUL", query, graph.constant(np.array(0.4, np.float32)))
    if spelling == "SLICE":  # keys are transposed by an operator
        order = (0, 1, 3, 2)
        wide = graph.reshape(key, 1, *graph.shape(key))
        scores = graph.product(query, graph.reshape(graph.transpose(wide, *order), heads, 6, 16))
    else:
        scores = graph.product(query, key, transposed=True)
    weights = graph.operator("SOFTMAX", [scores], graph.shape(scores), kind="SoftmaxOptions", beta=1.0)
    seen = graph.reshape(graph.product(weights, value), 1, heads, 16, 6)
    joined = graph.reshape(graph.transpose(seen, 2, 0, 1, 3), 16, 24)  # positions in place of samples
    return graph.binary("ADD", x, graph.projected(joined, 24))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_heads_go_whole(spelling):
    """Of a kernel that makes queries, keys and values, a quarter of the rows goes with each head."""
    graph = FileGraph(0)
    x = attention(graph, spelling)
    content = graph.content(graph.dense(graph.reshape(x, 1, 16 * 24), 4))
    _, _, channels = analyzed(content)
    (group,) = (group for group in channels.groups if len(group.bundles) == 4 and not group.stuck)
    keep = channels.all_kept()
    keep[group.bundles[[0, 2]]] = False
    kernel_shapes = {tuple(tensor.shape) for tensor in load_objects(check(content, keep)).subgraphs[0].tensors}
    assert (24, 12) in kernel_shapes  # what joins the heads again
    assert ((36, 24) in kernel_shapes) == (spelling in ("SLICE", "GATHER", "UNPACK"))


def test_positions_of_kernels_are_counted_wherever_they_are():
    """16 positions see 8 kernels of 24 by 24, whether they stand behind the sample or in its place."""
    graph = FileGraph(0)
    x = graph.reshape(graph.convolution(graph.input, 24, stride=2), 1, 16, 24)
    before = graph.projected(x, 24)
    flat = graph.projected(graph.reshape(before, 16, 24), 24)
    _, _, channels = analyzed(graph.content(graph.dense(graph.reshape(flat, 1, 384), 4)))
    convolution, last = 16 * 24 * 9 * 3, 384 * 4
    assert channels.flops(channels.all_kept()) == 2 * (convolution + 2 * 16 * 24 * 24 + last)


def test_operations_are_those_of_one_sample_of_a_batch():
    graph = FileGraph(0, shape=(4, 8))
    x = graph.operator("FULLY_CONNECTED", [graph.input, graph.weights(6, 8), -1], (4, 6))
    x = graph.operator("FULLY_CONNECTED", [x, graph.weights(5, 6), -1], (4, 5))
    _, _, channels = analyzed(graph.content(x))
    assert channels.flops(channels.all_kept()) == 2 * (8 * 6 + 6 * 5)


def test_a_constant_beside_channels_has_them_too():
    """A token that is put before the positions loses its entries with theirs."""
    graph = FileGraph(0)
    x = graph.reshape(graph.convolution(graph.input, 24, stride=2), 1, 16, 24)
    token = graph.weights(1, 1, 24)
    joined = graph.operator("CONCATENATION", [token, x], (1, 17, 24), kind="ConcatenationOptions", axis=1)
    content = graph.content(graph.dense(graph.reshape(graph.projected(joined, 6), 1, 17 * 6), 4))
    _, _, channels = analyzed(content)
    group = channels.groups[0]
    assert group.free.all() and len(group.bundles) == 24
    keep = channels.all_kept()
    keep[group.bundles[3:10]] = False
    assert (1, 1, 17) in {tuple(tensor.shape) for tensor in load_objects(check(content, keep)).subgraphs[0].tensors}


@pytest.mark.parametrize("transposed", [False, True])
def test_channels_that_a_product_adds_up_stay(transposed):
    graph = FileGraph(0)
    x = graph.reshape(graph.convolution(graph.input, 24, stride=2), 1, 16, 24)
    query, key = graph.projected(x, 8), graph.projected(x, 8)
    key = key if transposed else graph.transpose(key, 0, 2, 1)
    scores = graph.product(query, key, transposed=transposed)
    value = graph.projected(x, 8)
    content = graph.content(graph.dense(graph.reshape(graph.product(scores, value), 1, 128), 4))
    _, _, channels = analyzed(content)
    reasons = [group.reason for group in channels.groups]
    added = "BATCH_MATMUL: it adds up channels without a kernel"
    assert reasons == [None, added, added, None, "an output of the file"]
    check(content, chosen(channels, np.random.default_rng(0)))


def recurrent(graph, first):
    """Read 16 positions of 6 channels one by one, with a state of 8, and return the last state."""
    x = graph.reshape(graph.convolution(graph.input, 6, stride=2), 16, 1, 6)

    def body(inner, states):
        counter, state, positions = states
        seen = inner.operator("GATHER", [positions, counter], (1, 6), kind="GatherOptions", axis=0)
        added = inner.binary("ADD", inner.projected(seen, 8), inner.projected(state, 8))
        return [inner.unary("TANH", added), positions]

    return graph.loop(16, [first, x], body)[0]


def test_what_a_loop_keeps_loses_channels():
    """Its state and the constant that it begins with, and the channels that it reads."""
    graph = FileGraph(0)
    last = recurrent(graph, graph.weights(1, 8))
    content = graph.content(graph.dense(last, 4))
    _, _, channels = analyzed(content)
    assert [(len(group.bundles), int(group.free.sum())) for group in channels.groups] == [(6, 6), (8, 8), (4, 0)]
    convolution, turn = 16 * 6 * 9 * 3, 8 * 6 + 8 * 8
    assert channels.flops(channels.all_kept()) == 2 * (convolution + 16 * turn + 8 * 4)
    keep = channels.all_kept()
    keep[np.concatenate([channels.groups[0].bundles[[1, 2]], channels.groups[1].bundles[[0, 5, 6]]])] = False
    shapes = [
        {tuple(tensor.shape) for tensor in each.tensors} for each in load_objects(check(content, keep)).subgraphs
    ]
    assert (1, 5) in shapes[0] and {(5, 5), (5, 4), (1, 5), (16, 1, 4)} <= shapes[2]
    assert all({(1, 5), (16, 1, 4)} <= each for each in shapes)


def test_a_loop_that_begins_with_what_is_fixed_keeps_it():
    graph = FileGraph(0, shape=(1, 8, 8, 3))
    first = graph.operator(
        "MEAN", [graph.reshape(graph.input, 24, 8), graph.integers(0)], (1, 8), kind="ReducerOptions", keepDims=True
    )
    _, _, channels = analyzed(graph.content(graph.dense(recurrent(graph, first), 4)))
    reasons = [group.reason for group in channels.groups]
    assert reasons == [None, "WHILE: it begins with what is fixed", "an output of the file"]
