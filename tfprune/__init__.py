"""Gradual pruning for Keras 3: wrap a model, raise its sparsity while it trains, strip it, export it.

Importing this package loads neither Keras nor TensorFlow; the names below do when they are first used. The modules
`transformers`, `experts`, `growth`, `concepts`, `few_shot`, `federated` and `research` hold the methods of single
papers.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tfprune.base.spec import lazy_names

if TYPE_CHECKING:
    from tfprune import allocation as allocation
    from tfprune import concepts as concepts
    from tfprune import criteria as criteria
    from tfprune import experts as experts
    from tfprune import export as export
    from tfprune import federated as federated
    from tfprune import few_shot as few_shot
    from tfprune import growth as growth
    from tfprune import patterns as patterns
    from tfprune import report as report
    from tfprune import research as research
    from tfprune import schedules as schedules
    from tfprune import tfmot as tfmot
    from tfprune import transformers as transformers
    from tfprune.base.limit import Limit as Limit
    from tfprune.channels.groups import register_shrinkable as register_shrinkable
    from tfprune.compact.plan import budget as budget
    from tfprune.compact.plan import plan_shrink as plan_shrink
    from tfprune.compact.prune_to import prune_to as prune_to
    from tfprune.compact.rank import rank_channels as rank_channels
    from tfprune.compact.reconstruct import reconstruct as reconstruct
    from tfprune.compact.shrink import ShrinkPlan as ShrinkPlan
    from tfprune.compact.shrink import shrink as shrink
    from tfprune.compact.shrink import zero_channels as zero_channels
    from tfprune.compact.trainer import Distillation as Distillation
    from tfprune.compact.trainer import FineTuning as FineTuning
    from tfprune.compact.trainer import distilled as distilled
    from tfprune.evidence import Gatherer as Gatherer
    from tfprune.masking.callback import PruningCallback as PruningCallback
    from tfprune.masking.grow import Grow as Grow
    from tfprune.masking.permute_channels import permute_channels as permute_channels
    from tfprune.masking.pruned import Pruned as Pruned
    from tfprune.masking.sensitivity import PruningSummaries as PruningSummaries
    from tfprune.masking.sensitivity import sensitivity as sensitivity
    from tfprune.masking.strip import sparsity_report as sparsity_report
    from tfprune.masking.strip import strip as strip
    from tfprune.masking.update_masks import update_masks as update_masks
    from tfprune.masking.wrap import wrap as wrap
    from tfprune.methods.one_shot.plan_transformer import plan_transformer as plan_transformer
    from tfprune.methods.one_shot.prune_units import prune_units as prune_units
    from tfprune.methods.one_shot.prune_weights import prune_weights as prune_weights
    from tfprune.models.anatomy import register_prunable as register_prunable
    from tfprune.quantizing.quantize_aware import equalize as equalize
    from tfprune.quantizing.quantize_aware import freeze_ranges as freeze_ranges
    from tfprune.quantizing.quantize_aware import quantization_report as quantization_report
    from tfprune.quantizing.quantize_aware import quantize_aware as quantize_aware
    from tfprune.quantizing.quantized import Quantized as Quantized
    from tfprune.solving.dependency_graph import NoRule as NoRule
    from tfprune.solving.least_squares import Rounding as Rounding

__version__ = "0.3.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # the user chooses what is seen, and where

if importlib.util.find_spec(f"{__name__}.export") is None:  # Python runs in a checkout: it stands beside this folder
    __path__.append(str(Path(__file__).parents[1]))

_HOMES = {
    "base.limit": ["Limit"],
    "channels.groups": ["register_shrinkable"],
    "compact.plan": ["budget", "plan_shrink"],
    "compact.prune_to": ["prune_to"],
    "compact.rank": ["rank_channels"],
    "compact.reconstruct": ["reconstruct"],
    "compact.shrink": ["ShrinkPlan", "shrink", "zero_channels"],
    "compact.trainer": ["Distillation", "FineTuning", "distilled"],
    "evidence": ["Gatherer"],
    "masking.callback": ["PruningCallback"],
    "masking.grow": ["Grow"],
    "masking.permute_channels": ["permute_channels"],
    "masking.pruned": ["Pruned"],
    "masking.sensitivity": ["PruningSummaries", "sensitivity"],
    "masking.strip": ["sparsity_report", "strip"],
    "masking.update_masks": ["update_masks"],
    "masking.wrap": ["wrap"],
    "methods.one_shot.plan_transformer": ["plan_transformer"],
    "methods.one_shot.prune_units": ["prune_units"],
    "methods.one_shot.prune_weights": ["prune_weights"],
    "models.anatomy": ["register_prunable"],
    "quantizing.quantize_aware": ["equalize", "freeze_ranges", "quantization_report", "quantize_aware"],
    "quantizing.quantized": ["Quantized"],
    "solving.dependency_graph": ["NoRule"],
    "solving.least_squares": ["Rounding"],
}
_DOORS = ("concepts", "experts", "federated", "few_shot", "growth", "research", "transformers")
_MODULES = ("allocation", "criteria", "export", "patterns", "report", "schedules", "tfmot", *_DOORS)
# Reports and other results are importable from the modules that make them, and not from here.
_REPORTS = {
    "compact.plan": ["Budget"],
    "compact.prune_to": ["PruneReport"],
    "compact.rank": ["RankingReport"],
    "compact.reconstruct": ["ReconstructionReport"],
    "masking.permute_channels": ["PermutationReport"],
    "masking.sensitivity": ["SensitivityReport"],
    "masking.strip": ["SparsityReport"],
    "methods.one_shot.removal": ["PutriReport"],
    "quantizing.quantize_aware": ["QuantizationReport"],
}
_MOVED = {f"{name}_experts": f"tfprune.experts.{name}" for name in ("drop", "grow", "merge", "rank", "register")}
_MOVED |= {name: f"tfprune.{module}.{name}" for module, names in _REPORTS.items() for name in names}

_NAMES = [name for names in _HOMES.values() for name in names]
__all__ = ["__version__", *_NAMES, *_MODULES]  # noqa: PLE0604

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__, _HOMES, modules=_MODULES, beside=[*_DOORS, "export", "tfmot"], moved=_MOVED
    )

# Keras finds what was saved by its class, so it has to know it before `load_model` runs.
if sys.modules.get("keras"):  # None where a program blocks it
    importlib.import_module("tfprune.masking.pruned")
    importlib.import_module("tfprune.tfmot.prune")
    importlib.import_module("tfprune.quantizing.quantized")
    importlib.import_module("tfprune.models.in_place")
    importlib.import_module("tfprune.compact.smaller")
    importlib.import_module("tfprune.compact.trainer")
