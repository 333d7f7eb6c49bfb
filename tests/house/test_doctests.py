"""Every example in a docstring does what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import tfprune
import tfprune.export
from tfprune.criteria import CRITERIA

MODULES = ["tfprune", "tfprune.export"] + [
    module.name
    for package in (tfprune, tfprune.export)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write files
    module = importlib.import_module(name)
    results = doctest.testmod(module, optionflags=doctest.IGNORE_EXCEPTION_DETAIL, report=True)
    assert results.failed == 0, f"run python -m doctest on {name}"


SPECS = [
    "Polynomial",
    "Constant",
    "Unstructured",
    "Block",
    "NM",
    *(one.__name__ for one in CRITERIA.values()),
]
USED = [
    "wrap",
    "strip",
    "Pruned",
    "PruningCallback",
    "PruningSummaries",
    "update_masks",
    "Gatherer",
    "sensitivity",
    "sparsity_report",
    "register_prunable",
]


@pytest.mark.parametrize("name", [*SPECS, *USED])
def test_the_public_names_have_examples(name):
    homes = [tfprune, tfprune.schedules, tfprune.patterns, tfprune.criteria]
    thing = next(getattr(home, name) for home in homes if hasattr(home, name))
    assert doctest.DocTestFinder(recurse=False).find(thing)[0].examples
