"""Form the groups of channels that are ranked with each other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from tfprune.keras_models.channels.network import ChanneledLayer, Group
from tfprune.keras_models.channels.ties import ChannelSource
from tfprune.keras_models.models.graph import unused_name


def form_groups(
    sources: Sequence[ChannelSource], layers: Mapping[str, ChanneledLayer], *, bundles: np.ndarray
) -> tuple[Group, ...]:
    """Return the groups of a network: sources whose channels are tied, directly or through others, are one.

    Args:
        sources: What makes channels.
        layers: The layers of the network, by name.
        bundles: The bundle of each channel.
    """
    taken: set[str] = set()
    holders = {
        name: frozenset().union(*(along for weight in layer.weights for along in weight.bundle_sets.values()))
        for name, layer in layers.items()
    }
    return tuple(_group(members, holders, bundles, taken=taken) for members in joined(sources, bundles))


def _group(
    sources: list[ChannelSource], holders: Mapping[str, frozenset[int]], bundles: np.ndarray, *, taken: set[str]
) -> Group:
    """Return the group of some sources, under a name that is not taken."""
    of_group = np.unique(np.concatenate([bundles[source.channels] for source in sources]))
    members = [name for name, along in holders.items() if not along.isdisjoint(of_group.tolist())]
    kind = "heads" if any(source.kind == "heads" for source in sources) else sources[0].kind
    return Group(unused_name(_name(sources, kind), taken), kind, of_group, tuple(members))


def _name(sources: list[ChannelSource], kind: str) -> str:
    """Return the name of the first source; for heads that several layers make, what their names have in common."""
    names = [source.name.partition("/")[0] for source in sources if source.kind == kind]
    common = os.path.commonprefix(names).rstrip("_")
    return f"{common}/heads" if kind == "heads" and len(names) > 1 and common else sources[0].name


def joined(sources: Sequence[ChannelSource], bundles: np.ndarray) -> list[list[ChannelSource]]:
    """Group the sources that share a bundle, directly or through others, in order."""
    owner: dict[int, list[int]] = {}
    groups: list[list[int]] = []
    for index, source in enumerate(sources):
        made = np.unique(bundles[source.channels]).tolist()
        met = list({id(owner[bundle]): owner[bundle] for bundle in made if bundle in owner}.values())
        group = [member for earlier in met for member in earlier] + [index]
        groups = [other for other in groups if not any(other is earlier for earlier in met)] + [group]
        for member in group:
            owner.update(dict.fromkeys(bundles[sources[member].channels].tolist(), group))
    return [[sources[index] for index in group] for group in sorted(sorted(group) for group in groups)]
