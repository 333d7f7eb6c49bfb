"""The table of rules: how channels go through each kind of layer."""

from __future__ import annotations

from typing import Any

import keras

from tfprune.channels.flow import Flow, Rule
from tfprune.channels.no_rule import NoRule
from tfprune.channels.rules_kernels import KERNELS
from tfprune.channels.rules_sequences import SEQUENCES
from tfprune.channels.rules_shapes import OPERATIONS, SHAPES

RULES: dict[type, Rule] = {**KERNELS, **SHAPES, **SEQUENCES}
REGISTERED: set[type] = set()


def rule_of(layer: Any) -> Rule:
    """Return the rule of a layer or operation.

    Raises:
        NoRule: If there is none, or the class of the layer overrides the `call` of the class that the rule is for.
    """
    kind: Any = type(layer)
    if not isinstance(layer, keras.layers.Layer):
        rule = OPERATIONS.get(kind.__name__) if kind.__module__.startswith("keras.") else None
        if rule is None:
            raise NoRule(f"no rule for the operation {kind.__name__}")
        return rule
    known = next((parent for parent in kind.__mro__ if parent in RULES), None)
    if known is None or not (known in REGISTERED or kind.call is known.call):
        raise NoRule(f"no rule for {kind.__name__}: add one with tfprune.register_shrinkable")
    return RULES[known]


def follow(graph: Any) -> Flow:
    """Return the channels of a flat model and where they are."""
    return Flow(graph, rule_of)
