"""Which groups of channels may lose some: what `filters` means where channels are removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras

from tfprune.channels.network import Group, Network
from tfprune.models.filters import Filters, selector
from tfprune.models.kernels import Kernel, kernels
from tfprune.patterns import Pattern

Offered = Mapping[tuple[str, str], tuple[str, keras.layers.Layer, Kernel]]


def offered(model: keras.Model, paths: Mapping[str, str] | None = None) -> Offered:
    """Return the kernels of a flat model by layer and name, each with its path and layer.

    Args:
        model: A flat model.
        paths: Where its layers stand in the model that it came from; None takes their names.
    """
    return {
        (layer.name, kernel.path): (f"{(paths or {}).get(layer.name, layer.name)}/{kernel.path}", layer, kernel)
        for layer in model.layers
        for kernel in kernels(layer)
    }


def choose_groups(
    network: Network,
    kernels_offered: Offered,
    *,
    pattern: Pattern,
    filters: Filters,
    refusal: Callable[[Group], str | None],
) -> list[Group]:
    """Return the groups of which one of the wanted kernels makes channels, and that may lose some.

    Args:
        network: The channels.
        kernels_offered: Among which `filters` chooses.
        pattern: Whose kind of group is meant; all of them where it has none.
        filters: None takes all.
        refusal: Says why a group has to stay as it is.

    Raises:
        ValueError: If none is left, or one that was asked for has to stay.
    """
    wanted = selector(filters, pattern, [path for path, _, _ in kernels_offered.values()])

    def is_wanted(group: Group) -> bool:
        made = [kernels_offered[place] for place in makers(network, group) if place in kernels_offered]
        return any(wanted(path, layer, kernel) for path, layer, kernel in made)

    groups = [group for group in network.groups if pattern.kind in (None, group.kind) and is_wanted(group)]
    reasons = {group.name: refusal(group) for group in groups}
    free = [group for group in groups if reasons[group.name] is None]
    if not free or (filters is not None and len(free) < len(groups)):
        stuck = [f"{name}: {reason}" for name, reason in reasons.items() if reason]
        raise ValueError(
            f"Expected {pattern.kind or 'channels'} that can be removed. Received: filters={filters!r}, and these "
            f"have to stay: {'; '.join(stuck[:5]) or 'none are made by a kernel that is known'}."
        )
    return free


def makers(network: Network, group: Group) -> list[tuple[str, str]]:
    """Return the layers and names of the weights that make the channels of a group."""
    return [
        (name, held.name)
        for name in group.members
        for held in network.parts[name].weights
        if held.axes_of(group.bundles)[1]
    ]


def stuck(network: Network, group: Group) -> str | None:
    """Say why none of the channels of a group may go; None if some may."""
    if group.bundles.size < 2:
        return "only one"
    return None if network.free(group).any() else first_reason(network, group)


def first_reason(network: Network, group: Group) -> str | None:
    """Return why the first of the bundles of a group that has to stay does."""
    return next((network.reasons[label] for label in group.bundles.tolist() if label in network.reasons), None)
