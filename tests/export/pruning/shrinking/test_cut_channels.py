"""A file without some channels gives what the file with zeros in their place gives, as the runtime says."""

import numpy as np
import pytest
from file_graphs import FileGraph, grown

from tfprune.export.file.tflite.editor import load_objects, save_objects
from tfprune.export.pruning.layers.pieces import PieceRunner, Pieces
from tfprune.export.pruning.shrinking.channel_groups import FileChannels, mixing_layers
from tfprune.export.pruning.shrinking.cut_channels import cut_channels
from tfprune.export.pruning.shrinking.rank_groups import read_bundles


def analyzed(content):
    pieces = Pieces(load_objects(content))
    layers = mixing_layers(pieces)
    return pieces, layers, FileChannels(pieces, layers)


def chosen(channels, random):
    """Remove channels at random, and leave one of each part."""
    keep = channels.all_kept()
    for group in channels.groups:
        gone = group.free[random.random(len(group.free)) < 0.5]
        keep[gone] = False
        for part in group.parts:
            if not keep[part].any():
                keep[part[0]] = True
    return keep


def zeroed(content, keep):
    """Return the file with zeros where an operator reads a channel that goes."""
    pieces, layers, channels = analyzed(content)
    for layer in layers:
        weights = layer.weights.copy()
        weights[..., : layer.inputs][..., np.isin(read_bundles(channels, layer), np.flatnonzero(~keep))] = 0
        layer.write(pieces, weights, layer.stored)
    return save_objects(pieces.model)


def outputs(content, x):
    pieces = Pieces(load_objects(content))
    runner = PieceRunner(pieces.cut(0, len(pieces.steps)))
    return [*runner.run({pieces.inputs[0]: x}).values()]


def check(content, keep):
    pieces, _, channels = analyzed(content)
    assert channels.flops(keep) < channels.flops(channels.all_kept())
    cut_channels(channels, keep)
    small = save_objects(pieces.model)
    assert len(small) < len(content)
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
    for ours, theirs in zip(outputs(small, x), outputs(zeroed(content, keep), x), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())
    return small


@pytest.mark.parametrize("seed", range(24))
def test_random_networks(seed):
    graph = FileGraph(seed)
    content = graph.content(grown(graph, steps=5))
    _, _, channels = analyzed(content)
    assert any(len(group.free) for group in channels.groups), [group.reason for group in channels.groups]
    keep = chosen(channels, np.random.default_rng(seed))
    small = check(content, keep)
    _, _, again = analyzed(small)
    assert again.flops(again.all_kept()) == channels.flops(keep)
