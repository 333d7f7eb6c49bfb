"""Quiet backends and repeatable property tests for every test."""

from __future__ import annotations

import gc
import itertools
import os
import sys
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before anything imports TensorFlow
gc.disable()  # while modules are imported, whose objects stay

# The same examples in every run, and no time limit per example: a busy machine fails no test.
settings.register_profile("tfprune", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("tfprune")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin each worker's share with programs, file by file, so that no worker is left with a long one at the end."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    takes_long = {id(item) for item in items for name in ("programs", "slow") if item.get_closest_marker(name)}
    programs = [item for item in items if id(item) in takes_long]
    files = {path: number for number, path in enumerate(dict.fromkeys(item.path for item in programs))}
    others = iter([item for item in items if id(item) not in takes_long])
    dealt: list[pytest.Item] = []
    for worker in range(workers):
        share = [item for item in programs if files[item.path] % workers == worker]
        end = len(items) * (worker + 1) // workers  # xdist cuts the list into parts of one length
        dealt += share
        dealt += itertools.islice(others, max(end - len(dealt), 0))
    items[:] = [*dealt, *others]


def pytest_collection_finish() -> None:
    """Spare the garbage collector the objects of the imports, which stay."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Prepare less for each function, but where tests run what a page says or are marked `slow`: as users do.

    An optimizer that creates its variables in the first step makes TensorFlow trace that step twice: a short training
    with Adam then takes almost twice as long, unless it is built before. The losses are the same bit for bit. A
    function that runs for a few steps is not worth TensorFlow's optimizer of graphs.
    """
    keras: Any = sys.modules.get("keras")
    if keras is None or keras.config.backend() != "tensorflow":
        return (yield)
    is_page = item.path.parent.name == "house" or item.path.stem == "test_page"
    is_as_users_do = is_page or item.get_closest_marker("slow") is not None
    sys.modules["tensorflow"].config.optimizer.set_experimental_options(
        {"disable_meta_optimizer": not is_as_users_do}
    )
    if is_as_users_do:
        return (yield)
    fit = keras.Model.fit

    def fit_once_built(model: Any, *arguments: Any, **options: Any) -> Any:
        optimizer = getattr(model, "optimizer", None)
        if model.built and optimizer is not None and not optimizer.built:
            optimizer.build(model.trainable_variables)
        return fit(model, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.Model, "fit", fit_once_built)
        return (yield)
