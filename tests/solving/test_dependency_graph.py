"""Ties between channels, against SciPy's connected components."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tfprune.solving.dependency_graph import Channels, ChannelSource, joined


def components(count, pairs):
    ones, others = [source for source, _ in pairs], [target for _, target in pairs]
    graph = coo_array((np.ones(len(pairs)), (ones, others)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def same_partition(labels, expected):
    """Tell whether two labellings put the same things together."""
    return len(set(zip(labels, expected, strict=True))) == len(set(labels)) == len(set(expected))


@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_tied_channels_are_connected_components(graph):
    count, pairs = graph
    channels = Channels()
    numbers = channels.fresh(count, name="layer")
    for first, second in pairs:
        channels.tie(numbers[[first]], numbers[[second]])
    bundles = channels.bundles()
    assert same_partition(bundles.tolist(), components(count, pairs).tolist())
    assert sorted(set(bundles)) == list(range(bundles.max() + 1))
    firsts = [bundles.tolist().index(label) for label in range(bundles.max() + 1)]
    assert firsts == sorted(firsts)  # numbered in the order in which they come


@given(st.lists(st.sets(st.integers(0, 8), min_size=1), min_size=1, max_size=8))
def test_sources_that_share_a_bundle_are_one_group(sets):
    sources = [
        ChannelSource(f"layer_{index}", "channels", np.array(sorted(bundles))) for index, bundles in enumerate(sets)
    ]
    groups = [[sources.index(source) for source in group] for group in joined(sources, np.arange(9))]
    labels = np.empty(len(sets), int)
    for number, indices in enumerate(groups):
        labels[indices] = number
    pairs = [(a, b) for a in range(len(sets)) for b in range(a) if sets[a] & sets[b]]
    assert same_partition(labels.tolist(), components(len(sets), pairs).tolist())
    assert sorted(index for indices in groups for index in indices) == list(range(len(sets)))


def test_the_first_reason_of_a_bundle_counts():
    channels = Channels()
    first, second = channels.fresh(3, name="one"), channels.fresh(3, name="other")
    channels.tie(first, second)
    channels.pin([second[1:2]], "first")
    channels.pin([first[1:], None], "second")
    assert channels.reasons(channels.bundles()) == {1: "first", 2: "second"}


def test_channels_that_only_go_together_are_one_bundle():
    channels = Channels()
    numbers = channels.fresh(4, name="grouped")
    channels.tie(numbers[:-1], numbers[1:])
    assert channels.bundles().tolist() == [0, 0, 0, 0]
