"""Channels that only some operators read are ranked with the others of their group."""

import numpy as np
from file_graphs import FileGraph

from tfprune.export.device.processes import ChildProgress
from tfprune.export.pruning.shrink import _Limits, _ShrinkingInOrder


def test_channels_that_some_operators_do_not_read(tmp_path):
    graph = FileGraph(0)
    x = graph.convolution(graph.input, 4)
    met = graph.binary("ADD", graph.pad(x, channels=(0, 4)), graph.convolution(graph.pad(x), 8))
    content = graph.content(graph.dense(graph.mean(met), 4))
    images = np.random.default_rng(0).normal(size=(6, 1, 8, 8, 3)).astype(np.float32)
    runs = [{graph.input: image} for image in images]
    progress = ChildProgress(tmp_path)
    job = _ShrinkingInOrder(content, runs, limits=_Limits(), folder=tmp_path, progress=progress)
    small = job.shrunk(_Limits(flops=int(0.6 * job.flops)), round_to=1)
    assert small.flops_kept <= 0.6 * small.flops
    assert {row.channels - row.kept for row in small.groups} - {0}
