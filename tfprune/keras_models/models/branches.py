"""Branches of a graph that are removed whole, such as an attention without heads: what is no longer read."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tfprune.keras_models.models.graph import Graph


def takers_of(graph: Graph) -> dict[str, frozenset[str]]:
    """Return what takes the outputs of each input, layer and operation, by name.

    The outputs of the model are taken by "".
    """
    names: dict[int, str] = {}
    takers: dict[str, set[str]] = {}
    for tensor in graph.model.inputs:
        names[id(tensor)] = tensor.name
        takers[tensor.name] = set()
    for call in graph.calls:
        for tensor in call.inputs:
            takers[names[id(tensor)]].add(call.layer.name)
        takers.setdefault(call.layer.name, set())
        names |= {id(tensor): call.layer.name for tensor in call.outputs}
    for tensor in graph.model.outputs:
        takers[names[id(tensor)]].add("")
    return {name: frozenset(some) for name, some in takers.items()}


def unread(takers: Mapping[str, Collection[str]], *, ends: Collection[str]) -> frozenset[str]:
    """Return the inputs, layers and operations that lead into the ends of removed branches only.

    Args:
        takers: What takes the outputs of each.
        ends: The layers that read nothing any more.

    Example:
        x -> hidden -> out, and the result is added to x:

        >>> takers = {"x": {"hidden", "add"}, "hidden": {"out"}, "out": {"add"}, "add": {""}}
        >>> sorted(unread(takers, ends={"out"}))
        ['hidden']
    """
    names: set[str] = set()
    count = -1
    while ends and len(names) > count:  # again, as a layer that is called twice leads into what comes before others
        count = len(names)
        names |= {name for name, some in takers.items() if all(taker in ends or taker in names for taker in some)}
    return frozenset(names)


def is_cut_off(takers: Mapping[str, Collection[str]], *, ends: Collection[str]) -> bool:
    """Tell whether the outputs of the model would no longer depend on its inputs.

    Args:
        takers: What takes the outputs of each.
        ends: The layers that read nothing any more.
    """
    inputs = takers.keys() - {taker for some in takers.values() for taker in some}
    return inputs <= unread(takers, ends=ends)
