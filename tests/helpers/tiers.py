"""Which parameters of a test `make test` runs, and which only `make test-ci` or `make test-all`."""

from __future__ import annotations

from typing import Any

import pytest


def first(*values: Any, count: int = 1) -> list[Any]:
    """Let only `make test-all` run parameters, or tuples of them, after the first ones."""
    return [*values[:count], *map(in_test_all, values[count:])]


def in_test_ci(value: Any) -> Any:
    """Mark a parameter, or a tuple of them, as one for `make test-ci` and `make test-all`."""
    return _marked(value, pytest.mark.programs)


def in_test_all(value: Any) -> Any:
    """Mark a parameter, or a tuple of them, as one for `make test-all` alone."""
    return _marked(value, pytest.mark.slow)


def _marked(value: Any, mark: Any) -> Any:
    named = value if hasattr(value, "marks") else pytest.param(*(value if isinstance(value, tuple) else (value,)))
    return pytest.param(*named.values, id=named.id, marks=[*named.marks, mark])
