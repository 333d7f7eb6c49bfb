"""Gradual pruning for Keras 3: wrap a model, raise its sparsity while it trains, strip it, export it.

Importing this package loads neither Keras nor TensorFlow; the names below do when they are first used.
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
    from tfprune import criteria as criteria
    from tfprune import export as export
    from tfprune import federated as federated
    from tfprune import patterns as patterns
    from tfprune import report as report
    from tfprune import schedules as schedules
    from tfprune import tfmot as tfmot
    from tfprune.base.limit import Limit as Limit
    from tfprune.compact.fine_tuning.distillation import Distillation as Distillation
    from tfprune.compact.fine_tuning.distilled import distilled as distilled
    from tfprune.compact.fine_tuning.fine_tuning import FineTuning as FineTuning
    from tfprune.compact.fine_tuning.prune_report import PruneReport as PruneReport
    from tfprune.compact.fine_tuning.prune_to import prune_to as prune_to
    from tfprune.compact.narrowing.narrow import narrow as narrow
    from tfprune.compact.narrowing.narrow_report import NarrowReport as NarrowReport
    from tfprune.compact.reconstruction.reconstruct import reconstruct as reconstruct
    from tfprune.compact.reconstruction.reconstruction_report import ReconstructionReport as ReconstructionReport
    from tfprune.compact.shrinking.budget import Budget as Budget
    from tfprune.compact.shrinking.budget import budget as budget
    from tfprune.compact.shrinking.growing_penalty import GrowingPenalty as GrowingPenalty
    from tfprune.compact.shrinking.plan_shrink import plan_shrink as plan_shrink
    from tfprune.compact.shrinking.rank_channels import rank_channels as rank_channels
    from tfprune.compact.shrinking.rank_heads import rank_heads as rank_heads
    from tfprune.compact.shrinking.ranking_report import RankingReport as RankingReport
    from tfprune.compact.shrinking.shrink import shrink as shrink
    from tfprune.compact.shrinking.shrink_plan import ShrinkPlan as ShrinkPlan
    from tfprune.compact.shrinking.transformer_budget import transformer_budget as transformer_budget
    from tfprune.compact.shrinking.transformer_plan import TransformerPlan as TransformerPlan
    from tfprune.compact.shrinking.zero_channels import zero_channels as zero_channels
    from tfprune.compact.vocabulary.trim_vocabulary import trim_vocabulary as trim_vocabulary
    from tfprune.compact.vocabulary.vocabulary_report import VocabularyReport as VocabularyReport
    from tfprune.keras_models.channels.no_rule import NoRule as NoRule
    from tfprune.keras_models.channels.register_shrinkable import register_shrinkable as register_shrinkable
    from tfprune.keras_models.evidence.episodes import Episodes as Episodes
    from tfprune.keras_models.evidence.gatherer import Gatherer as Gatherer
    from tfprune.keras_models.evidence.meta_gradients import MetaGradients as MetaGradients
    from tfprune.keras_models.models.register_prunable import register_prunable as register_prunable
    from tfprune.masking.permuting.permutation_report import PermutationReport as PermutationReport
    from tfprune.masking.permuting.permute_channels import permute_channels as permute_channels
    from tfprune.masking.training.grow import Grow as Grow
    from tfprune.masking.training.learn_allocation import learn_allocation as learn_allocation
    from tfprune.masking.training.pruning_callback import PruningCallback as PruningCallback
    from tfprune.masking.training.pruning_summaries import PruningSummaries as PruningSummaries
    from tfprune.masking.training.scale_initial_weights import scale_initial_weights as scale_initial_weights
    from tfprune.masking.training.sensitivity import sensitivity as sensitivity
    from tfprune.masking.training.sensitivity_report import SensitivityReport as SensitivityReport
    from tfprune.masking.training.training_cost import TrainingCost as TrainingCost
    from tfprune.masking.training.update_masks import update_masks as update_masks
    from tfprune.masking.wrapping.pruned import Pruned as Pruned
    from tfprune.masking.wrapping.sparsity_report import SparsityReport as SparsityReport
    from tfprune.masking.wrapping.sparsity_report import sparsity_report as sparsity_report
    from tfprune.masking.wrapping.strip import strip as strip
    from tfprune.masking.wrapping.wrap import wrap as wrap
    from tfprune.methods.concepts.concept_rules import ConceptRules as ConceptRules
    from tfprune.methods.concepts.concept_rules import concept_rules as concept_rules
    from tfprune.methods.concepts.concept_trace import ConceptTrace as ConceptTrace
    from tfprune.methods.concepts.plan_concepts import plan_concepts as plan_concepts
    from tfprune.methods.experts.drop_experts import drop_experts as drop_experts
    from tfprune.methods.experts.expert_ranking import ExpertRanking as ExpertRanking
    from tfprune.methods.experts.experts_report import ExpertsReport as ExpertsReport
    from tfprune.methods.experts.grow_experts import grow_experts as grow_experts
    from tfprune.methods.experts.growth_compute import GrowthCompute as GrowthCompute
    from tfprune.methods.experts.growth_compute import growth_compute as growth_compute
    from tfprune.methods.experts.merge_experts import merge_experts as merge_experts
    from tfprune.methods.experts.rank_experts import rank_experts as rank_experts
    from tfprune.methods.experts.register_experts import register_experts as register_experts
    from tfprune.methods.few_shot.channel_taxonomy import ChannelTaxonomy as ChannelTaxonomy
    from tfprune.methods.few_shot.few_shot_report import FewShotReport as FewShotReport
    from tfprune.methods.few_shot.few_shot_stage import FewShotStage as FewShotStage
    from tfprune.methods.few_shot.maml import MAML as MAML
    from tfprune.methods.few_shot.prototypes import Prototypes as Prototypes
    from tfprune.methods.few_shot.prune_few_shot import prune_few_shot as prune_few_shot
    from tfprune.methods.growth.block_ranking import BlockRanking as BlockRanking
    from tfprune.methods.growth.drop_blocks import drop_blocks as drop_blocks
    from tfprune.methods.growth.grow_depth import grow_depth as grow_depth
    from tfprune.methods.growth.growth_report import GrowthReport as GrowthReport
    from tfprune.methods.growth.norm_profile import NormProfile as NormProfile
    from tfprune.methods.growth.norm_profile import norm_profile as norm_profile
    from tfprune.methods.growth.rank_blocks import rank_blocks as rank_blocks
    from tfprune.methods.moments.carry_optimizer import carry_optimizer as carry_optimizer
    from tfprune.methods.moments.moment_cosines import MomentCosines as MomentCosines
    from tfprune.methods.moments.moment_cosines import moment_cosines as moment_cosines
    from tfprune.methods.one_shot.plan_transformer import plan_transformer as plan_transformer
    from tfprune.methods.one_shot.prune_units import prune_units as prune_units
    from tfprune.methods.one_shot.prune_weights import prune_weights as prune_weights
    from tfprune.methods.one_shot.putri_report import PutriReport as PutriReport
    from tfprune.quantizing.equalize import equalize as equalize
    from tfprune.quantizing.freeze_ranges import freeze_ranges as freeze_ranges
    from tfprune.quantizing.quantization_report import QuantizationReport as QuantizationReport
    from tfprune.quantizing.quantization_report import quantization_report as quantization_report
    from tfprune.quantizing.quantize_aware import quantize_aware as quantize_aware
    from tfprune.quantizing.quantized import Quantized as Quantized
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
    "keras_models.evidence": ["Episodes", "Gatherer", "MetaGradients"],
    "keras_models.channels": ["NoRule", "register_shrinkable"],
    "masking.wrapping": ["Pruned", "SparsityReport", "sparsity_report", "strip", "wrap"],
    "masking.permuting": ["PermutationReport", "permute_channels"],
    "quantizing": [
        *("QuantizationReport", "Quantized", "equalize", "freeze_ranges", "quantization_report", "quantize_aware"),
    ],
    "compact.narrowing": ["NarrowReport", "narrow"],
    "compact.reconstruction": ["ReconstructionReport", "reconstruct"],
    "compact.shrinking": [
        *("Budget", "GrowingPenalty", "RankingReport", "ShrinkPlan", "budget", "plan_shrink", "rank_channels"),
        *("rank_heads", "shrink", "TransformerPlan", "transformer_budget", "zero_channels"),
    ],
    "compact.vocabulary": ["VocabularyReport", "trim_vocabulary"],
    "methods.one_shot": ["PutriReport", "plan_transformer", "prune_units", "prune_weights"],
    "methods.concepts": ["ConceptRules", "ConceptTrace", "concept_rules", "plan_concepts"],
    "methods.experts": [
        *("ExpertRanking", "ExpertsReport", "GrowthCompute", "drop_experts", "grow_experts", "growth_compute"),
        *("merge_experts", "rank_experts", "register_experts"),
    ],
    "methods.few_shot": [
        *("ChannelTaxonomy", "FewShotReport", "FewShotStage", "MAML", "Prototypes", "prune_few_shot"),
    ],
    "methods.growth": [
        *("BlockRanking", "GrowthReport", "NormProfile", "drop_blocks", "grow_depth", "norm_profile", "rank_blocks"),
    ],
    "methods.moments": ["MomentCosines", "carry_optimizer", "moment_cosines"],
    "compact.fine_tuning": ["Distillation", "FineTuning", "PruneReport", "distilled", "prune_to"],
    "masking.training": [
        *("Grow", "PruningCallback", "PruningSummaries", "SensitivityReport", "learn_allocation"),
        *("TrainingCost", "scale_initial_weights", "sensitivity", "update_masks"),
    ],
}
_MODULES = ("allocation", "criteria", "export", "federated", "patterns", "report", "schedules", "tfmot")

_NAMES = [name for names in _ROOMS.values() for name in names]
__all__ = ["__version__", *_NAMES, *_MODULES]  # noqa: PLE0604

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _ROOMS, modules=_MODULES, beside=["export", "tfmot"])

# Keras finds what was saved by its class, so it has to know it before `load_model` runs.
if sys.modules.get("keras"):  # None where a program blocks it
    importlib.import_module("tfprune.masking.wrapping.pruned")
    importlib.import_module("tfprune.tfmot.wrapper")
    importlib.import_module("tfprune.quantizing.quantized")
    importlib.import_module("tfprune.keras_models.copying.functional_subclass")
    importlib.import_module("tfprune.compact.same_class.exchanged")
    importlib.import_module("tfprune.compact.fine_tuning.distilled")
