"""Find the dependency graph of a model, and the groups of channels that are ranked with each other."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from tfprune.base.axes import INPUT, OUTPUT
from tfprune.keras_models.channels.flow import ChannelIndices, Flow, LayerChannels
from tfprune.keras_models.channels.network import ChanneledLayer, ChanneledWeight, Group, Network
from tfprune.keras_models.channels.rules import follow
from tfprune.keras_models.models.branches import takers_of
from tfprune.keras_models.models.graph import trace, unused_name
from tfprune.keras_models.models.kernels import Kernel, kernels
from tfprune.keras_models.models.layers import walk
from tfprune.keras_models.models.low_rank import factors
from tfprune.solving.ties import ChannelSource, joined


def analyze(model: keras.Model, *, closed: Mapping[int, str] | None = None) -> Network:
    """Follow the channels of a flat model, such as `flat_copy` returns.

    `Network` shows an example.

    Args:
        model: The flat model.
        closed: Why the code of a layer could not be traced, by the id of the layer.
    """
    graph = trace(model)
    flow = follow(graph, closed or {})
    bundles = flow.bundles()
    counted = [layer for key, layer in flow.layers.items() if _is_layer(layer) or key in flow.recorded]
    layers = {layer.name: _channeled_layer(flow, layer, bundles) for layer in counted}
    groups = form_groups(flow.sources, layers, bundles=bundles)
    left = {layer.name: flow.unfollowed[key] for key, layer in flow.layers.items() if key in flow.unfollowed}
    unfollowed = {name: reason for name, reason in left.items() if name in layers and layers[name].mixes}
    size = int(bundles.max(initial=-1)) + 1
    return Network(layers, groups, flow.reasons(bundles), size, unfollowed, takers_of(graph))


def _is_layer(layer: Any) -> bool:
    return isinstance(layer, keras.layers.Layer)


def _channeled_layer(flow: Flow, layer: Any, bundles: np.ndarray) -> ChanneledLayer:
    recorded = flow.recorded.get(id(layer), LayerChannels())
    if not _is_layer(layer):
        return ChanneledLayer(layer.name, (), _bundled(recorded.config, flow, bundles), ())
    kernels_by_id = {id(kernel.variable): kernel for kernel in kernels(layer)}
    letters = _letters(layer, kernels_by_id)
    of_keras = [inner for _, inner in walk(layer) if type(inner).__module__.startswith("keras.")]
    plain = {id(variable) for inner in of_keras for variable in inner.weights}
    weights = []
    for index, variable in enumerate(layer.weights):
        layout = recorded.weights.get(index, (None,) * len(variable.shape))
        bundles_along = {axis: bundles[channels] for axis, channels in enumerate(layout) if channels is not None}
        kernel = kernels_by_id.get(id(variable))
        mixes = id(variable) not in plain and len(layout) > 1
        reads, makes = _roles(bundles_along, letters.get(id(variable)), mixes=mixes)
        name = variable.name if kernel is None else kernel.path
        shape, itemsize = tuple(map(int, variable.shape)), np.dtype(_storage(variable.dtype)).itemsize
        weights.append(ChanneledWeight(layer.name, name, shape, bundles_along, itemsize, reads, makes))
    work = tuple((factor, tuple(_bundled(size, flow, bundles) for size in sizes)) for factor, sizes in recorded.work)
    takes = _bundled(flow.taken[id(layer)], flow, bundles)
    return ChanneledLayer(layer.name, tuple(weights), _bundled(recorded.config, flow, bundles), work, takes)


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


def _bundled(value: Any, flow: Flow, bundles: np.ndarray) -> Any:
    """Put bundles in place of channels, and the counts of an inner layer in place of the layer."""
    if isinstance(value, np.ndarray):
        return bundles[value]
    if isinstance(value, ChannelIndices):
        return replace(value, along=bundles[value.along])
    if isinstance(value, tuple):
        return tuple(_bundled(entry, flow, bundles) for entry in value)
    if isinstance(value, dict):
        return {name: _bundled(entry, flow, bundles) for name, entry in value.items()}
    if isinstance(value, keras.layers.Layer):
        return _bundled(flow.recorded[id(value)].config, flow, bundles)
    return value


def form_groups(
    sources: Sequence[ChannelSource], layers: Mapping[str, ChanneledLayer], *, bundles: np.ndarray
) -> tuple[Group, ...]:
    """Return the groups of a network: sources whose channels are tied, directly or through others, are one.

    Args:
        sources: What makes channels.
        layers: The layers of the network, by name.
        bundles: The bundle of each channel.
    """
    names: set[str] = set()
    holders = {
        name: frozenset().union(*(along for weight in layer.weights for along in weight.bundle_sets.values()))
        for name, layer in layers.items()
    }
    return tuple(_group(members, holders, bundles, names=names) for members in joined(sources, bundles))


def _group(
    sources: list[ChannelSource], holders: Mapping[str, frozenset[int]], bundles: np.ndarray, *, names: set[str]
) -> Group:
    """Return the group of some sources, under a name that is not taken."""
    of_group = np.unique(np.concatenate([bundles[source.channels] for source in sources]))
    members = [name for name, along in holders.items() if not along.isdisjoint(of_group.tolist())]
    kind = "heads" if any(source.kind == "heads" for source in sources) else sources[0].kind
    return Group(unused_name(_name(sources, kind), names), kind, of_group, tuple(members))


def _name(sources: list[ChannelSource], kind: str) -> str:
    """Return the name of the first source; for heads that several layers make, what their names have in common."""
    names = [source.name.partition("/")[0] for source in sources if source.kind == kind]
    common = os.path.commonprefix(names).rstrip("_")
    return f"{common}/heads" if kind == "heads" and len(names) > 1 and common else sources[0].name
