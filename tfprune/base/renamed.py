"""Refuse the names that arguments had in an earlier version, and misspelled names."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
_CLOSE = 0.5  # `final_sparsity` is this close to `final`


def renamed(**names: str) -> Callable[[F], F]:
    """Make a function or class refuse unknown arguments, and name those that were meant.

    Args:
        **names: For each old or expected wrong name, the code to write instead, such as `mode="reconstruction="`.

    Returns:
        A decorator. The function keeps its signature; a call with an unknown name raises a TypeError.

    Example:
        >>> @renamed(method="criterion=")
        ... def rank(model, criterion="magnitude"):
        ...     return criterion
        >>> rank("m", method="wanda")
        Traceback (most recent call last):
        TypeError: Expected criterion= in a call of rank(). Received: method=.
        >>> rank("m", criterium="wanda")
        Traceback (most recent call last):
        TypeError: Expected arguments of rank(): model, criterion. Received: criterium=. Did you mean criterion=?
    """

    def decorate(function: F) -> F:
        if inspect.isclass(function):
            function.__init__ = decorate_call(function.__init__, function.__name__)  # type: ignore[method-assign]
            return function
        return decorate_call(function, function.__name__)

    def decorate_call(function: Any, name: str) -> Any:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: Any, **arguments: Any) -> Any:
            for word in arguments:
                if word in names:
                    raise TypeError(f"Expected {names[word]} in a call of {name}(). Received: {word}=.")
                _check_known(word, signature, name)
            _check_count(args, signature, name)
            return function(*args, **arguments)

        call.__signature__ = signature  # type: ignore[attr-defined]  # Keras reads it unwrapped
        call.old_names = names  # type: ignore[attr-defined]
        return call

    return decorate


def _check_count(args: tuple[Any, ...], signature: inspect.Signature, name: str) -> None:
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    positional = [word for word, each in signature.parameters.items() if each.kind in kinds]
    if len(args) > len(positional) and not any(
        each.kind is each.VAR_POSITIONAL for each in signature.parameters.values()
    ):
        own = positional[:1] == ["self"]
        listed = f": {', '.join(positional[own:])}" if positional[own:] else ""
        raise TypeError(
            f"Expected at most {len(positional) - own} positional arguments in a call of {name}(){listed}. Received: "
            f"{len(args) - own}. Pass the others by name."
        )


def _check_known(word: str, signature: inspect.Signature, name: str) -> None:
    if word in signature.parameters or any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values()):
        return
    names = [each for each in signature.parameters if each not in ("self", "cls")]
    close = difflib.get_close_matches(word, names, n=1, cutoff=_CLOSE)
    advice = f" Did you mean {close[0]}=?" if close else ""
    raise TypeError(f"Expected arguments of {name}(): {', '.join(names)}. Received: {word}=.{advice}")
