"""Concepts: find rules that recognize a concept from activations, and keep the units that required concepts need.

The system is that of "Engineering Resource-constrained Software Systems with DNN Components" (arXiv:2604.09988).
`plan_concepts` returns a plan for `tfprune.shrink`, and a trace with the reason for each unit that is kept.

Example:
    >>> import keras, numpy as np, tfprune
    >>> x = np.random.default_rng(0).normal(size=(400, 4)).astype("float32")
    >>> layers = [keras.Input((4,)), keras.layers.Dense(8, name="hidden"), keras.layers.Dense(2)]
    >>> rules = tfprune.concepts.concept_rules(keras.Sequential(layers), x, {"right": x[:, 0] > 0})
    >>> rules.layers
    {'hidden': 8}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfprune.base.spec import lazy_names

if TYPE_CHECKING:
    from tfprune.methods.concepts.plan import ConceptTrace as ConceptTrace
    from tfprune.methods.concepts.plan import plan_concepts as plan_concepts
    from tfprune.methods.concepts.rules import ConceptRules as ConceptRules
    from tfprune.methods.concepts.rules import concept_rules as concept_rules

_HOMES = {
    "methods.concepts.rules": ["ConceptRules", "concept_rules"],
    "methods.concepts.plan": ["ConceptTrace", "plan_concepts"],
}
__all__ = [name for names in _HOMES.values() for name in names]  # noqa: PLE0604

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _HOMES, package="tfprune")
