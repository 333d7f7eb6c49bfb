"""The best files: none in, and all out, that another one beats."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfprune.export.compressing.policy import Goal, _added_area, pareto_front
from tfprune.export.compressing.trials import MeasuredFile


def tried(size, drop, latency=None, arena=None):
    return MeasuredFile(None, None, size, size, 1 - drop, drop, latency, arena)


FILES = st.lists(st.builds(tried, st.integers(1, 9), st.integers(-3, 9), st.floats(0.5, 4)), max_size=12)


def test_a_front_by_hand():
    files = [tried(100, 0.0), tried(50, 0.005), tried(60, 0.005), tried(40, 0.02), tried(70, 0.001), tried(90, 0.002)]
    found = pareto_front(files, Goal("bytes", 0.01))
    assert [(one.bytes, one.drop) for one in found] == [(50, 0.005), (70, 0.001), (100, 0.0)]


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (tried(900, 0.01, arena=500), 0.0),
        (tried(900, 0.02, arena=500), 1.0),
        (tried(1100, 0.01, arena=500), 1.0),
        (tried(1000, 0.03, arena=600), 4.0),
    ],
)
def test_what_is_too_many_counts_in_drops_and_in_tenths_of_a_budget(one, expected):
    goal = Goal("bytes", 0.01, {"arena_bytes": 500, "bytes": 1000})
    assert goal.excess(one) == pytest.approx(expected)
    assert bool(pareto_front([one], goal)) == (expected == 0)


def test_files_of_the_front_keep_all_budgets():
    files = [tried(100, 0.0, 1.0), tried(50, 0.005, 2.0), tried(60, 0.005, 1.0), tried(20, 0.005, 9.0)]
    found = pareto_front(files, Goal("bytes", 0.01, {"bytes": 80, "latency_ms": 1.5}))
    assert [(one.bytes, one.latency_ms) for one in found] == [(60, 1.0)]
    assert (
        Goal("bytes", 0.01, {"latency_ms": 1.5}).needs_channels
        and not Goal("bytes", 0.01, {"bytes": 8}).needs_channels
    )


@given(FILES, st.sampled_from(["bytes", "latency_ms"]))
def test_nothing_beats_a_file_of_the_front_and_something_each_other_one(files, by):
    allowed = [one for one in files if one.drop <= 3]
    found = pareto_front(files, Goal(by, 3))

    def beats(one, other):
        mine, others = (getattr(one, by), one.drop), (getattr(other, by), other.drop)
        return mine != others and mine[0] <= others[0] and mine[1] <= others[1]

    assert all(not beats(one, other) for one in allowed for other in found)
    points = {(getattr(one, by), one.drop) for one in found}
    assert all((getattr(one, by), one.drop) in points or any(beats(other, one) for other in found) for one in allowed)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (tried(500, 0.005, arena=500), 0.0),  # it is there
        (tried(250, 0.005, arena=500), 0.005 * math.log(2)),  # half of that, from 0.005 to the limit
        (tried(250, 0.002, arena=500), 0.005 * math.log(2) + 0.003 * math.log(4)),  # further down, of the dense file
        (tried(500, -0.1, arena=500), 0.005 * math.log(2)),
        (tried(250, 0.01, arena=500), 0.0),  # none of the drops is left
        (tried(250, 0.002, arena=501), 0.0),
    ],
)
def test_the_area_that_a_file_adds_by_hand(one, expected):
    best, dense = [tried(500, 0.005)], tried(1000, 0.001)
    goal = Goal("bytes", 0.01, {"arena_bytes": 500})
    assert _added_area(one, best, dense=dense, goal=goal) == pytest.approx(expected)


@given(FILES, st.builds(tried, st.integers(1, 9), st.integers(-3, 9)))
def test_a_file_adds_area_if_it_comes_to_the_front_within_the_drop(files, one):
    goal, dense = Goal("bytes", 3), tried(9, 0)
    best = pareto_front(files, goal)
    adds = _added_area(one, best, dense=dense, goal=goal) > 0
    beaten = any(other.bytes <= one.bytes and other.drop <= max(0, one.drop) for other in [*best, dense])
    assert adds == (not beaten and one.drop < 3)
