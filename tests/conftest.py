"""Quiet backends and repeatable property tests for every test."""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before anything imports TensorFlow

# The same examples in every run, and no time limit per example: a busy machine fails no test.
settings.register_profile("tfprune", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("tfprune")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the programs, so that no worker is left with a long one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("programs") is None)


def pytest_collection_finish() -> None:
    """Spare the garbage collector the objects of the imports, which stay."""
    gc.collect()
    gc.freeze()
