"""The requirements of a product, and the concepts that each needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Require = Sequence[str] | Mapping[str, Sequence[str]]


def requirements(require: Any, *, concepts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the concepts of each requirement; each concept of a list is a requirement.

    Args:
        require: A list of concepts, or a dict from requirements to lists of concepts.
        concepts: The concepts that rules were mined for.

    Raises:
        TypeError: If it is neither a list of names nor a dict of such lists.
        ValueError: If it is empty, or names a concept that has no rules.
    """
    named = require if isinstance(require, Mapping) else {name: [name] for name in _names(require)}
    required = {name: tuple(dict.fromkeys(_names(needed))) for name, needed in named.items()}
    listed = ", ".join(map(repr, concepts))
    for name, needed in required.items():
        unknown = [concept for concept in needed if concept not in concepts]
        if unknown or not needed:
            received = ", ".join(map(repr, unknown)) or f"no concept for {name!r}"
            raise ValueError(
                f"Expected `require` with concepts that rules were mined for: {listed}. Received: {received}."
            )
    if not required:
        raise ValueError(f"Expected `require` with at least one concept of {listed}. Received: none.")
    return required


def _names(value: Any) -> Sequence[str]:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if not is_list or not all(isinstance(name, str) for name in value):
        raise TypeError(
            f"Expected `require` to be a list of concepts, or a dict from requirements to such lists. Received: "
            f"require={value!r}."
        )
    return value
