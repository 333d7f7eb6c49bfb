"""Schedules: how sparse a model is at each step of its training.

A schedule is a pure function from a step, counted in optimizer updates, to a sparsity, the fraction of zeros. Give
steps as ints, or fractions of the training run as floats. To add a schedule, derive a frozen dataclass from
`Schedule` with the fields `begin` and `end`, and define `sparsity_at`.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfprune.base.spec import ArgumentError, ArgumentTypeError, Spec, check_count, check_number, check_sparsity

__all__ = ["Constant", "Polynomial", "Schedule"]

Step = int | float  # an int counts optimizer updates, a float is a fraction of the training run


class Schedule(Spec):
    """Base of all schedules: a window of steps, and the sparsity at each step.

    Attributes:
        begin: The first step of the window. An int counts optimizer updates, a float in [0, 1] is a fraction of the
            training run, which `resolve` turns into a step when training begins.
        end: The last step of the window in the same form, or None for a window that never closes.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Linear(Schedule):
        ...     final: float
        ...     begin: int = 0
        ...     end: int = 1000
        ...
        ...     def sparsity_at(self, step):
        ...         return self.final * min(max((step - self.begin) / (self.end - self.begin), 0), 1)
        >>> Linear(0.8)(500)
        0.4
    """

    begin: Step
    end: Step | None

    def sparsity_at(self, step: int) -> float:
        """Return the sparsity in [0, 1) at a step. It is called only when `begin` and `end` are steps."""
        raise NotImplementedError

    def __call__(self, step: int) -> float:
        """Return the sparsity in [0, 1) after the optimizer update `step`; 0 stands for before the first update.

        Raises:
            ValueError: If `begin` or `end` is still a fraction of the training run.
        """
        self._check_in_steps()
        return self.sparsity_at(int(step))

    def _check_in_steps(self) -> None:
        for name in ("begin", "end"):
            value = getattr(self, name)
            if isinstance(value, float):
                raise ArgumentError(
                    name,
                    "a schedule in steps",
                    f"{value!r}, a fraction of the training run",
                    advice=f"Call `schedule.resolve(steps)` first, or give {name} as an int.",
                )

    def last_update(self, previous: int, step: int, every: int) -> int | None:
        """Return the last step in (previous, step] at which masks are due, or None.

        Masks are due at begin, begin + every, begin + 2 * every, ... and at end, whether or not `every` divides the
        window. The answer depends on the arguments alone, so a resumed run updates at the same steps as an
        uninterrupted one.

        Raises:
            ValueError: If `begin` or `end` is still a fraction of the training run.

        Example:
            >>> Polynomial(0.8, begin=10, end=45).last_update(30, 50, 10)
            45
        """
        self._check_in_steps()
        until = step if self.end is None else min(step, self.end)
        if until < self.begin:
            return None
        point = until if until == self.end else until - (until - self.begin) % every
        return int(point) if point > previous else None

    def next_update(self, step: int, every: int) -> int | None:
        """Return the first step after `step` at which masks are due, or None after the end.

        Raises:
            ValueError: If `begin` or `end` is still a fraction of the training run.

        Example:
            >>> Polynomial(0.8, begin=10, end=45).next_update(30, 10)
            40
        """
        self._check_in_steps()
        if step < self.begin:
            return int(self.begin)
        if self.end is None:
            return int(step + every - (step - self.begin) % every)
        return None if step >= self.end else int(min(step + every - (step - self.begin) % every, self.end))

    @property
    def target(self) -> float:
        """The sparsity at the end of the window, or at its begin if it never closes."""
        return self(self.begin if self.end is None else self.end)  # type: ignore[arg-type]

    def resolve(self, steps: int, *, first: int = 0) -> Schedule:
        """Return this schedule with its fractions turned into steps.

        Args:
            steps: The number of optimizer updates in the training run.
            first: The step at which the run starts.

        Raises:
            ValueError: If the end then lies before the begin.
        """
        fractions = {
            name: first + round(value * steps)
            for name, value in (("begin", self.begin), ("end", self.end))
            if isinstance(value, float)
        }
        return dataclasses.replace(self, **fractions) if fractions else self  # type: ignore[type-var]


def check_step(value: Any, argument: str) -> Step:
    """Return a step as an int, a fraction of the training run as a float."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return check_count(value, argument, least=0)
    is_step = isinstance(value, numbers.Real) and 1 < float(value) < math.inf
    advice = f"For step {float(value):.0f} pass {argument}={float(value):.0f}." if is_step else ""
    meaning = "a fraction of the training run (give a step as an int)"
    return check_number(value, argument, least=0, most=1, meaning=meaning, advice=advice)


def _check_window(begin: Any, end: Any) -> tuple[Step, Step | None]:
    begin = check_step(begin, "begin")
    if end is None:
        return begin, None
    end = check_step(end, "end")
    if isinstance(begin, float) == isinstance(end, float) and end < begin:
        raise ArgumentError("begin", "the schedule to end at or after its begin", repr(begin), beside={"end": end})
    return begin, end


@dataclass(frozen=True)
class Polynomial(Schedule):
    """Raise the sparsity fast at first, then ever more slowly until `final` is reached.

    s(t) = final + (initial - final) * (1 - (t - begin) / (end - begin)) ** power  for begin <= t <= end,
    `initial` before the window and `final` after it. Power 3 gives the cubic schedule of gradual pruning.

    Args:
        final: The sparsity at the end, the fraction of zeros in [0, 1).
        begin: The step of the first pruning: an int, or a float in [0, 1] as a fraction of the training run. Default
            0.
        end: The step at which `final` is reached, in the same form; it has no default.
        initial: The sparsity at the begin, in [0, 1); default 0.
        power: The exponent, above 0; default 3. A power of 1 is a straight line.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If a sparsity lies outside [0, 1), `end` lies before `begin`, or `power` is not positive.

    Example:
        >>> schedule = Polynomial(0.875, end=1000)
        >>> [round(schedule(step), 6) for step in (0, 100, 500, 1000, 2000)]
        [0.0, 0.237125, 0.765625, 0.875, 0.875]

    Reference:
        Zhu & Gupta, 2017, "To prune, or not to prune", arXiv:1710.01878, equation 1.
    """

    final: float
    begin: Step = dataclasses.field(default=0, kw_only=True)
    end: Step = dataclasses.field(default=None, kw_only=True)  # type: ignore[assignment]  # `final` is checked first
    initial: float = dataclasses.field(default=0.0, kw_only=True)
    power: float = dataclasses.field(default=3.0, kw_only=True)

    def __post_init__(self) -> None:
        self._hold(final=check_sparsity(self.final, "final"), initial=check_sparsity(self.initial, "initial"))
        if self.end is None:
            raise ArgumentTypeError(
                "end",
                "`end`, the step at which `final` is reached, or a fraction of the training run",
                "None",
                advice="Pass end=0.7, for example, to train with the final sparsity from 70 % of the run on.",
            )
        begin, end = _check_window(self.begin, self.end)
        self._hold(begin=begin, end=end, power=check_number(self.power, "power", above=0))

    def sparsity_at(self, step: int) -> float:
        if step >= self.end:
            return self.final
        if step <= self.begin:  # the formula would miss `initial` by a rounding error
            return self.initial
        remaining = 1 - (step - self.begin) / (self.end - self.begin)
        return self.final + (self.initial - self.final) * remaining**self.power


@dataclass(frozen=True)
class Constant(Schedule):
    """Hold one sparsity from `begin` on, and 0 before.

    Args:
        sparsity: The fraction of zeros, in [0, 1).
        begin: The step of the first pruning: an int, or a float in [0, 1] as a fraction of the training run. The
            default is 0.
        end: The step of the last mask update, in the same form; with None, the default, updates never end. The
            sparsity stays after the last update.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If `sparsity` lies outside [0, 1), or `end` lies before `begin`.

    Example:
        >>> schedule = Constant(0.5, begin=100)
        >>> schedule(99), schedule(100)
        (0.0, 0.5)
    """

    sparsity: float
    begin: Step = dataclasses.field(default=0, kw_only=True)
    end: Step | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        begin, end = _check_window(self.begin, self.end)
        self._hold(sparsity=check_sparsity(self.sparsity, "sparsity"), begin=begin, end=end)

    def sparsity_at(self, step: int) -> float:
        return self.sparsity if step >= self.begin else 0.0


@dataclass(frozen=True)
class Alternating(Schedule):
    """Alternate between a sparsity and 0, and end sparse (AC/DC), so that removed entries can come back.

    The window has `cycles` pairs of a sparse and a dense phase of equal length; the model is dense before it, and
    sparse after it. Masks change only between phases, whatever `every` is. In the paper entries come back as 0: wrap
    the model with `latent="zero"`.

    Args:
        sparsity: The fraction of zeros in sparse phases, in [0, 1).
        begin: The step of the first sparse phase: an int, or a float in [0, 1] as a fraction of the training run.
            Default 0.1.
        end: The step of the last one, in the same form. Default 0.8.
        cycles: The number of pairs, at least 1. Default 7.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, or `end` lies before `begin`.

    Example:
        >>> schedule = Alternating(0.9, begin=10, end=30, cycles=2)
        >>> [schedule(step) for step in (9, 10, 15, 20, 25, 30)]
        [0.0, 0.9, 0.0, 0.9, 0.0, 0.9]

    Reference:
        Peste et al., 2021, "AC/DC: Alternating Compressed/DeCompressed Training", arXiv:2106.12379.
    """

    sparsity: float
    begin: Step = dataclasses.field(default=0.1, kw_only=True)
    end: Step = dataclasses.field(default=0.8, kw_only=True)
    cycles: int = dataclasses.field(default=7, kw_only=True)

    def __post_init__(self) -> None:
        begin, end = _check_window(self.begin, check_step(self.end, "end"))
        self._hold(begin=begin, end=end, sparsity=check_sparsity(self.sparsity, "sparsity"))
        self._hold(cycles=check_count(self.cycles, "cycles", least=1))

    def _starts(self) -> list[int]:
        """Return the first step of each phase, sparse and dense in turn."""
        phases, length = 2 * self.cycles, self.end - self.begin
        return [int(self.begin) + math.ceil(phase * length / phases) for phase in range(phases + 1)]

    def sparsity_at(self, step: int) -> float:
        return self.sparsity if bisect.bisect_right(self._starts(), step) % 2 else 0.0

    def last_update(self, previous: int, step: int, every: int) -> int | None:
        return max((start for start in self._starts() if previous < start <= step), default=None)

    def next_update(self, step: int, every: int) -> int | None:
        return min((start for start in self._starts() if start > step), default=None)


_OF_TFMOT = {"PolynomialDecay": "Polynomial", "ConstantSparsity": "Constant"}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        advice = ""
        if name in _OF_TFMOT:
            advice = f". Use {__name__}.{_OF_TFMOT[name]}, or tfprune.tfmot.{name} with prune_low_magnitude."
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{advice}")
