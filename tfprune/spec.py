"""Specs: small frozen values that say how to prune, and nothing else.

A schedule, a criterion and a pattern are specs. Two specs with the same arguments are equal, `repr` is the
configuration, and `get_config` / `from_config` round-trip every argument, which is all that Keras asks of an
object it saves inside a model.
"""

from __future__ import annotations

import dataclasses
import numbers
import re
from typing import Any, TypeVar

SpecType = TypeVar("SpecType", bound="Spec")


class Spec:
    """Base of the frozen dataclasses that describe pruning."""

    def get_config(self) -> dict[str, Any]:
        """Return the arguments by name."""
        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return {field.name: getattr(self, field.name) for field in fields}

    @classmethod
    def from_config(cls: type[SpecType], config: dict[str, Any]) -> SpecType:
        """Build the spec whose `get_config` returned `config`."""
        return cls(**config)

    def _hold(self, **arguments: Any) -> None:
        """Replace arguments by their checked form, so that NumPy numbers do not end up in `repr` and saved files."""
        for name, value in arguments.items():
            object.__setattr__(self, name, value)


def resolve(value: Any, choices: dict[str, type[SpecType]], base: type[SpecType], argument: str) -> SpecType:
    """Turn a name such as `"magnitude"` into its spec; let a spec through.

    Raises:
        ValueError: For a name that is not among the choices.
        TypeError: For anything that is neither a name nor a spec of the right kind.
    """
    if isinstance(value, base):
        return value
    names = ", ".join(repr(name) for name in choices)
    if isinstance(value, str):
        if value not in choices:
            raise ValueError(
                f"Expected `{argument}` to be one of {names} or an instance of a {base.__name__}. "
                f"Received: {argument}={value!r}."
            )
        return choices[value]()
    hint = f" Did you mean {value.__name__}()?" if isinstance(value, type) and issubclass(value, base) else ""
    raise TypeError(
        f"Expected `{argument}` to be one of {names} or an instance of a {base.__name__}. "
        f"Received: {argument}={value!r} of type {type(value).__name__}.{hint}."
    )


def check_sparsity(value: Any, argument: str) -> float:
    """Return `value` as a float in [0, 1), the fraction of zeros.

    Raises:
        TypeError: If it is not a real number.
        ValueError: If it lies outside [0, 1) or is not finite.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"Expected `{argument}` to be a number in [0, 1), the fraction of zeros. Received: "
            f"{argument}={value!r} of type {type(value).__name__}."
        )
    sparsity = float(value)
    if not 0 <= sparsity < 1:
        hint = f" For {sparsity:g} % pass {sparsity / 100:g}." if 1 < sparsity < 100 else ""
        raise ValueError(
            f"Expected `{argument}` in [0, 1), the fraction of zeros. Received: {argument}={value!r}.{hint}."
        )
    return sparsity


def check_regex(value: Any, argument: str) -> re.Pattern[str]:
    """Return a regular expression, compiled.

    Raises:
        TypeError: If it is no text.
        ValueError: If it is no regular expression.
    """
    if not isinstance(value, str):
        raise TypeError(f"Expected {argument} to be regular expressions. Received: {value!r}.")
    try:
        return re.compile(value)
    except re.error as error:
        raise ValueError(f"Expected {argument} to be regular expressions. Received: {value!r} ({error}).") from error


def check_count(value: Any, argument: str, *, least: int) -> int:
    """Return `value` as an int of at least `least`.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is too small.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(
            f"Expected `{argument}` to be an integer of at least {least}. Received: "
            f"{argument}={value!r} of type {type(value).__name__}."
        )
    if value < least:
        raise ValueError(f"Expected `{argument}` to be at least {least}. Received: {argument}={value!r}.")
    return int(value)


def check_choice(value: Any, argument: str, *, choices: tuple[str, ...]) -> None:
    """Refuse what is not one of some names.

    Raises:
        ValueError: If it is none of them.
    """
    if value not in choices:
        names = " or ".join(map(repr, choices))
        raise ValueError(f"Expected `{argument}` to be {names}. Received: {argument}={value!r}.")


def check_amount(value: Any, argument: str) -> float:
    """Return `value` as a finite float of at least 0.

    Raises:
        TypeError: If it is not a real number.
        ValueError: If it is negative or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"Expected `{argument}` to be a number of at least 0. Received: {argument}={value!r} of type "
            f"{type(value).__name__}."
        )
    amount = float(value)
    if not 0 <= amount < float("inf"):
        raise ValueError(f"Expected `{argument}` to be a number of at least 0. Received: {argument}={value!r}.")
    return amount
