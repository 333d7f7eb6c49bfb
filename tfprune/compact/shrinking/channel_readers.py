"""The linear maps that read channels, found in a model that runs: the layers inside of its blocks are listened to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.base.axes import shape_along
from tfprune.compact.reconstruction.layer_moments import Site
from tfprune.compact.reconstruction.linear_map import NotLinear, linear_map
from tfprune.keras_models.models.graph import Graph, trace_to_run
from tfprune.keras_models.models.kernels import Kernel, to_matrix
from tfprune.keras_models.models.layers import walk
from tfprune.masking.wrapping.flat_copy import FlatCopy
from tfprune.solving.dependency_graph import ChanneledWeight, Group, Network


@dataclass(frozen=True, eq=False)
class Reader:
    """A linear map that reads the channels of a group.

    Attributes:
        site: The map, in the graph that runs.
        weight: Its kernel in the dependency graph.
        indices: The indices of each bundle among its inputs, of shape (bundles, indices).
    """

    site: Site
    weight: ChanneledWeight
    indices: np.ndarray


class RunningModel:
    """A copy of a model that runs on data of any size, with the channels that were found in its flat copy.

    Args:
        copy: The flat copy, whose layers are the ones that run.
    """

    def __init__(self, copy: FlatCopy) -> None:
        self.network: Network = copy.network
        self.graph: Graph = trace_to_run(copy.called)
        self.variables = list(self.network.variables(copy.model))
        self._leaves = {layer.name: layer for layer in copy.model.layers}
        self._inside = [
            {id(part) for _, part in walk(call.layer)} if isinstance(call.layer, keras.layers.Layer) else set()
            for call in self.graph.calls
        ]

    def readers_of(self, group: Group) -> list[Reader]:
        """Return the maps that read bundles of a group.

        Raises:
            NotLinear: If one of them is not a linear map of these inputs, or some bundles have more inputs than
                others.
        """
        readers = []
        for weight in self.network.weights_of(group):
            for axis in weight.reading(group.bundles):
                site = self._site(weight)
                readers.append(Reader(site, weight, _input_indices(site.map.kernel, weight, axis, group.bundles)))
        return readers

    def _site(self, weight: ChanneledWeight) -> Site:
        leaf: Any = self._leaves[weight.layer]
        calls = [call for call, inside in zip(self.graph.calls, self._inside, strict=True) if id(leaf) in inside]
        own_map = linear_map(leaf)
        if own_map.kernel.path != weight.name or own_map.groups > 1 or not calls:
            raise NotLinear(f"{weight.layer} reads them by {weight.name}")
        return Site(weight.layer, own_map, calls, self.graph)


def _input_indices(kernel: Kernel, weight: ChanneledWeight, axis: int, bundles: np.ndarray) -> np.ndarray:
    """Return the indices of each bundle among the inputs of a kernel's matrix, of shape (bundles, indices)."""
    along = weight.bundles_along[axis].reshape(shape_along(len(weight.shape), axis))
    inputs = to_matrix(np.broadcast_to(along, weight.shape), kernel)[0].ravel()
    indices = [np.flatnonzero(inputs == bundle) for bundle in bundles]
    if len({own.size for own in indices}) > 1:
        raise NotLinear("some of these channels have more inputs than others")
    return np.array(indices)
