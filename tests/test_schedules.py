"""Schedules: the paper's numbers to the digit, and updates exactly where they are due."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from refusals import REFUSAL, refusals, refused

from tfprune.schedules import Alternating, Constant, Polynomial, Schedule


def test_cubic_of_ten_updates():
    schedule = Polynomial(0.875, end=1000)
    expected = [0, 0.237125, 0.427, 0.574875, 0.686, 0.765625, 0.819, 0.851375, 0.868, 0.874125, 0.875]
    assert [schedule(step) for step in range(0, 1001, 100)] == pytest.approx(expected, abs=1e-15)


def test_cubic_from_an_initial_sparsity():
    schedule = Polynomial(0.9, begin=2000, end=6000, initial=0.5)
    table = {0: 0.5, 1999: 0.5, 2000: 0.5, 2100: 0.52925625, 3000: 0.73125, 4000: 0.85, 5900: 0.89999375}
    for step, sparsity in table.items():
        assert schedule(step) == pytest.approx(sparsity, abs=1e-15)
    assert [schedule(step) for step in (6000, 6001, 10**9)] == [0.9] * 3


@pytest.mark.parametrize(("power", "half"), [(1, 0.4), (2, 0.6), (3, 0.7), (0.5, 0.8 * (1 - 0.5**0.5))])
def test_power(power, half):
    assert Polynomial(0.8, end=10, power=power)(5) == pytest.approx(half, abs=1e-15)


def test_sparsity_may_fall():
    schedule = Polynomial(0.2, initial=0.8, end=4, power=1)
    assert [schedule(step) for step in range(5)] == pytest.approx([0.8, 0.65, 0.5, 0.35, 0.2], abs=1e-15)


def test_constant():
    schedule = Constant(0.5, begin=10, end=20)
    assert [schedule(step) for step in (0, 9, 10, 20, 21, 99)] == [0, 0, 0.5, 0.5, 0.5, 0.5]
    assert Constant(0.5)(0) == 0.5


def test_window_of_one_step():
    schedule = Polynomial(0.75, begin=7, end=7, initial=0.25)
    assert [schedule(step) for step in (6, 7, 8)] == [0.25, 0.75, 0.75]
    assert schedule.last_update(6, 7, 100) == 7
    assert schedule.last_update(7, 8, 100) is None
    assert Polynomial(0.75, end=0)(0) == 0.75


SPARSITIES = st.floats(0, 1, exclude_max=True)
STEPS = st.integers(0, 300)


@st.composite
def polynomials(draw) -> Polynomial:
    begin = draw(STEPS)
    power = draw(st.sampled_from([0.3, 1, 2, 3, 5.5]))
    arguments = {"end": begin + draw(STEPS), "begin": begin, "initial": draw(SPARSITIES), "power": power}
    return Polynomial(draw(SPARSITIES), **arguments)


@given(polynomials(), st.lists(st.integers(0, 700), min_size=2))
def test_cubic_is_monotone_within_its_ends(schedule, steps):
    values = [schedule(step) for step in sorted(steps)]
    low, high = sorted((schedule.initial, schedule.final))
    assert all(low - 1e-15 <= value <= high + 1e-15 for value in values)
    rising = values if schedule.initial <= schedule.final else values[::-1]
    assert all(after >= before - 1e-15 for before, after in zip(rising, rising[1:], strict=False))


@given(polynomials())
def test_both_ends_are_exact(schedule):
    assert schedule(schedule.end) == schedule.final == schedule.target
    if schedule.begin < schedule.end:
        assert schedule(schedule.begin) == schedule.initial


def test_begin_is_exact_where_the_formula_rounds():
    assert 0.7 + (0.1 - 0.7) != 0.1
    assert Polynomial(0.7, initial=0.1, end=10)(0) == 0.1


@st.composite
def windows(draw) -> Constant:
    begin, length = draw(STEPS), draw(st.none() | STEPS)
    return Constant(0.5, begin=begin, end=None if length is None else begin + length)


def grid(schedule: Schedule, every: int) -> set[int]:
    """Every step at which masks are due, up to one beyond all windows of these tests."""
    points = set(range(schedule.begin, 1000 if schedule.end is None else schedule.end + 1, every))
    return points if schedule.end is None else points | {schedule.end}


@given(windows(), st.integers(1, 120), st.integers(-1, 700), st.integers(0, 200))
def test_last_update_is_the_last_point_of_the_grid(schedule, every, previous, ahead):
    passed = [point for point in grid(schedule, every) if previous < point <= previous + ahead]
    assert schedule.last_update(previous, previous + ahead, every) == max(passed, default=None)


@given(windows(), st.integers(1, 120), st.integers(0, 700))
def test_next_update_is_the_next_point_of_the_grid(schedule, every, step):
    assert schedule.next_update(step, every) == min((p for p in grid(schedule, every) if p > step), default=None)


@given(windows(), st.integers(1, 120))
def test_single_steps_meet_the_whole_grid(schedule, every):
    met = {step for step in range(700) if schedule.last_update(step - 1, step, every) is not None}
    assert met == {point for point in grid(schedule, every) if point < 700}


@given(polynomials(), st.integers(1, 500), st.integers(1, 50))
def test_the_final_sparsity_is_reached_however_steps_are_bundled(schedule, every, stride):
    sparsity, previous = None, -1
    for step in range(0, schedule.end + stride, stride):
        due = schedule.last_update(previous, step, every)
        sparsity, previous = sparsity if due is None else schedule(due), step
    assert sparsity == schedule.final


def test_updates_where_the_interval_does_not_divide_the_window():
    schedule = Polynomial(0.8, begin=10, end=45)
    due = [step for step in range(60) if schedule.last_update(step - 1, step, 10) is not None]
    assert due == [10, 20, 30, 40, 45]


def test_target():
    assert Polynomial(0.9, end=10).target == 0.9
    assert Constant(0.5).target == 0.5
    assert Constant(0.5, begin=3, end=9).target == 0.5


@pytest.mark.parametrize(
    ("schedule", "name"),
    [
        (Polynomial(0.5, end=1.0), "end=1.0"),
        (Polynomial(0.5, end=10, begin=0.0), "begin=0.0"),
        (Constant(0.5, begin=0.25), "begin=0.25"),
        (Polynomial(0.5, end=Fraction(1, 2)), "end=0.5"),
    ],
)
@pytest.mark.parametrize(
    "use",
    [lambda s: s(3), lambda s: s.last_update(0, 3, 1), lambda s: s.next_update(0, 1), lambda s: s.target],
    ids=["call", "last_update", "next_update", "target"],
)
def test_fractions_have_to_be_resolved_first(schedule, name, use):
    message = f"Expected a schedule in steps. Received: {name}, a fraction of the training run. Call `schedule."
    with pytest.raises(ValueError, match=re.escape(message)):
        use(schedule)


def test_resolve():
    schedule = Polynomial(0.5, begin=0.1, end=0.75, power=2)
    assert schedule.resolve(1000) == Polynomial(0.5, begin=100, end=750, power=2)
    assert schedule.resolve(1000, first=40) == Polynomial(0.5, begin=140, end=790, power=2)
    assert Constant(0.5, begin=1.0).resolve(30) == Constant(0.5, begin=30)
    assert Polynomial(0.5, begin=7, end=1.0).resolve(30, first=5) == Polynomial(0.5, begin=7, end=35)
    in_steps = Polynomial(0.5, end=9)
    assert in_steps.resolve(1000, first=3) is in_steps


def test_resolve_leaves_ints():
    resolved = Polynomial(0.5, begin=0.5, end=1.0).resolve(1)
    assert [type(resolved.begin), type(resolved.end)] == [int, int]
    assert resolved(resolved.end) == 0.5


def test_resolve_refuses_an_end_before_the_begin():
    message = "Expected the schedule to end at or after its begin. Received: begin=50, end=20"
    with pytest.raises(ValueError, match=message):
        Polynomial(0.5, begin=50, end=0.2).resolve(100)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 10**6), st.integers(0, 10**6))
def test_a_resolved_window_lies_in_the_fit(begin, end, steps, first):
    assume(begin <= end)
    resolved = Constant(0.5, begin=begin, end=end).resolve(steps, first=first)
    assert first <= resolved.begin <= resolved.end <= first + steps
    assert abs(resolved.end - first - end * steps) <= 0.5 + 1e-9


SPARSITY = "to be a number in [0, 1), the fraction of zeros. Received:"
STEP = "to be a number from 0 to 1, a fraction of the training run (give a step as an int). Received:"
ORDER = "Expected the schedule to end at or after its begin. Received:"


@pytest.mark.parametrize(
    REFUSAL,
    refusals(
        {
            "final": [90, 1.0],
            "initial": [-1],
            "end": [100.0, math.nan],
            "begin": [-1, -0.1, 10],
            "power": [0, math.inf, math.nan],
        },
        {"final": ["0.5"], "end": [None, "9", True], "begin": [None], "power": ["3", True]},
        together=[("begin", {"begin": 0.4, "end": 0.3})],
    ),
)
def test_polynomial_refuses(kind, argument, changes):
    with refused(kind, argument):
        Polynomial(**{"final": 0.5, "end": 9, **changes})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sparsity": 1.5}, ValueError, f"Expected `sparsity` {SPARSITY} sparsity=1.5."),
        ({"begin": 3, "end": 2}, ValueError, f"{ORDER} begin=3, end=2"),
        ({"begin": -3}, ValueError, "Received: begin=-3"),
        ({"end": "9"}, TypeError, f"Expected `end` {STEP} end='9' of type str"),
    ],
    ids=str,
)
def test_constant_refuses(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Constant(**{"sparsity": 0.5, **arguments})


@pytest.mark.parametrize(
    "make", [lambda: Polynomial(0.5, 9), lambda: Constant(0.5, 9)], ids=["Polynomial", "Constant"]
)
def test_a_window_is_given_by_name(make):
    with pytest.raises(TypeError, match="positional"):
        make()


def test_a_percentage_is_refused_before_the_end_is_asked_for():
    with pytest.raises(ValueError, match=re.escape("Received: final=80. For 80 % pass 0.8.")):
        Polynomial(80)
    with pytest.raises(TypeError, match=re.escape("Received: end=None. Pass end=0.7")):
        Polynomial(0.8)


@dataclass(frozen=True)
class Stairs(Schedule):
    """A schedule from outside the library: a step up every `width` updates."""

    width: int
    begin: int = field(default=0, kw_only=True)
    end: float | int = field(default=1.0, kw_only=True)

    def sparsity_at(self, step: int) -> float:
        return min(max(step - self.begin, 0) // self.width * 0.1, 0.9)


def test_a_schedule_from_outside():
    schedule = Stairs(10)
    with pytest.raises(ValueError, match="a fraction of the training run"):
        schedule(3)
    resolved = schedule.resolve(50)
    assert resolved == Stairs(10, end=50)
    assert [resolved(step) for step in (0, 9, 10, 25, 500)] == pytest.approx([0, 0, 0.1, 0.2, 0.9])
    assert resolved.target == 0.5
    assert resolved.last_update(33, 49, 20) == 40
    assert Stairs.from_config(resolved.get_config()) == resolved


def test_the_base_class_says_what_is_missing():
    @dataclass(frozen=True)
    class Empty(Schedule):
        begin: int = 0
        end: int = 1

    with pytest.raises(NotImplementedError):
        Empty()(0)


def test_alternating_ends_sparse_and_changes_only_between_phases():
    schedule = Alternating(0.9, begin=10, end=30, cycles=2)
    table = {0: 0, 9: 0, 10: 0.9, 14: 0.9, 15: 0, 19: 0, 20: 0.9, 24: 0.9, 25: 0, 29: 0, 30: 0.9, 99: 0.9}
    assert {step: schedule(step) for step in table} == table
    assert schedule.target == 0.9
    due = [step for step in range(40) if schedule.last_update(step - 1, step, 3) is not None]
    assert due == [10, 15, 20, 25, 30]
    assert [schedule.next_update(step, 3) for step in (0, 10, 14, 29, 30)] == [10, 15, 15, 30, None]
    assert schedule.last_update(0, 27, 3) == 25


def test_alternating_has_the_phases_of_the_paper():
    # 100 epochs: dense for 10, then 5 sparse and 5 dense in turn; here the last dense phase is of 5 epochs, too.
    schedule = Alternating(0.9, end=0.8).resolve(100)
    sparse = [epoch for epoch in range(100) if schedule(epoch)]
    assert sparse == [
        *range(10, 15),
        *range(20, 25),
        *range(30, 35),
        *range(40, 45),
        *range(50, 55),
        *range(60, 65),
    ] + [
        *range(70, 75),
        *range(80, 100),
    ]


def test_alternating_refuses_what_has_no_cycle():
    with pytest.raises(ValueError, match=re.escape("Expected `cycles` to be an integer of at least 1")):
        Alternating(0.9, cycles=0)
    with pytest.raises(ValueError, match="Call `schedule.resolve"):
        Alternating(0.9)(3)
