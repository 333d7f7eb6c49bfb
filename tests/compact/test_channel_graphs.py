"""Random graphs of operations that count, name or order channels: shrunk equals masked, or all channels stay."""

from __future__ import annotations

import pytest
from channel_graphs import KINDS, outcome
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import first


def test_there_are_thirty_kinds_of_operations():
    assert len(KINDS) >= 30


@pytest.mark.parametrize("graphs", first(12, 100))  # tests/fuzz/shrink_graphs.py takes thousands
def test_a_graph_shrinks_to_what_it_computes_with_zeros_or_keeps_its_channels(graphs):
    @settings(max_examples=graphs)
    @given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4), st.integers(0, 2**16))
    def check(kinds, seed):
        outcome(kinds, seed)

    check()
