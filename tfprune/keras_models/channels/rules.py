"""The table of rules: how channels go through each kind of layer."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import keras

from tfprune.keras_models.channels.flow import Flow, Rule
from tfprune.keras_models.channels.rules_kernels import KERNELS
from tfprune.keras_models.channels.rules_operations import OPERATIONS, alone
from tfprune.keras_models.channels.rules_sequences import SEQUENCES
from tfprune.keras_models.channels.rules_shapes import SHAPES

RULES: dict[type, Rule] = {**KERNELS, **SHAPES, **SEQUENCES}
REGISTERED: set[type] = set()


def known_rule(layer: Any) -> Rule | None:
    """Return the rule of a layer or operation; None for a class that overrides the `call` that the rule is for."""
    kind: Any = type(layer)
    if not isinstance(layer, keras.layers.Layer):
        return OPERATIONS.get(kind.__name__) if kind.__module__.startswith("keras.") else None
    rule_class = next((parent for parent in kind.__mro__ if parent in RULES), None)
    return RULES[rule_class] if rule_class in REGISTERED or (rule_class and kind.call is rule_class.call) else None


def follow(graph: Any, closed: Mapping[int, str]) -> Flow:
    """Return the channels of a flat model and where they are.

    Args:
        graph: Its calls.
        closed: Why the code of a layer could not be traced, by the id of the layer.
    """

    def rule_of(layer: Any) -> Rule:
        return known_rule(layer) or functools.partial(alone, reason=_unknown(layer, closed))

    return Flow(graph, rule_of)


def _unknown(layer: Any, closed: Mapping[int, str]) -> str:
    kind = type(layer).__name__
    if not isinstance(layer, keras.layers.Layer):
        return f"no rule for the operation {kind}"
    if id(layer) in closed:
        return f"its code cannot be traced: {closed[id(layer)]}"
    return f"no rule for {kind}: add one with tfprune.register_shrinkable"
