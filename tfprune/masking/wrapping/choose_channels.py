"""Which layers to wrap so that channels can go: all whose kernels make or read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import keras

from tfprune.criteria import Criterion
from tfprune.keras_models.channels.groups import choose_groups, kernels_by_weight, why_stuck
from tfprune.keras_models.copying.twin import layer_inside
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.filters import Filters
from tfprune.keras_models.models.kernels import kernels
from tfprune.masking.wrapping.choose_weights import Choice
from tfprune.masking.wrapping.flat_copy import Source, flat_copy
from tfprune.masking.wrapping.pruned import Pruned, holds_pruned
from tfprune.patterns import Channel, Pattern
from tfprune.solving.dependency_graph import ChanneledWeight, Group, Network


def choose_channels(
    anatomy: Anatomy, *, criterion: Criterion, pattern: Channel, filters: Filters, latent: str
) -> Choice:
    """Return the kernels that make or read the channels to prune, by the path of their layer, with its pattern.

    Layers that are wrapped already, with these arguments, stay as they are and are not in the choice.

    Raises:
        ValueError: If the model is not a graph, or if the channels asked for cannot be removed.
    """
    flat = flat_copy(anatomy)
    network = flat.network
    kernels = kernels_by_weight(network, flat.model)
    places = {
        weight: place
        for weight, variable in network.variables(flat.model)
        for place in [location_of(flat.sources[id(variable)])]
        if weight in kernels and place is not None
    }
    with_paths = {weight: (places[weight].path, *kernels[weight][1:]) for weight in places}

    def uncovered(weight: ChanneledWeight, group: Group) -> str | None:
        asked = replace(pattern, makes=bool(weight.making(group.bundles)))
        place = places.get(weight)
        if place and holds_pruned(place.layer) and not _covers(place, criterion, asked):
            return f"{place.layer_path} is wrapped already, with another criterion or pattern"
        if place and holds_pruned(place.layer) and place.layer.latent_values != latent:
            return f"{place.layer_path} is wrapped already, with latent={place.layer.latent_values!r}"
        if place is None and weight.name.startswith("lora_"):
            return f"{weight.path} is a factor of LoRA, which fills the zeros of its kernel"
        if place is None:
            return f"{weight.path} is not a kernel that can be masked; tfprune.register_prunable names those"
        return None

    def refusal(group: Group) -> str | None:
        return why_stuck(network, group, uncovered=uncovered)

    groups = choose_groups(network, with_paths, pattern=pattern, filters=filters, refusal=refusal)
    return _cover(network, groups, places, pattern)


@dataclass(frozen=True)
class KernelLocation:
    """Where a kernel is in the model to wrap.

    Attributes:
        layer: The layer in the model's own list that has it, itself or in a layer inside.
        layer_path: The path of this layer.
        name: The path of the kernel in this layer.
    """

    layer: keras.layers.Layer
    layer_path: str
    name: str

    @property
    def path(self) -> str:
        return f"{self.layer_path}/{self.name}"


def location_of(source: Source) -> KernelLocation | None:
    """Return the place of a kernel; None for a weight that is not one."""
    names = {id(kernel.variable): kernel.path for kernel in kernels(layer_inside(source.layer))}
    name = names.get(id(source.variable))
    return None if name is None else KernelLocation(source.layer, source.path, name)


def _covers(place: KernelLocation, criterion: Criterion, pattern: Channel) -> bool:
    """Tell whether a wrapper that is there does what is asked for; one that makes channels may read others, too."""
    layer = place.layer
    same = isinstance(layer, Pruned) and layer.criterion == criterion and place.name in layer.kernels
    return same and layer.pattern in (pattern, replace(pattern, makes=True))


def _cover(
    network: Network, groups: list[Group], places: Mapping[ChanneledWeight, KernelLocation], pattern: Channel
) -> Choice:
    """Return the choice of all kernels of some groups whose layers are not wrapped yet."""
    names: dict[str, list[str]] = {}
    making = set()
    for group in groups:
        part = group.free_part()
        for weight in network.weights_of(part):
            place = places[weight]
            if not holds_pruned(place.layer):
                weight_names = names.setdefault(place.layer_path, [])
                weight_names += [place.name] if place.name not in weight_names else []
                making |= {place.layer_path} if weight.making(part.bundles) else set()
    shapes: dict[str, Pattern] = {path: replace(pattern, makes=path in making) for path in names}
    return {path: (names[path], shapes[path]) for path in names}
