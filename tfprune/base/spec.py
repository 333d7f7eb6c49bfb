"""Specs and checks of arguments, warnings at the user's line, and public names that load when they are first used."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import math
import numbers
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

# Specs, and checks of arguments. Specs are small frozen values that say how to prune.
#
# A schedule, a criterion and a pattern are specs. Two specs with the same arguments are equal, `repr` shows the
# arguments, and `from_config` rebuilds a spec from `get_config`, as Keras needs to save an object inside a model.

_SpecType = TypeVar("_SpecType", bound="Spec")
BudgetLimit = int | float | None
LEAST_AMOUNT = 101  # of what is counted: no model costs less, and who passes 50 means a percentage
_LONGEST = 40  # characters of an array in a message


class ArgumentMessage:
    """An argument that a function cannot use, in parts: its message may be printed in other words than Python's.

    `ArgumentError`, `ArgumentTypeError` and `ArgumentWarning` are of this shape. In `expected` and `advice`, names of
    arguments stand in backticks, or before the value to pass, as in `max_drop=0.01`.

    Attributes:
        argument: The name of the argument, as in Python; None if there is none.
        expected: What was expected, after the word.
        received: The value, as Python shows it, and words about it; empty where `found` says more, or nothing does.
        advice: What to do, in whole sentences; empty for none.
        found: What was received, in words, where the value itself would not help; else empty.
        beside: The values of other arguments that do not go with it, by name.

    Without `expected`, the first argument is the whole message: so Keras copies an error out of a layer's call.

    Example:
        >>> print(ArgumentError("rate", "`rate` to be positive", "-1", advice="Pass 0.1.", beside={"steps": None}))
        Expected `rate` to be positive. Received: rate=-1, steps=None. Pass 0.1.
    """

    def __init__(
        self,
        argument: str | None,
        expected: str = "",
        received: str = "",
        *,
        found: str = "",
        advice: str = "",
        beside: Mapping[str, Any] | None = None,
    ) -> None:
        if not expected:
            argument, found = None, argument or ""
        self.argument, self.expected, self.received = argument, expected, received
        self.found, self.advice, self.beside = found, advice, {**(beside or {})}
        self.args: tuple[Any, ...] = (self.sentence(),)  # what is copied and pickled, beside the attributes

    def __str__(self) -> str:
        return self.sentence()

    def sentence(self, words: Callable[[str], str] = str) -> str:
        """Return the message.

        Args:
            words: Returns a part of the message with other names in place of the arguments' ones.
        """
        if not self.expected:
            return words(self.found)
        values = {self.argument: self.received} if self.argument and self.received else {}
        values |= {name: repr(other) for name, other in self.beside.items()}
        found = words(self.found) or ", ".join(words(f"{name}={text}") for name, text in values.items())
        parts = [f"Expected {words(self.expected)}.", found and f"Received: {found}.", words(self.advice)]
        return " ".join(filter(None, parts))


class ArgumentError(ArgumentMessage, ValueError):
    """An argument has a value that the function cannot use."""


class ArgumentTypeError(ArgumentMessage, TypeError):
    """An argument has a type that the function cannot use."""


class ArgumentWarning(ArgumentMessage, UserWarning):
    """An argument has a value that is unlikely to be meant."""


class Spec:
    """Base of the frozen dataclasses that describe pruning."""

    _EXAMPLES: ClassVar[str]  # of specs that have no name, for messages

    def get_config(self) -> dict[str, Any]:
        """Return the arguments by name."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {field.name: getattr(self, field.name) for field in fields}

    @classmethod
    def from_config(cls: type[_SpecType], config: dict[str, Any]) -> _SpecType:
        """Build the spec whose `get_config` returned `config`."""
        return cls(**config)

    def _hold(self, **arguments: Any) -> None:
        """Replace arguments by their checked form, so that `repr` and saved files hold no NumPy numbers."""
        for name, value in arguments.items():
            object.__setattr__(self, name, value)


def resolve(
    value: Any,
    choices: dict[str, type[_SpecType]],
    base: type[_SpecType],
    argument: str,
    *,
    other: Callable[[str], _SpecType | None] | None = None,
) -> _SpecType:
    """Return the spec of a name such as `"magnitude"`; return a spec as it is.

    Args:
        value: The name or the spec.
        choices: The names, and the class of each.
        base: The class of all specs.
        argument: The name of the argument, for the message.
        other: Returns the spec of a string that is not a name, such as `"2:4"`; None for one without a spec.

    Raises:
        TypeError: If `value` is neither a name nor a spec of the right kind.
        ValueError: If the name is not among the choices.
    """
    if isinstance(value, base):
        return value
    spec = other(value) if other is not None and isinstance(value, str) and value not in choices else None
    if spec is not None:
        return spec
    hint = f"Did you mean {value.__name__}()?" if isinstance(value, type) and issubclass(value, base) else ""
    others = f"or an instance of {base.__name__}, such as {base._EXAMPLES}"
    check_choice(value, argument, choices=choices, others=others, hint=hint)
    return choices[value]()


def check_number(
    value: Any,
    argument: str,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
    meaning: str = "",
    advice: str = "",
) -> float:
    """Return `value` as a finite float.

    Args:
        value: The value to check.
        argument: The name of the argument, for the message.
        least: The smallest number allowed.
        above: A number that `value` has to exceed.
        most: The largest number allowed.
        below: A number that `value` may not reach.
        meaning: What the number means, for the message.
        advice: What to do, for the message; empty, or a sentence.

    Raises:
        TypeError: If it is not a real number.
        ValueError: If it is out of range, or not finite.

    Example:
        >>> check_number(1.5, "power", above=0)
        1.5
        >>> check_number(2, "ridge", least=0, below=1)
        Traceback (most recent call last):
        ArgumentError: Expected `ridge` to be a number in [0, 1). Received: ridge=2.
    """
    expected = f"a number{_range_text(least, above, most, below)}{meaning and f', {meaning}'}"
    _check_type(value, argument, numbers.Real, expected=expected)
    number = float(value)
    if not (least <= number <= most and above < number < below):
        raise ArgumentError(argument, f"`{argument}` to be {expected}", repr(value), advice=advice)
    return number


def check_count(value: Any, argument: str, *, least: int, most: float = math.inf) -> int:
    """Return `value` as an int from `least` to `most`.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is out of range.
    """
    expected = f"an integer{_range_text(least, -math.inf, most, math.inf)}"
    _check_type(value, argument, numbers.Integral, expected=expected)
    if not least <= value <= most:
        raise ArgumentError(argument, f"`{argument}` to be {expected}", repr(value))
    return int(value)


def is_accuracy(metric: Any) -> bool:
    """Return True if a metric is an accuracy, which is a fraction of the samples, by its name."""
    return isinstance(metric, str) and (metric == "acc" or metric.endswith("accuracy"))


def check_drop(drop: float | None, argument: str, *, metric: Any) -> None:
    """Refuse a largest drop of a metric that is negative, or that no accuracy can exceed: a percentage.

    Args:
        drop: The largest drop; None for none.
        argument: The name of the argument, for the message.
        metric: The name of the metric; others than accuracies have drops of any size.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is negative or not finite, or above 1 for an accuracy.
    """
    if drop is not None and check_number(drop, argument, least=0) > 1 and is_accuracy(metric):
        advice = f"For {drop:g} % pass {drop / 100:g}."
        check_number(drop, argument, least=0, most=1, meaning="a fraction of the samples", advice=advice)


def check_numbers(value: Any, argument: str, *, of: str) -> set[int]:
    """Return numbers of things, such as blocks, as a set.

    Args:
        value: The value to check.
        argument: The name of the argument, for the message.
        of: The things, numbered from 0, for the message.

    Raises:
        TypeError: If it is not an iterable of integers.
        ValueError: If it is empty, names one twice, or holds a negative number.

    Example:
        >>> sorted(check_numbers([3, 1], "drop", of="blocks"))
        [1, 3]
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        expected = f"`{argument}` to be the numbers of {of}, such as [3, 4]"
        raise ArgumentTypeError(argument, expected, f"{value!r} of type {type(value).__name__}")
    listed = [check_count(number, argument, least=0) for number in value]
    if not listed or len(set(listed)) < len(listed):
        raise ArgumentError(argument, f"`{argument}` to name some {of}, each once", repr(listed))
    return set(listed)


def check_sparsity(value: Any, argument: str) -> float:
    """Return `value` as a float in [0, 1), the fraction of zeros.

    Raises:
        TypeError: If it is not a real number.
        ValueError: If it lies outside [0, 1) or is not finite.
    """
    number = float(value) if isinstance(value, numbers.Real) else 0.0
    advice = f"For {number:g} % pass {number / 100:g}." if 1 < number < 100 else ""
    if number == 1:
        advice = (
            "At 1 nothing would stay: pass 0.99, for example, or remove channels with tfprune.plan_shrink, or with "
            "tfprune shrink on the command line."
        )
    return check_number(value, argument, least=0, below=1, meaning="the fraction of zeros", advice=advice)


def check_budget_limit(value: Any, argument: str, *, least: int = LEAST_AMOUNT) -> int | float:
    """Return a limit of a budget: an amount as an int, or a fraction of the present cost as a float.

    Args:
        value: The value to check.
        argument: The name of the argument, for the message.
        least: The smallest amount.

    Raises:
        TypeError: If it is not a real number.
        ValueError: If it is neither a fraction in (0, 1) nor an integer of at least `least`.
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, bool) and not 0 < int(value) < least:
        return check_count(value, argument, least=least)
    percent = float(value) if isinstance(value, numbers.Real) else 0.0
    return check_number(
        value,
        argument,
        above=0,
        below=1,
        meaning=f"a fraction of the cost now (0.5 is half), or an amount, an integer above {least - 1}",
        advice=f"For {percent:g} % of the cost now pass {argument}={percent / 100:g}." if 1 < percent < 100 else "",
    )


def _check_type(value: Any, argument: str, kind: type, *, expected: str) -> None:
    if isinstance(value, bool) or not isinstance(value, kind):  # True is an int to Python
        received = f"{text_of(value)} of type {type(value).__name__}"
        raise ArgumentTypeError(argument, f"`{argument}` to be {expected}", received)


def text_of(value: Any) -> str:
    """Describe a value in a message: as Python does, but long arrays by their shapes.

    Example:
        >>> import numpy as np
        >>> text_of((np.zeros((64, 8)), 0.5))
        '(an array of shape (64, 8), 0.5)'
    """
    if isinstance(value, tuple):
        return f"({', '.join(map(text_of, value))}{',' if len(value) == 1 else ''})"
    text = repr(value)
    return f"an array of shape {tuple(value.shape)}" if hasattr(value, "shape") and len(text) > _LONGEST else text


def call_it(data: Any) -> str:
    """Return the advice to call a function that makes data, such as a generator; empty for other values."""
    if not inspect.isfunction(data) and not inspect.ismethod(data):
        return ""
    name = data.__name__
    return f"Call it: {name}()." if name.isidentifier() else "Call it, and pass what it returns."


def _range_text(least: float, above: float, most: float, below: float) -> str:
    """Describe a range, such as ` of at least 1`."""
    low, high = max(least, above), min(most, below)
    if high == math.inf:
        return "" if low == -math.inf else f" above {low:g}" if above == low else f" of at least {low:g}"
    if (least, most) == (low, high):
        return f" from {low:g} to {high:g}"
    return f" in {'(' if above == low else '['}{low:g}, {high:g}{')' if below == high else ']'}"


def check_choice(
    value: Any, argument: str, *, choices: Iterable[str | bool | None], others: str = "", hint: str = ""
) -> None:
    """Refuse everything but some names; None and bools may be among them.

    Args:
        value: The value to check.
        argument: The name of the argument, for the message.
        choices: The allowed values.
        others: Other values that the caller takes, for the message, such as `"or a function"`; empty for none.
        hint: What to do about a value of another type, for the message; empty, or a sentence.

    Raises:
        TypeError: If it is not a string, and none of the choices.
        ValueError: If it is a string, but none of the choices.

    Example:
        >>> check_choice("zip", "compress", choices=(None, "gzip", "xz"))
        Traceback (most recent call last):
        ArgumentError: Expected `compress` to be None, 'gzip' or 'xz'. Received: compress='zip'. Did you mean 'gzip'?
    """
    if isinstance(value, (str, bool, type(None))) and value in choices:
        return
    *names, last = map(repr, choices)
    expected = (
        ", ".join([*names, last, others]) if others else " or ".join([", ".join(names), last] if names else [last])
    )
    expected = f"`{argument}` to be {expected}"
    if not isinstance(value, str):
        raise ArgumentTypeError(argument, expected, f"{value!r} of type {type(value).__name__}", advice=hint)
    close = difflib.get_close_matches(value.lower(), [choice for choice in choices if isinstance(choice, str)], n=1)
    raise ArgumentError(argument, expected, repr(value), advice=f"Did you mean {close[0]!r}?" if close else "")


def check_regex(value: Any, argument: str, *, of: str = "") -> re.Pattern[str]:
    """Return a regular expression, compiled.

    Args:
        value: The value to check.
        argument: The name of the argument, for the message.
        of: The part of the argument that has it, such as `"the keys of "`, for the message.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is not a regular expression.
    """
    if not isinstance(value, str):
        raise ArgumentTypeError(argument, f"{of}`{argument}` to be regular expressions", found=repr(value))
    try:
        return re.compile(value)
    except re.error as error:
        expected = f"{of}`{argument}` to be regular expressions"
        raise ArgumentError(argument, expected, found=f"{value!r} ({error})") from error


# Warn at the line of the user's program, however many frames of the package lie between.

_PACKAGE = __name__.partition(".")[0]


def warn_user(message: str | Warning) -> None:
    """Issue a UserWarning whose location is the innermost call from outside the package."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == _PACKAGE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


# Public names, each loaded when it is first used, so that importing a package loads neither Keras nor TensorFlow.


def lazy_names(
    facade: str,
    homes: Mapping[str, Iterable[str]],
    *,
    modules: Iterable[str] = (),
    beside: Iterable[str] = (),
    moved: Mapping[str, str] | None = None,
    package: str | None = None,
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a module whose public names live in other modules.

    Args:
        facade: The name of the module that offers the names.
        homes: Names by the module that defines them. `"rank_experts as rank"` offers a name of the module under
            another name.
        modules: Public modules of the package.
        beside: Those of the modules with lazy names, where a user may look for a name that is not here.
        moved: The full new names of what users may look for here, by the old ones.
        package: The package that all modules are in. None (the default) is the facade itself.

    Example:
        >>> getattribute, names = lazy_names("tfprune", {"masking.wrap": ["wrap"]}, modules=["schedules"])
        >>> names()
        ['schedules', 'wrap']
    """
    package = package or facade
    places = {_public(entry): (module, entry) for module, entries in homes.items() for entry in entries}
    submodules = set(modules)

    def getattribute(name: str) -> Any:
        if name in submodules:
            return importlib.import_module(f"{package}.{name}")
        if name in places:
            module, entry = places[name]
            return getattr(importlib.import_module(f"{package}.{module}"), entry.partition(" as ")[0])
        if moved and name in moved:
            advice = f". Use {moved[name]}."
        else:
            others = [f"{package}.{module}" for module in beside]
            advice = "" if name.startswith("_") else _advice(name, names(), others)
        raise AttributeError(f"module {facade!r} has no attribute {name!r}{advice}")

    def names() -> list[str]:
        return sorted({*places, *submodules})

    return getattribute, names


def _public(entry: str) -> str:
    """Return the public name of an entry of a table: `rank` of `experts.rank as rank`."""
    return entry.rpartition(" as ")[2]


def _advice(name: str, names: Sequence[str], modules: Iterable[str]) -> str:
    homes = [module for module in modules if name in dir(importlib.import_module(module))]
    if homes:
        return f". Use {homes[0]}.{name}."
    close = difflib.get_close_matches(name, names, n=1)
    return f". Did you mean {close[0]!r}?" if close else ""
