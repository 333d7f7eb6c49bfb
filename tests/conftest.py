"""Quiet backends and repeatable property tests for every test."""

from __future__ import annotations

import gc
import itertools
import os

import pytest
from hypothesis import settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before anything imports TensorFlow

# The same examples in every run, and no time limit per example: a busy machine fails no test.
settings.register_profile("tfprune", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("tfprune")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin each worker's share with programs, file by file, so that no worker is left with a long one at the end."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    takes_long = {id(item) for item in items for name in ("programs", "slow") if item.get_closest_marker(name)}
    programs = [item for item in items if id(item) in takes_long]
    files = list(dict.fromkeys(item.path for item in programs))
    others = iter([item for item in items if id(item) not in takes_long])
    dealt: list[pytest.Item] = []
    for worker in range(workers):
        share = [item for item in programs if files.index(item.path) % workers == worker]
        end = len(items) * (worker + 1) // workers  # xdist cuts the list into parts of one length
        dealt += share
        dealt += itertools.islice(others, max(end - len(dealt), 0))
    items[:] = [*dealt, *others]


def pytest_collection_finish() -> None:
    """Spare the garbage collector the objects of the imports, which stay."""
    gc.collect()
    gc.freeze()
