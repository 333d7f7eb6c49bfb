"""The facade: at most 50 names on top, doors with the rest, and errors that name the right place."""

from __future__ import annotations

import importlib

import pytest
from public_names import DOORS

import tfprune
from tfprune.base.spec import lazy_names

# What stood on top before the doors came, by its new place.
LEFT = {
    "transformers": "rank_heads rank_blocks drop_blocks narrow trim_vocabulary transformer_budget TransformerPlan "
    "BlockRanking NarrowReport VocabularyReport",
    "growth": "grow_depth carry_optimizer moment_cosines norm_profile growth_compute GrowthReport GrowthCompute "
    "NormProfile MomentCosines",
    "experts": "ExpertRanking ExpertsReport",
    "concepts": "concept_rules plan_concepts ConceptRules ConceptTrace",
    "few_shot": "prune_few_shot ChannelTaxonomy FewShotReport FewShotStage MAML Prototypes Episodes MetaGradients",
    "research": "GrowingPenalty learn_allocation scale_initial_weights TrainingCost",
    "masking.strip": "SparsityReport",
    "masking.sensitivity": "SensitivityReport",
    "masking.permute_channels": "PermutationReport",
    "quantizing.quantize_aware": "QuantizationReport",
    "compact.reconstruct": "ReconstructionReport",
    "compact.plan": "Budget",
    "compact.rank": "RankingReport",
    "compact.prune_to": "PruneReport",
    "methods.one_shot.removal": "PutriReport",
}
NEW = {name: f"tfprune.{place}.{name}" for place, names in LEFT.items() for name in names.split()}
NEW |= {f"{name}_experts": f"tfprune.experts.{name}" for name in ("rank", "drop", "merge", "grow", "register")}


def test_the_top_has_at_most_50_names():
    assert len(tfprune.__all__) <= 50
    assert {*DOORS} <= {*tfprune.__all__}


@pytest.mark.parametrize("old", NEW)
def test_an_old_place_is_answered_with_the_new_one(old):
    with pytest.raises(AttributeError, match=rf"^module 'tfprune' has no attribute '{old}'\. Use {NEW[old]}\.$"):
        getattr(tfprune, old)
    home, _, name = NEW[old].rpartition(".")
    assert getattr(importlib.import_module(home), name).__name__ in (name, old)


def test_a_misspelled_name_is_answered_with_the_right_one():
    with pytest.raises(AttributeError, match=r"module 'tfprune' has no attribute 'buget'. Did you mean 'budget'\?"):
        tfprune.buget  # noqa: B018
    with pytest.raises(AttributeError, match=r"'tfprune.growth' has no attribute 'grow_dept'. Did you mean 'grow_d"):
        tfprune.growth.grow_dept  # noqa: B018


def test_a_private_name_gets_no_advice():
    with pytest.raises(AttributeError, match=r"has no attribute '_wrap'$"):
        tfprune._wrap  # noqa: B018


def test_an_entry_may_offer_a_name_under_another_one():
    get, names = lazy_names("facade", {"base.spec": ["lazy_names as lazy"]}, package="tfprune")
    assert get("lazy") is lazy_names and names() == ["lazy"]
    with pytest.raises(AttributeError, match="module 'facade' has no attribute 'lazy_names'$"):
        get("lazy_names")


@pytest.mark.parametrize("door", DOORS)
def test_a_door_offers_what_it_lists_and_says_what_it_holds(door):
    module = getattr(tfprune, door)
    assert dir(module) == sorted(module.__all__)
    assert "arXiv:" in module.__doc__ and ">>> " in module.__doc__
