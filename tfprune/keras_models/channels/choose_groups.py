"""Which groups of channels may lose some: the meaning of `filters` where channels are removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import keras

from tfprune.keras_models.channels.network import ChanneledWeight, Group, Network
from tfprune.keras_models.models.filters import Filters, selector
from tfprune.keras_models.models.kernels import Kernel, kernels
from tfprune.patterns import Pattern

Wanted = Callable[[str, keras.layers.Layer, Kernel], bool]
NamedKernels = Mapping[ChanneledWeight, tuple[str, keras.layers.Layer, Kernel]]


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
            raise ValueError(
                f"Expected {pattern.kind or 'channels'} that can be removed. Received: filters={asked!r}, and these "
                f"have to stay: {'; '.join(stuck[:5]) or 'none are made by a kernel that is known'}."
            )
        free_groups |= free
    return [group for group in network.groups if group.name in free_groups]


def _is_wanted(group: Group, network: Network, named: NamedKernels, wanted: Wanted) -> bool:
    makers = (weight for weight in network.weights_of(group) if weight.making(group.bundles))
    return any(weight in named and wanted(*named[weight]) for weight in makers)


def why_stuck(
    network: Network, group: Group, *, uncovered: Callable[[ChanneledWeight, Group], str | None] | None = None
) -> str | None:
    """Return why none of the channels of a group may go; None if some may.

    Args:
        network: The channels.
        group: The group.
        uncovered: Says why a weight that makes or reads some of its channels cannot lose them, given the weight and
            the part of the group that may go.
    """
    if group.bundles.size < 2:
        return "only one"
    part = network.free_part(group)
    if not part.bundles.size:
        return first_reason(network, group)
    reasons = (uncovered(weight, part) for weight in network.weights_of(part)) if uncovered else ()
    return next(filter(None, reasons), None)


def first_reason(network: Network, group: Group) -> str | None:
    """Return why the first of the bundles of a group that has to stay does."""
    return next((network.reasons[bundle] for bundle in group.bundles.tolist() if bundle in network.reasons), None)
