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

from tfprune.base.lazy import lazy_names

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
    from tfprune.compact.fine_tuning.distillation import Distillation as Distillation
    from tfprune.compact.fine_tuning.distilled import distilled as distilled
    from tfprune.compact.fine_tuning.fine_tuning import FineTuning as FineTuning
    from tfprune.compact.fine_tuning.prune_to import prune_to as prune_to
    from tfprune.compact.reconstruction.reconstruct import reconstruct as reconstruct
    from tfprune.compact.shrinking.budget import budget as budget
    from tfprune.compact.shrinking.plan_shrink import plan_shrink as plan_shrink
    from tfprune.compact.shrinking.rank_channels import rank_channels as rank_channels
    from tfprune.compact.shrinking.shrink import shrink as shrink
    from tfprune.compact.shrinking.shrink_plan import ShrinkPlan as ShrinkPlan
    from tfprune.compact.shrinking.zero_channels import zero_channels as zero_channels
    from tfprune.keras_models.channels.groups import register_shrinkable as register_shrinkable
    from tfprune.keras_models.evidence.gatherer import Gatherer as Gatherer
    from tfprune.keras_models.models.register_prunable import register_prunable as register_prunable
    from tfprune.masking.permuting.permute_channels import permute_channels as permute_channels
    from tfprune.masking.training.grow import Grow as Grow
    from tfprune.masking.training.pruning_callback import PruningCallback as PruningCallback
    from tfprune.masking.training.pruning_summaries import PruningSummaries as PruningSummaries
    from tfprune.masking.training.sensitivity import sensitivity as sensitivity
    from tfprune.masking.training.update_masks import update_masks as update_masks
    from tfprune.masking.wrapping.pruned import Pruned as Pruned
    from tfprune.masking.wrapping.sparsity_report import sparsity_report as sparsity_report
    from tfprune.masking.wrapping.strip import strip as strip
    from tfprune.masking.wrapping.wrap import wrap as wrap
    from tfprune.methods.one_shot.plan_transformer import plan_transformer as plan_transformer
    from tfprune.methods.one_shot.prune_units import prune_units as prune_units
    from tfprune.methods.one_shot.prune_weights import prune_weights as prune_weights
    from tfprune.quantizing.equalize import equalize as equalize
    from tfprune.quantizing.freeze_ranges import freeze_ranges as freeze_ranges
    from tfprune.quantizing.quantization_report import quantization_report as quantization_report
    from tfprune.quantizing.quantize_aware import quantize_aware as quantize_aware
    from tfprune.quantizing.quantized import Quantized as Quantized
    from tfprune.solving.dependency_graph import NoRule as NoRule
    from tfprune.solving.rounding import Rounding as Rounding

__version__ = "0.3.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # the user chooses what is seen, and where

if importlib.util.find_spec(f"{__name__}.export") is None:  # Python runs in a checkout: it stands beside this folder
    __path__.append(str(Path(__file__).parents[1]))

# Each name lives in the module of its own name: `wrap` in masking/wrapping/wrap.py, `Pruned` in pruned.py there.
_ROOMS = {
    "base": ["Limit"],
    "solving": ["Rounding"],
    "keras_models.models": ["register_prunable"],
    "keras_models.evidence": ["Gatherer"],
    "masking.wrapping": ["Pruned", "sparsity_report", "strip", "wrap"],
    "masking.permuting": ["permute_channels"],
    "masking.training": ["Grow", "PruningCallback", "PruningSummaries", "sensitivity", "update_masks"],
    "quantizing": ["Quantized", "equalize", "freeze_ranges", "quantization_report", "quantize_aware"],
    "compact.reconstruction": ["reconstruct"],
    "compact.shrinking": ["ShrinkPlan", "budget", "plan_shrink", "rank_channels", "shrink", "zero_channels"],
    "compact.fine_tuning": ["Distillation", "FineTuning", "distilled", "prune_to"],
    "methods.one_shot": ["plan_transformer", "prune_units", "prune_weights"],
}
_HOMES = {
    "keras_models.channels.groups": ["register_shrinkable"],
    "solving.dependency_graph": ["NoRule"],
}
_DOORS = ("concepts", "experts", "federated", "few_shot", "growth", "research", "transformers")
_MODULES = ("allocation", "criteria", "export", "patterns", "report", "schedules", "tfmot", *_DOORS)
# Reports and other results are importable from the modules that make them, and not from here.
_REPORTS = {
    "masking.wrapping.sparsity_report": ["SparsityReport"],
    "masking.training.sensitivity_report": ["SensitivityReport"],
    "masking.permuting.permutation_report": ["PermutationReport"],
    "quantizing.quantization_report": ["QuantizationReport"],
    "compact.reconstruction.reconstruction_report": ["ReconstructionReport"],
    "compact.shrinking.budget": ["Budget"],
    "compact.shrinking.ranking_report": ["RankingReport"],
    "compact.fine_tuning.prune_report": ["PruneReport"],
    "methods.one_shot.putri_report": ["PutriReport"],
}
_MOVED = {f"{name}_experts": f"tfprune.experts.{name}" for name in ("drop", "grow", "merge", "rank", "register")}
_MOVED |= {name: f"tfprune.{module}.{name}" for module, names in _REPORTS.items() for name in names}

_NAMES = [name for table in (_ROOMS, _HOMES) for names in table.values() for name in names]
__all__ = ["__version__", *_NAMES, *_MODULES]  # noqa: PLE0604

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__, _ROOMS, elsewhere=_HOMES, modules=_MODULES, beside=[*_DOORS, "export", "tfmot"], moved=_MOVED
    )

# Keras finds what was saved by its class, so it has to know it before `load_model` runs.
if sys.modules.get("keras"):  # None where a program blocks it
    importlib.import_module("tfprune.masking.wrapping.pruned")
    importlib.import_module("tfprune.tfmot.wrapper")
    importlib.import_module("tfprune.quantizing.quantized")
    importlib.import_module("tfprune.keras_models.copying.in_place")
    importlib.import_module("tfprune.compact.same_class.exchanged")
    importlib.import_module("tfprune.compact.fine_tuning.distilled")
