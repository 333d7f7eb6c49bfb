"""What a product requires: concepts, each perhaps for several requirements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Require = Sequence[str] | Mapping[str, Sequence[str]]


def requirements(require: Any, *, known: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the concepts of each requirement; a list of concepts makes each a requirement of its own.

    Raises:
        TypeError: If it is neither a list of names nor a dict of such lists.
        ValueError: If it is empty, or names a concept that has no rules.
    """
    named = require if isinstance(require, Mapping) else {name: [name] for name in _names(require)}
    found = {name: tuple(dict.fromkeys(_names(concepts))) for name, concepts in named.items()}
    listed = ", ".join(map(repr, known))
    for name, concepts in found.items():
        unknown = [concept for concept in concepts if concept not in known]
        if unknown or not concepts:
            received = ", ".join(map(repr, unknown)) or f"no concept for {name!r}"
            raise ValueError(
                f"Expected `require` with concepts that rules were mined for: {listed}. Received: {received}."
            )
    if not found:
        raise ValueError(f"Expected `require` with at least one concept of {listed}. Received: none.")
    return found


def _names(value: Any) -> Sequence[str]:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_list or not all(isinstance(name, str) for name in value):
        raise TypeError(
            f"Expected `require` to be a list of concepts, or a dict from requirements to such lists. Received: "
            f"require={value!r}."
        )
    return value
