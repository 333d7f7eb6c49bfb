"""The dependency graph: ties against SciPy's connected components, and channels followed through small graphs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tfprune.solving.dependency_graph import (
    ChannelFlow,
    DependencyGraph,
    Group,
    NoRule,
    Recorded,
    _Channels,
    _ChannelSource,
    _joined,
    along,
    channels_in,
    counted,
    flops,
    form_groups,
    placed,
)


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
    channels = _Channels()
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
        _ChannelSource(f"layer_{index}", "channels", np.array(sorted(bundles))) for index, bundles in enumerate(sets)
    ]
    groups = [[sources.index(source) for source in group] for group in _joined(sources, np.arange(9))]
    labels = np.empty(len(sets), int)
    for number, indices in enumerate(groups):
        labels[indices] = number
    pairs = [(a, b) for a in range(len(sets)) for b in range(a) if sets[a] & sets[b]]
    assert same_partition(labels.tolist(), components(len(sets), pairs).tolist())
    assert sorted(index for indices in groups for index in indices) == list(range(len(sets)))


def test_the_first_reason_of_a_bundle_counts():
    channels = _Channels()
    first, second = channels.fresh(3, name="one"), channels.fresh(3, name="other")
    channels.tie(first, second)
    channels.pin([second[1:2]], "first")
    channels.pin([first[1:], None], "second")
    assert channels.reasons(channels.bundles()) == {1: "first", 2: "second"}


def test_channels_that_only_go_together_are_one_bundle():
    channels = _Channels()
    numbers = channels.fresh(4, name="grouped")
    channels.tie(numbers[:-1], numbers[1:])
    assert channels.bundles().tolist() == [0, 0, 0, 0]


@dataclass(frozen=True)
class Step:
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    holder: str = ""


class Steps:
    """Vectors of four entries; `constant` depends on no input."""

    def __init__(self, *calls, outputs):
        self.calls = [replace(call, holder=call.holder or call.name) for call in calls]
        self.outputs = outputs

    def shape(self, tensor):
        return (1, 4)

    def is_constant(self, tensor):
        return tensor == "constant"


def make(flow, call):
    channels = flow.fresh(4, name=call.name)
    reads = along(flow.inputs(call)[0], -1)
    flow.recorded[call.holder] = Recorded({0: (reads, channels)}, {"units": channels}, [(1, (3, channels))])
    return [placed(2, -1, channels)]


def add(flow, call):
    return [placed(2, -1, flow.meet([(4, layout[1]) for layout in flow.inputs(call)], "fixed"))]


def fail(flow, call):
    make(flow, call)
    raise NoRule("it cannot")


def mask(flow, call):
    if flow.inputs(call)[0][1] is None:
        raise NoRule("it takes no channels")
    return [flow.inputs(call)[0]]


RULES = {"add": add, "fail": fail, "mask": mask}


def followed(*calls, outputs):
    flow = ChannelFlow(Steps(*calls, outputs=outputs))
    flow.follow_calls(lambda call: RULES.get(call.name.rstrip("0123456789"), make), reason="an output")
    return flow


def groups_of(flow):
    bundles = flow.bundles()
    axes = [frozenset(bundles[axis].tolist()) for layout in flow.layouts.values() for axis in channels_in(layout)]
    return DependencyGraph(*form_groups(flow, bundles, axes=axes))


def test_channels_that_meet_are_one_group_of_four_bundles():
    flow = followed(
        Step("one", ("x",), ("a",)), Step("other", ("x",), ("b",)), Step("add", ("a", "b"), ("c",)),
        Step("last", ("c",), ("d",)), outputs=["d"],
    )  # fmt: skip
    graph = groups_of(flow)
    assert [(group.name, group.bundles.size, group.stuck) for group in graph.groups] == [
        ("one", 4, None),
        ("last", 4, "an output"),
    ]
    keep = graph.keep_best(graph.groups[:1], np.arange(8.0), [0.5], round_to=[1])
    assert keep.tolist() == [False, False, True, True] + [True] * 4
    last = flow.recorded["last"].in_bundles(flow.bundles())
    assert flops(last.work, keep) == 2 * 3 * 4 and counted(last.weights[0], keep) == (2, 4)


def test_a_rule_that_fails_leaves_no_source_and_holds_what_it_takes():
    flow = followed(Step("one", ("x",), ("a",)), Step("fail", ("a",), ("b",)), outputs=["b"])
    (group,) = groups_of(flow).groups
    assert (group.name, group.stuck) == ("one", "fail: it cannot")
    assert flow.layout("b") == (None, None) and "fail" not in flow.recorded


def test_another_call_of_a_layer_that_was_refused_is_not_followed():
    flow = followed(
        Step("one", ("x",), ("a",)), Step("fail", ("a",), ("b",), holder="shared"),
        Step("other", ("x",), ("c",)), Step("make", ("c",), ("d",), holder="shared"), outputs=[],
    )  # fmt: skip
    assert [group.stuck for group in groups_of(flow).groups] == ["fail: it cannot", "make: it cannot"]


def test_a_layer_that_took_no_channels_is_followed_where_it_takes_some():
    flow = followed(
        Step("mask", ("x",), ("a",), holder="shared"), Step("one", ("x",), ("b",)),
        Step("mask", ("b",), ("c",), holder="shared"), outputs=[],
    )  # fmt: skip
    assert flow.unfollowed == {"shared": "it takes no channels"}
    assert [group.stuck for group in groups_of(flow).groups] == [None]
    assert flow.layout("c")[1].tolist() == [0, 1, 2, 3]


def test_what_meets_a_constant_stays():
    flow = followed(Step("one", ("x",), ("a",)), Step("add", ("a", "constant"), ("b",)), outputs=[])
    assert [group.stuck for group in groups_of(flow).groups] == ["fixed"]


def test_groups_of_one_name_are_told_apart():
    flow = followed(Step("same", ("x",), ("a",), holder="1"), Step("same", ("x",), ("b",), holder="2"), outputs=[])
    assert [group.name for group in groups_of(flow).groups] == ["same", "same_"]


def test_one_bundle_of_each_part_stays():
    parts = (np.array([4, 5]), np.array([6, 7]))
    group = Group("joined", "channels", np.array([4, 5, 6, 7]), np.ones(4, dtype=bool), parts=parts)
    assert group.kept(np.array([1, 2, 3, 4]), 1).tolist() == [False, True, False, True]
    assert group.kept(np.array([1, 2, 3, 4]), 3).tolist() == [False, True, True, True]


def test_a_single_bundle_is_stuck():
    assert Group("one", "channels", np.array([3]), np.array([True])).stuck == "only one"
