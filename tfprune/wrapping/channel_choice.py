"""Which layers to wrap so that channels can go: all whose kernels make or read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import keras

from tfprune.channels.groups import choose_groups, offered, stuck
from tfprune.channels.network import Group, Network, analyse
from tfprune.criteria import Criterion
from tfprune.models.filters import Filters
from tfprune.models.graph import is_plain
from tfprune.models.kinds import leaf_layers
from tfprune.patterns import Channel, Pattern
from tfprune.wrapping.choice import Choice
from tfprune.wrapping.flat_copy import flat_copy
from tfprune.wrapping.pruned import Pruned, holds_pruned


def choose_channels(model: keras.Model, *, criterion: Criterion, pattern: Channel, filters: Filters) -> Choice:
    """Return the kernels that make or read the channels to prune, by the path of their layer, with its pattern.

    Layers that are wrapped already, with this criterion and pattern, stay as they are and are not in the choice.

    Raises:
        ValueError: If the model is no graph, no channels can go, or those asked for cannot.
    """
    if not is_plain(model):
        raise ValueError(
            f"Expected a Sequential or Functional model with pattern={pattern!r}, which follows the channels from "
            f"layer to layer. Received: {model.name!r} of class {type(model).__name__}. Build it as "
            f"keras.Model(inputs, outputs), or wrap single layers of it."
        )
    paths_by_id = {id(layer): path for path, layer in leaf_layers(model)}
    flat = flat_copy(model)
    paths = {name: paths_by_id[id(origin)] for name, origin in flat.origins.items()}
    wrapped = {name: origin for name, origin in flat.origins.items() if holds_pruned(origin)}
    network, kernels = analyse(flat.model), offered(flat.model, paths)

    def refusal(group: Group) -> str | None:
        reason = stuck(network, group)
        for layer, weight, makes in () if reason else _touching(network, group):
            if layer in wrapped and not _covers(wrapped[layer], weight, criterion, replace(pattern, makes=makes)):
                return f"{paths[layer]} is wrapped already, with another criterion or pattern"
            if (layer, weight) not in kernels:
                return f"{layer}/{weight} is no kernel that can be masked; tfprune.register_prunable names those"
        return reason

    groups = choose_groups(network, kernels, pattern=pattern, filters=filters, refusal=refusal)
    cover = _cover(network, groups, paths, pattern)
    return {path: choice for path, choice in cover.items() if path not in {paths[layer] for layer in wrapped}}


def _covers(layer: keras.layers.Layer, weight: str, criterion: Criterion, pattern: Channel) -> bool:
    """Tell whether a wrapper that is there does what is asked for; one that makes channels may read others, too."""
    same = isinstance(layer, Pruned) and layer.criterion == criterion and weight in layer.kernels
    return same and layer.pattern in (pattern, replace(pattern, makes=True))


def _touching(network: Network, group: Group) -> Iterator[tuple[str, str, bool]]:
    """Yield layer and name of each weight that makes or reads channels of a group, and whether it makes them."""
    free = group.bundles[network.free(group)]
    for name in group.members:
        for held in network.parts[name].weights:
            reads, makes = held.axes_of(free)
            if reads or makes:
                yield name, held.name, bool(makes)


def _cover(network: Network, groups: list[Group], paths: Mapping[str, str], pattern: Channel) -> Choice:
    names: dict[str, list[str]] = {}
    making = set()
    for group in groups:
        for layer, weight, makes in _touching(network, group):
            known = names.setdefault(paths[layer], [])
            known += [weight] if weight not in known else []
            making |= {paths[layer]} if makes else set()
    shapes: dict[str, Pattern] = {path: replace(pattern, makes=path in making) for path in names}
    return {path: (names[path], shapes[path]) for path in names}
