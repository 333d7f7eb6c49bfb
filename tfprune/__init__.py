"""Gradual pruning for Keras 3: wrap a model, raise its sparsity while it trains, strip it, export it.

Importing this package loads neither Keras nor TensorFlow; the names below do when they are first used.
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import TYPE_CHECKING

from tfprune.lazy import lazy_names

if TYPE_CHECKING:
    from tfprune import allocation as allocation
    from tfprune import criteria as criteria
    from tfprune import export as export
    from tfprune import federated as federated
    from tfprune import patterns as patterns
    from tfprune import report as report
    from tfprune import schedules as schedules
    from tfprune import tfmot as tfmot
    from tfprune.channels.no_rule import NoRule as NoRule
    from tfprune.channels.register_shrinkable import register_shrinkable as register_shrinkable
    from tfprune.concepts.concept_rules import ConceptRules as ConceptRules
    from tfprune.concepts.concept_rules import concept_rules as concept_rules
    from tfprune.concepts.concept_trace import ConceptTrace as ConceptTrace
    from tfprune.concepts.plan_concepts import plan_concepts as plan_concepts
    from tfprune.evidence.episodes import Episodes as Episodes
    from tfprune.evidence.gatherer import Gatherer as Gatherer
    from tfprune.evidence.meta_gradients import MetaGradients as MetaGradients
    from tfprune.experts.drop_experts import drop_experts as drop_experts
    from tfprune.experts.experts_report import ExpertsReport as ExpertsReport
    from tfprune.experts.grow_experts import grow_experts as grow_experts
    from tfprune.experts.merge_experts import merge_experts as merge_experts
    from tfprune.experts.register_experts import register_experts as register_experts
    from tfprune.fine_tuning.distillation import Distillation as Distillation
    from tfprune.fine_tuning.distilled import distilled as distilled
    from tfprune.fine_tuning.prune_report import PruneReport as PruneReport
    from tfprune.fine_tuning.prune_to import prune_to as prune_to
    from tfprune.growth.block_ranking import BlockRanking as BlockRanking
    from tfprune.growth.drop_blocks import drop_blocks as drop_blocks
    from tfprune.growth.grow_depth import grow_depth as grow_depth
    from tfprune.growth.growth_report import GrowthReport as GrowthReport
    from tfprune.growth.rank_blocks import rank_blocks as rank_blocks
    from tfprune.models.register_prunable import register_prunable as register_prunable
    from tfprune.one_shot.prune_weights import prune_weights as prune_weights
    from tfprune.one_shot.putri import putri as putri
    from tfprune.one_shot.putri_report import PutriReport as PutriReport
    from tfprune.quantizing.equalize import equalize as equalize
    from tfprune.quantizing.freeze_ranges import freeze_ranges as freeze_ranges
    from tfprune.quantizing.quantization_report import QuantizationReport as QuantizationReport
    from tfprune.quantizing.quantization_report import quantization_report as quantization_report
    from tfprune.quantizing.quantize_aware import quantize_aware as quantize_aware
    from tfprune.quantizing.quantized import Quantized as Quantized
    from tfprune.reconstruction.reconstruct import reconstruct as reconstruct
    from tfprune.reconstruction.reconstruction_report import ReconstructionReport as ReconstructionReport
    from tfprune.shrinking.budget import Budget as Budget
    from tfprune.shrinking.budget import budget as budget
    from tfprune.shrinking.plan_shrink import plan_shrink as plan_shrink
    from tfprune.shrinking.rank_channels import rank_channels as rank_channels
    from tfprune.shrinking.rank_heads import rank_heads as rank_heads
    from tfprune.shrinking.shrink import shrink as shrink
    from tfprune.shrinking.shrink_plan import ShrinkPlan as ShrinkPlan
    from tfprune.shrinking.transformer_budget import transformer_budget as transformer_budget
    from tfprune.shrinking.zero_channels import zero_channels as zero_channels
    from tfprune.training.pruning_callback import PruningCallback as PruningCallback
    from tfprune.training.pruning_summaries import PruningSummaries as PruningSummaries
    from tfprune.training.sensitivity import sensitivity as sensitivity
    from tfprune.training.sensitivity_report import SensitivityReport as SensitivityReport
    from tfprune.training.update_masks import update_masks as update_masks
    from tfprune.wrapping.pruned import Pruned as Pruned
    from tfprune.wrapping.sparsity_report import SparsityReport as SparsityReport
    from tfprune.wrapping.sparsity_report import sparsity_report as sparsity_report
    from tfprune.wrapping.strip import strip as strip
    from tfprune.wrapping.wrap import wrap as wrap

__version__ = "0.2.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # the user chooses what is seen, and where

# Each name lives in the module of its own name: `wrap` in wrapping/wrap.py, `Pruned` in wrapping/pruned.py.
_ROOMS = {
    "models": ["register_prunable"],
    "evidence": ["Episodes", "Gatherer", "MetaGradients"],
    "channels": ["NoRule", "register_shrinkable"],
    "wrapping": ["Pruned", "SparsityReport", "sparsity_report", "strip", "wrap"],
    "quantizing": [
        *("QuantizationReport", "Quantized", "equalize", "freeze_ranges", "quantization_report", "quantize_aware"),
    ],
    "reconstruction": ["ReconstructionReport", "reconstruct"],
    "shrinking": [
        *("Budget", "ShrinkPlan", "budget", "plan_shrink", "rank_channels", "rank_heads", "shrink"),
        *("transformer_budget", "zero_channels"),
    ],
    "one_shot": ["PutriReport", "prune_weights", "putri"],
    "concepts": ["ConceptRules", "ConceptTrace", "concept_rules", "plan_concepts"],
    "experts": ["ExpertsReport", "drop_experts", "grow_experts", "merge_experts", "register_experts"],
    "growth": ["BlockRanking", "GrowthReport", "drop_blocks", "grow_depth", "rank_blocks"],
    "fine_tuning": ["Distillation", "PruneReport", "distilled", "prune_to"],
    "training": ["PruningCallback", "PruningSummaries", "SensitivityReport", "sensitivity", "update_masks"],
}
_MODULES = ("allocation", "criteria", "export", "federated", "patterns", "report", "schedules", "tfmot")

__all__ = ["__version__", *(name for names in _ROOMS.values() for name in names), *_MODULES]  # noqa: PLE0604

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _ROOMS, modules=_MODULES)

# Keras finds what was saved by its class, so it has to know it before `load_model` runs.
if sys.modules.get("keras"):  # None where a program blocks it
    importlib.import_module("tfprune.wrapping.pruned")
    importlib.import_module("tfprune.tfmot.wrapper")
    importlib.import_module("tfprune.quantizing.quantized")
    importlib.import_module("tfprune.copying.around_graph")
    importlib.import_module("tfprune.resizing.exchanged")
    importlib.import_module("tfprune.fine_tuning.distilled")
