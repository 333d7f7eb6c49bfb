"""Every example in a docstring does what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
from public_names import documented_names

import tfprune
import tfprune.export

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


@pytest.mark.parametrize("name", documented_names())
def test_the_public_names_have_examples(name):
    assert doctest.DocTestFinder().find(documented_names()[name], name)[0].examples
