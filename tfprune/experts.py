"""Mixtures of experts: rank, drop, merge and grow experts, and register layers of your own.

The importance of an expert is that of "REAP the Experts" (arXiv:2510.13999), and growth that of "Beyond Sunk Costs"
(arXiv:2510.08008). KerasHub's mixtures are known; `register` adds others.

Example:
    >>> import keras_hub, tfprune
    >>> sizes = {"num_query_heads": 2, "num_key_value_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
    >>> sizes |= {"vocabulary_size": 20, "num_layers": 1}
    >>> model = keras_hub.models.MixtralBackbone(num_experts=4, top_k=2, **sizes)
    >>> smaller, report = tfprune.experts.drop(model, [1, 3])
    >>> smaller.num_experts
    2
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfprune.base.spec import lazy_names

if TYPE_CHECKING:
    from tfprune.methods.experts.change import ExpertRanking as ExpertRanking
    from tfprune.methods.experts.change import drop_experts as drop
    from tfprune.methods.experts.change import grow_experts as grow
    from tfprune.methods.experts.change import merge_experts as merge
    from tfprune.methods.experts.change import rank_experts as rank
    from tfprune.methods.experts.experts import ExpertsReport as ExpertsReport
    from tfprune.methods.experts.experts import register_experts as register

_HOMES = {
    "methods.experts.change": [
        "drop_experts as drop",
        "ExpertRanking",
        "grow_experts as grow",
        "merge_experts as merge",
        "rank_experts as rank",
    ],
    "methods.experts.experts": ["ExpertsReport", "register_experts as register"],
}
# In full, as ruff and mypy read it.
__all__ = [
    "ExpertRanking",
    "ExpertsReport",
    "drop",
    "grow",
    "merge",
    "rank",
    "register",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _HOMES, package="tfprune")
