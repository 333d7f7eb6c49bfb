"""How a layer of your own is followed."""

from __future__ import annotations

import keras

from tfprune.channels.flow import Rule
from tfprune.channels.rules import REGISTERED, RULES
from tfprune.channels.rules_shapes import elementwise


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
        raise TypeError(f"Expected a subclass of keras.layers.Layer. Received: layer_class={layer_class!r}.")
    if isinstance(rule, str) and rule != "elementwise":
        raise ValueError(f'Expected `rule` to be "elementwise" or a function. Received: rule={rule!r}.')
    if not isinstance(rule, str) and not callable(rule):
        raise TypeError(f'Expected `rule` to be "elementwise" or a function. Received: rule={rule!r}.')
    RULES[layer_class] = elementwise if isinstance(rule, str) else rule
    REGISTERED.add(layer_class)
