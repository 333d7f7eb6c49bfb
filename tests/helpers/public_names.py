"""All public names: those of the two packages, those of the modules that they offer, and the reports."""

from __future__ import annotations

import importlib
import inspect
from importlib.util import find_spec
from typing import Any

import tfprune
import tfprune.export

ON_FLOWER = ("MaskedFedAvg", "MaskedClient")  # which need the extra `federated`
DOORS = ("concepts", "experts", "federated", "few_shot", "growth", "research", "transformers")
OFFERED = ("allocation", "criteria", "patterns", "report", "schedules", "tfmot", *DOORS)
MODULES = [getattr(tfprune, name) for name in OFFERED]


def public_names() -> dict[str, Any]:
    """Return what stands behind each public name, by full name; modules are left out, their names are there."""
    found = {}
    for home in (tfprune, tfprune.export, *MODULES):
        names = [name for name in home.__all__ if name not in ON_FLOWER or find_spec("flwr")]
        found |= {f"{home.__name__}.{name}": getattr(home, name) for name in names}
    for module, names in tfprune._REPORTS.items():
        home = importlib.import_module(f"tfprune.{module}")
        found |= {f"{home.__name__}.{name}": getattr(home, name) for name in names}
    return {name: thing for name, thing in found.items() if not inspect.ismodule(thing)}


def documented_names() -> dict[str, Any]:
    """Return the public functions and classes, each under its first name only."""
    names: dict[int, tuple[str, Any]] = {}
    for name, thing in public_names().items():
        if inspect.isfunction(thing) or inspect.isclass(thing):
            names.setdefault(id(thing), (name, thing))
    return dict(names.values())
