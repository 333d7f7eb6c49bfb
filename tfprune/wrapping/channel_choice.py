"""Which layers to wrap so that channels can go: all whose kernels make or read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import keras

from tfprune.channels.analyze import analyze
from tfprune.channels.choose_groups import choose_groups, kernels_by_weight, why_stuck
from tfprune.channels.network import ChanneledWeight, Group, Network
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
        ValueError: If the model is not a graph, or if the channels asked for cannot be removed.
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
    network = analyze(flat.model)
    kernels = kernels_by_weight(network, flat.model, paths=paths)

    def uncovered(weight: ChanneledWeight, group: Group) -> str | None:
        asked = replace(pattern, makes=bool(weight.making(group.bundles)))
        if weight.layer in wrapped and not _covers(wrapped[weight.layer], weight.name, criterion, asked):
            return f"{paths[weight.layer]} is wrapped already, with another criterion or pattern"
        if weight not in kernels:
            return f"{weight.path} is not a kernel that can be masked; tfprune.register_prunable names those"
        return None

    def refusal(group: Group) -> str | None:
        return why_stuck(network, group, uncovered=uncovered)

    groups = choose_groups(network, kernels, pattern=pattern, filters=filters, refusal=refusal)
    cover = _cover(network, groups, paths, pattern)
    return {path: choice for path, choice in cover.items() if path not in {paths[layer] for layer in wrapped}}


def _covers(layer: keras.layers.Layer, weight: str, criterion: Criterion, pattern: Channel) -> bool:
    """Tell whether a wrapper that is there does what is asked for; one that makes channels may read others, too."""
    same = isinstance(layer, Pruned) and layer.criterion == criterion and weight in layer.kernels
    return same and layer.pattern in (pattern, replace(pattern, makes=True))


def _cover(network: Network, groups: list[Group], paths: Mapping[str, str], pattern: Channel) -> Choice:
    names: dict[str, list[str]] = {}
    making = set()
    for group in groups:
        part = network.free_part(group)
        for weight in network.weights_of(part):
            path = paths[weight.layer]
            known = names.setdefault(path, [])
            known += [weight.name] if weight.name not in known else []
            making |= {path} if weight.making(part.bundles) else set()
    shapes: dict[str, Pattern] = {path: replace(pattern, makes=path in making) for path in names}
    return {path: (names[path], shapes[path]) for path in names}
