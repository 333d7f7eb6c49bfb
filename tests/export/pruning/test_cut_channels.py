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
