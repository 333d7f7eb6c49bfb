"""Find the hidden units and heads of a transformer that may go, and the parts that may go whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tfprune.compact.reconstruction.linear_map import NotLinear
from tfprune.compact.shrinking.channel_readers import RunningModel
from tfprune.keras_models.channels.choose_groups import why_stuck
from tfprune.keras_models.channels.network import Group, Network
from tfprune.keras_models.models.branches import is_cut_off
from tfprune.methods.one_shot.remove_in_order import Removal
from tfprune.report import Skipped


def find_removals(running: RunningModel) -> tuple[list[Removal], list[Removal], tuple[Skipped, ...]]:
    """Return a removal for each group of hidden units, one for each group of heads, and the groups that are skipped.

    A whole feed-forward network or attention may go where the model still depends on its inputs without all of them.
    """
    units, skipped = _removals(running, kind="channels")
    heads, others = _removals(running, kind="heads")
    network = running.network
    branches = [each.group for each in units + heads if network.branch_ends(without(network, [each.group]))]
    ends = network.branch_ends(without(network, branches))
    whole = set() if is_cut_off(network.takers, ends=ends) else {group.name for group in branches}

    def completed(removal: Removal) -> Removal:
        least = 0 if removal.group.name in whole else 1
        return replace(removal, least=least, parts=_parts(network, removal.group, is_whole=not least))

    return list(map(completed, units)), list(map(completed, heads)), (*skipped, *others)


def without(network: Network, groups: list[Group]) -> np.ndarray:
    """Return which bundles are kept where all of some groups are removed."""
    keep = network.all_kept()
    for group in groups:
        keep[group.bundles] = False
    return keep


def _parts(network: Network, group: Group, *, is_whole: bool) -> tuple[np.ndarray, ...]:
    """Return the indices of the channels that go together: all, where kernels go that only the whole group frees.

    Such a kernel makes the only keys and values of a layer, which all of its queries share.
    """
    indices = np.arange(group.bundles.size)
    keep = without(network, [group])
    gone = network.unread(keep) | network.branch_ends(keep)
    shared = [
        weight
        for name in gone & network.layers.keys()
        for weight in network.layers[name].weights
        if weight.reads + weight.makes and not weight.holding(group.bundles)
    ]
    return (indices,) if is_whole and shared else tuple(indices[:, np.newaxis])


def _removals(running: RunningModel, *, kind: str) -> tuple[list[Removal], list[Skipped]]:
    """Return a removal for each group of a kind that one layer reads, and the groups that are skipped."""
    removals: list[Removal] = []
    skipped: list[Skipped] = []
    for group in running.network.groups:
        part = running.network.free_part(group)
        if group.kind != kind:
            continue
        reason = why_stuck(running.network, group)
        if kind == "channels" and not _are_units(running.network, part):
            reason = reason or "parts of attention, not hidden units"
        try:
            readers = running.readers_of(part) if reason is None else []
            if reason is None and len(readers) != 1:
                reason = f"{len(readers)} layers read it, not one"
        except NotLinear as error:
            reason = str(error)
        if reason is None and part.bundles.size > 1:
            removals.append(Removal(part, readers[0], part.bundles.size))
        else:
            skipped.append(Skipped(group.name, reason or "one is left", Skipped.HELD))
    return removals, skipped


def _are_units(network: Network, group: Group) -> bool:
    """Tell whether matrices make and read channels: a kernel of attention has an axis of heads, too."""
    return all(
        len(weight.shape) == 2
        for weight in network.weights_of(group)
        if weight.making(group.bundles) or weight.reading(group.bundles)
    )
