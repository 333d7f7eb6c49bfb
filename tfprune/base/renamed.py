"""Refuse the names that arguments had in an earlier version."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def renamed(**names: str) -> Callable[[F], F]:
    """Make a function or class refuse arguments by their old names.

    Args:
        **names: For each old name, the code to write now, such as `mode="reconstruction="`.

    Returns:
        A decorator. The function keeps its signature; a call with an old name raises a TypeError.

    Example:
        >>> @renamed(method="criterion=")
        ... def rank(criterion="magnitude"):
        ...     return criterion
        >>> rank(method="wanda")
        Traceback (most recent call last):
        TypeError: Expected criterion= in a call of rank(). Received: method=, its name before version 0.3.0.
    """

    def decorate(function: F) -> F:
        if inspect.isclass(function):
            function.__init__ = decorate_call(function.__init__, function.__name__)  # type: ignore[method-assign]
            return function
        return decorate_call(function, function.__name__)

    def decorate_call(function: Any, name: str) -> Any:
        @functools.wraps(function)
        def call(*args: Any, **arguments: Any) -> Any:
            for old in names.keys() & arguments.keys():
                raise TypeError(
                    f"Expected {names[old]} in a call of {name}(). Received: {old}=, its name before version 0.3.0."
                )
            return function(*args, **arguments)

        call.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]  # Keras reads it unwrapped
        call.old_names = names  # type: ignore[attr-defined]
        return call

    return decorate
