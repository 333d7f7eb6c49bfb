"""Gradual pruning for Keras 3: wrap a model, raise its sparsity while it trains, strip it, export it.

Importing this package loads neither Keras nor TensorFlow; the names below do when they are first used.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "wrap": "model",
    "strip": "stripping",
    "Pruned": "wrapper",
    "PruningCallback": "callback",
    "PruningSummaries": "summaries",
    "update_masks": "masks",
    "sensitivity": "scan",
    "SensitivityReport": "scan_report",
    "sparsity_report": "counting",
    "SparsityReport": "report",
    "register_prunable": "prunable",
    "plan_shrink": "plan",
    "ShrinkPlan": "shrink_plan",
    "shrink": "shrinking",
    "zero_channels": "shrinking",
    "reconstruct": "reconstruction",
    "ReconstructionReport": "reconstruction_report",
    "rank_heads": "head_ranking",
    "rank_channels": "channel_ranking",
    "transformer_budget": "transformer_shares",
    "budget": "budgets",
    "register_shrinkable": "rules",
}
_MODULES = ("schedules", "patterns", "criteria", "allocation", "tfmot")

__all__ = ["__version__", *_HOMES, *_MODULES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


# Keras finds saved wrappers by their class, so it has to know it before `load_model` runs.
if sys.modules.get("keras"):  # None where a program blocks it
    importlib.import_module(f"{__name__}.wrapper")
    importlib.import_module(f"{__name__}.tfmot_wrapper")
    importlib.import_module(f"{__name__}.subclassed")
