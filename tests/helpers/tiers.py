"""Which parameters of a test `make test` runs, and which only `make test-ci` or `make test-all`."""

from __future__ import annotations

from typing import Any

import pytest


def first(*values: Any) -> list[Any]:
    """Let `make test` run the first parameter, or tuple of them, alone."""
    return [values[0], *map(in_test_all, values[1:])]


def in_test_all(value: Any) -> Any:
    """Mark a parameter, or a tuple of them, as one for `make test-all`."""
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.programs)


def slow(value: Any) -> Any:
    """Mark a parameter, or a tuple of them, that takes long and differs little from others."""
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
