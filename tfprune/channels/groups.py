"""The groups of channels of a Keras model: find them by the rules of its layers, and choose those that lose some."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.allocation import Weight
from tfprune.base.arrays import INPUT, OUTPUT
from tfprune.base.spec import ArgumentError, ArgumentTypeError
from tfprune.channels.graph import Flow, Rule
from tfprune.channels.rules import KERNELS, OPERATIONS, SEQUENCES, SHAPES, alone, elementwise
from tfprune.models.anatomy import Filters, Kernel, factors, kernels, selector, walk
from tfprune.models.graph import Graph, trace
from tfprune.patterns import Pattern
from tfprune.solving.dependency_graph import (
    ChanneledLayer,
    ChanneledWeight,
    Group,
    Layout,
    Network,
    Recorded,
    form_groups,
    in_bundles,
)

_Wanted = Callable[[str, keras.layers.Layer, Kernel], bool]
NamedKernels = Mapping[ChanneledWeight, tuple[str, keras.layers.Layer, Kernel]]
_RULES: dict[type, Rule] = {**KERNELS, **SHAPES, **SEQUENCES}
_REGISTERED: set[type] = set()


def known_rule(layer: Any) -> Rule | None:
    """Return the rule of a layer or operation; None for a class that overrides the `call` that the rule is for."""
    kind: Any = type(layer)
    if not isinstance(layer, keras.layers.Layer):
        return OPERATIONS.get(kind.__name__) if kind.__module__.startswith("keras.") else None
    rule_class = next((parent for parent in kind.__mro__ if parent in _RULES), None)
    return _RULES[rule_class] if rule_class in _REGISTERED or (rule_class and kind.call is rule_class.call) else None


def _follow(graph: Graph, closed: Mapping[int, str]) -> Flow:
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
        raise ArgumentTypeError("layer_class", "a subclass of keras.layers.Layer", repr(layer_class))
    if isinstance(rule, str) and rule != "elementwise":
        raise ArgumentError("rule", '`rule` to be "elementwise" or a function', repr(rule))
    if not isinstance(rule, str) and not callable(rule):
        raise ArgumentTypeError("rule", '`rule` to be "elementwise" or a function', repr(rule))
    _RULES[layer_class] = elementwise if isinstance(rule, str) else rule
    _REGISTERED.add(layer_class)


def analyze(model: keras.Model, *, closed: Mapping[int, str] | None = None) -> Network:
    """Follow the channels of a flat model, such as `flat_copy` returns.

    `Network` shows an example.

    Args:
        model: The flat model.
        closed: Why the code of a layer could not be traced, by the id of the layer.
    """
    graph = trace(model)
    flow = _follow(graph, closed or {})
    bundles = flow.bundles()
    layers: dict[str, ChanneledLayer] = {}
    unfollowed: dict[str, str] = {}
    for call in graph.calls:
        if call.name in layers or not (call.holder in flow.recorded or isinstance(call.layer, keras.layers.Layer)):
            continue
        recorded = flow.recorded.get(call.holder, Recorded()).in_bundles(bundles)
        takes = in_bundles(next(iter(flow.inputs(call)), ()), bundles)
        layers[call.name] = layer = _channeled_layer(call.layer, recorded, takes=takes)
        if layer.mixes and call.holder in flow.unfollowed:
            unfollowed[call.name] = flow.unfollowed[call.holder]
    indexed = [along for layer in layers.values() for along in layer.taken_by_index()]
    held = {
        name: [along for weight in layer.weights for along in weight.bundle_sets.values()]
        for name, layer in layers.items()
    }
    return Network(*form_groups(flow, bundles, axes=indexed, holders=held), layers, unfollowed, graph.takers())


def _channeled_layer(layer: Any, recorded: Recorded, *, takes: Layout) -> ChanneledLayer:
    if not isinstance(layer, keras.layers.Layer):
        return ChanneledLayer(layer.name, (), recorded.arguments, ())
    kernels_by_id = {id(kernel.variable): kernel for kernel in kernels(layer)}
    letters = _letters(layer, kernels_by_id)
    of_keras = [inner for _, inner in walk(layer) if type(inner).__module__.startswith("keras.")]
    plain = {id(variable) for inner in of_keras for variable in inner.weights}
    weights = []
    for index, variable in enumerate(layer.weights):
        layout = recorded.weights.get(index, (None,) * len(variable.shape))
        bundles_along = {axis: bundles for axis, bundles in enumerate(layout) if bundles is not None}
        kernel = kernels_by_id.get(id(variable))
        mixes = id(variable) not in plain and len(layout) > 1
        reads, makes = _roles(bundles_along, letters.get(id(variable)), mixes=mixes)
        name = variable.name if kernel is None else kernel.path
        shape, itemsize = tuple(map(int, variable.shape)), np.dtype(_storage(variable.dtype)).itemsize
        weights.append(ChanneledWeight(layer.name, name, shape, bundles_along, itemsize, reads, makes))
    return ChanneledLayer(layer.name, tuple(weights), recorded.arguments, tuple(recorded.work), takes)


def _letters(layer: keras.layers.Layer, kernels: Mapping[int, Kernel]) -> dict[int, Sequence[str | None]]:
    """Return the letters along the axes of the kernels of a layer and of the factors beside them, by their ids."""
    letters: dict[int, Sequence[str | None]] = {key: kernel.axes for key, kernel in kernels.items()}
    for key, factor in factors(layer).items():
        if id(factor.kernel) in kernels:
            letters[key] = factor.axes(kernels[id(factor.kernel)].axes)
    return letters


def _storage(dtype: str) -> str:
    return "float16" if dtype == "bfloat16" else dtype


def _roles(
    tracked: Collection[int], letters: Sequence[str | None] | None, *, mixes: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the axes along which a weight reads channels and those along which it makes them.

    A weight of a Keras layer that is neither a kernel nor a factor beside one shifts or scales each channel by
    itself; a weight of another layer may read all channels it holds.
    """
    if letters is None:
        return (tuple(tracked), ()) if mixes else ((), ())
    reads, makes = ([axis for axis in tracked if letters[axis] == letter] for letter in (INPUT, OUTPUT))
    return tuple(reads), tuple(makes)


def kernels_by_weight(
    network: Network, model: keras.Model
) -> dict[ChanneledWeight, tuple[str, keras.layers.Layer, Kernel]]:
    """Return the kernels of a flat model, each with its path and layer."""
    by_variable = {id(kernel.variable): (layer, kernel) for layer in model.layers for kernel in kernels(layer)}
    return {
        weight: (weight.path, *by_variable[id(variable)])
        for weight, variable in network.variables(model)
        if id(variable) in by_variable
    }


def choose_groups(
    network: Network,
    named: NamedKernels,
    *,
    pattern: Pattern,
    filters: Filters,
    refusal: Callable[[Group], str | None],
) -> list[Group]:
    """Return the groups in which one of the wanted kernels makes channels, and that may lose some.

    Args:
        network: The channels.
        named: The kernels that `filters` chooses from.
        pattern: Its kind says which groups are meant: channels or heads; without a kind, all.
        filters: None takes all kernels.
        refusal: Says why a group has to stay as it is; None if some of its channels may go.

    Raises:
        ValueError: If all groups that one of the filters asks for have to stay.
    """
    others = [(weight.path, layer) for layer in network.layers.values() for weight in layer.weights]
    paths = [path for path, _, _ in named.values()]
    several = isinstance(filters, Sequence) and not isinstance(filters, str)
    free_groups: dict[str, Group] = {}
    for asked in filters if several else [filters]:  # type: ignore[union-attr]
        wanted = selector(asked, pattern, paths, others=others)
        groups = [group for group in network.groups if _is_wanted(group, network, named, wanted)]
        groups = [group for group in groups if pattern.kind in (None, group.kind)]
        reasons = {group.name: refusal(group) for group in groups}
        free = {group.name: group for group in groups if reasons[group.name] is None}
        if not free:
            stuck = [f"{name}: {reason}" for name, reason in (reasons or network.unfollowed).items() if reason]
            raise ArgumentError(
                "filters",
                f"{pattern.kind or 'channels'} that can be removed",
                f"{asked!r}, and these have to stay: "
                f"{'; '.join(stuck[:5]) or 'none are made by a kernel that is known'}",
            )
        free_groups |= free
    return [group for group in network.groups if group.name in free_groups]


def _is_wanted(group: Group, network: Network, named: NamedKernels, wanted: _Wanted) -> bool:
    makers = (weight for weight in network.weights_of(group) if weight.making(group.bundles))
    return any(weight in named and wanted(*named[weight]) for weight in makers)


def why_stuck(
    network: Network, group: Group, *, uncovered: Callable[[ChanneledWeight, Group], str | None]
) -> str | None:
    """Return why none of the channels of a group may go from the weights of a model; None if some may.

    Args:
        network: The channels.
        group: The group.
        uncovered: Says why a weight that makes or reads some of its channels cannot lose them, given the weight and
            the part of the group that may go.
    """
    if group.stuck:
        return group.stuck
    part = group.free_part()
    return next(filter(None, (uncovered(weight, part) for weight in network.weights_of(part))), None)


def as_weights(groups: list[Group], scores: Callable[[], np.ndarray]) -> list[Weight]:
    """Return groups in the form that allocations take: one entry for each bundle."""

    def scored(group: Group) -> Callable[[], np.ndarray]:
        return lambda: scores()[group.bundles]

    return [Weight(group.name, group.bundles.shape, scored(group)) for group in groups]
