"""Register a rule for a layer of your own."""

from __future__ import annotations

import keras

from tfprune.keras_models.channels.flow import Rule
from tfprune.keras_models.channels.rules import REGISTERED, RULES
from tfprune.keras_models.channels.rules_shapes import elementwise


def register_shrinkable(layer_class: type[keras.layers.Layer], rule: str | Rule = "elementwise") -> None:
    """Register a rule for the channels of a layer class, so that `plan_shrink` can follow them.

    Use it for a layer of your own. A rule is a function of a `flow` and a `call`, with these methods:

    - `flow.inputs(call)`: the layout of each input, a tuple with the numbers of the channels along each axis, or
      None for an axis that has none. `flow.along(layout, axis)` returns the channels along one axis, and refuses a
      layout with channels along another axis.
    - `flow.fresh(count, name=...)`: new channels, such as those that a kernel makes.
    - `flow.tie(first, second)` for channels that can only be removed together, `flow.pin([channels], reason)` for
      channels that must be kept.
    - `flow.record(layer, weights, config=...)`: which axis of which weight holds which channels, and which of the
      layer's arguments count channels. `work=[(flow.positions(shape, axis), sizes)]` adds to the count of FLOPs.
    - `flow.placed(rank, axis, channels)`: the layout of an output with channels along one axis.

    A rule that cannot follow a call raises `tfprune.NoRule(reason)`. The channels are then kept, and the plan lists
    the reason.

    Args:
        layer_class: A subclass of `keras.layers.Layer`. The rule also serves its subclasses.
        rule: `"elementwise"` (the default) for a layer without weights that treats each entry by itself. Otherwise
            a function `rule(flow, call)` that returns a layout for each output.

    Raises:
        TypeError: If `layer_class` is not a layer class, or `rule` is not a function.
        ValueError: If `rule` is a name other than "elementwise".

    Example:
        >>> import tfprune
        >>> class Projection(keras.layers.Dense):
        ...     def call(self, inputs):
        ...         return 2 * super().call(inputs)
        >>> def project(flow, call):
        ...     if call.layer.activation is keras.activations.softmax:
        ...         raise tfprune.NoRule("its softmax looks at all channels at once")
        ...     inputs = flow.along(flow.inputs(call)[0], -1)
        ...     outputs = flow.fresh(call.layer.units, name=call.layer.name)
        ...     weights = {"kernel": (inputs, outputs), "bias": (outputs,)}
        ...     flow.record(call.layer, weights, config={"units": outputs})
        ...     return [flow.placed(len(call.outputs[0].shape), -1, outputs)]
        >>> register_shrinkable(Projection, project)
        >>> stack = [keras.Input((4,)), Projection(8, name="first"), Projection(6, activation="softmax", name="mix")]
        >>> stack += [Projection(8, name="hidden"), keras.layers.Dense(2, name="out")]
        >>> plan = tfprune.plan_shrink(keras.Sequential(stack), 0.5)
        >>> {row.group: (row.channels, row.kept) for row in plan.rows}
        {'first': (8, 8), 'hidden': (8, 4), 'out': (2, 2)}
        >>> plan.skipped[0].reason
        'mix: its softmax looks at all channels at once'
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.layers.Layer)):
        raise TypeError(f"Expected a subclass of keras.layers.Layer. Received: layer_class={layer_class!r}.")
    if isinstance(rule, str) and rule != "elementwise":
        raise ValueError(f'Expected `rule` to be "elementwise" or a function. Received: rule={rule!r}.')
    if not isinstance(rule, str) and not callable(rule):
        raise TypeError(f'Expected `rule` to be "elementwise" or a function. Received: rule={rule!r}.')
    RULES[layer_class] = elementwise if isinstance(rule, str) else rule
    REGISTERED.add(layer_class)
