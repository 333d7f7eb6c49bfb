"""Tables of refusals: which argument a call refuses, and with which type of error; its sentence may change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from tfprune.base.spec import ArgumentError, ArgumentTypeError

REFUSAL = ("kind", "argument", "changes")


def refusals(
    values: Mapping[str, Sequence[Any]],
    types: Mapping[str, Sequence[Any]] | None = None,
    *,
    together: Sequence[tuple[str, dict[str, Any]]] = (),
) -> list[tuple[type[Exception], str, dict[str, Any]]]:
    """Return a row of `REFUSAL` for each wrong value of an argument.

    Args:
        values: Values that are out of range, by the argument.
        types: Values of a wrong type, by the argument.
        together: The argument that is named, and arguments that do not go together.
    """
    rows = [
        (kind, argument, {argument: value})
        for kind, table in ((ArgumentError, values), (ArgumentTypeError, types or {}))
        for argument, wrong in table.items()
        for value in wrong
    ]
    return [*rows, *((ArgumentError, argument, changes) for argument, changes in together)]


@contextmanager
def refused(kind: type[Exception], argument: str) -> Iterator[None]:
    """Fail unless a block raises an error of this type that names the argument, and says what was expected."""
    with pytest.raises(kind) as raised:
        yield
    assert (raised.value.argument, bool(raised.value.expected)) == (argument, True), raised.value
