"""Which rule follows the channels through which layer, and how to add one."""

from __future__ import annotations

from typing import Any

import keras

from tfprune.flow import Flow, NoRule, Rule
from tfprune.rules_kernels import KERNELS
from tfprune.rules_sequences import SEQUENCES
from tfprune.rules_shapes import OPERATIONS, SHAPES, elementwise

_RULES: dict[type, Rule] = {**KERNELS, **SHAPES, **SEQUENCES}
_REGISTERED: set[type] = set()


def register_shrinkable(layer_class: type[keras.layers.Layer], rule: str | Rule = "elementwise") -> None:
    """Say what a layer of your own does with channels, so that `plan_shrink` can follow them through it.

    Args:
        layer_class: A subclass of `keras.layers.Layer`; the rule serves its subclasses too.
        rule: `"elementwise"` for a layer without weights that treats every entry by itself. Otherwise a function of
            a `Flow` and a `Call` that returns a layout for each output: a tuple with the numbers of the channels
            along each axis, or None. `flow.inputs(call)` are the layouts of its inputs, `flow.fresh(n, name=...)`
            makes channels for its outputs, `flow.record` notes which axis of which weight holds what, and which of
            its arguments count channels.

    Raises:
        TypeError: If `layer_class` is no layer class or the rule no function.
        ValueError: For another name than "elementwise".

    Example:
        >>> class Projection(keras.layers.Dense):
        ...     def call(self, inputs):
        ...         return 2 * super().call(inputs)
        >>> def project(flow, call):
        ...     inputs = flow.inputs(call)[0][-1]
        ...     outputs = flow.fresh(call.layer.units, name=call.layer.name)
        ...     weights = {"kernel": (inputs, outputs), "bias": (outputs,)}
        ...     flow.record(call.layer, weights, config={"units": outputs})
        ...     return [(None, outputs)]
        >>> register_shrinkable(Projection, project)
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.layers.Layer)):
        raise TypeError(f"Expected a subclass of keras.layers.Layer. Received: layer_class={layer_class!r}")
    if isinstance(rule, str) and rule != "elementwise":
        raise ValueError(f'Expected `rule` to be "elementwise" or a function. Received: rule={rule!r}')
    if not isinstance(rule, str) and not callable(rule):
        raise TypeError(f'Expected `rule` to be "elementwise" or a function. Received: rule={rule!r}')
    _RULES[layer_class] = elementwise if isinstance(rule, str) else rule
    _REGISTERED.add(layer_class)


def rule_of(layer: Any) -> Rule:
    """Return the rule of a layer or operation.

    Raises:
        NoRule: If there is none, or its class changes what the one it derives from computes.
    """
    kind: Any = type(layer)
    if not isinstance(layer, keras.layers.Layer):
        rule = OPERATIONS.get(kind.__name__) if kind.__module__.startswith("keras.") else None
        if rule is None:
            raise NoRule(f"no rule for the operation {kind.__name__}")
        return rule
    known = next((parent for parent in kind.__mro__ if parent in _RULES), None)
    if known is None or not (known in _REGISTERED or kind.call is known.call):
        raise NoRule(f"no rule for {kind.__name__}: tfprune.register_shrinkable says what it does with channels")
    return _RULES[known]


def follow(graph: Any) -> Flow:
    """Return the channels of a flat model and where they are."""
    return Flow(graph, rule_of)
