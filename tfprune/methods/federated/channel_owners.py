"""The channels of the weights of a model: masks from channels, and the channels that masks keep."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from tfprune.base.axes import other_axes, shape_along
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.masking.wrapping.flat_copy import flat_copy
from tfprune.methods.federated.arrays import Masks
from tfprune.solving.dependency_graph import ChanneledWeight, Network

Channeled = list[tuple[int, ChanneledWeight]]


def channeled(model: keras.Model, variables: Sequence[keras.Variable]) -> tuple[Network, Channeled]:
    """Return the channels of a model, and its weights with channels, each with its index.

    Raises:
        ValueError: If the model cannot be followed.
    """
    copy = flat_copy(Anatomy.of(model))
    network = copy.network
    indices = {id(variable): index for index, variable in enumerate(variables)}
    sources = ((weight, copy.sources.get(id(variable))) for weight, variable in network.variables(copy.model))
    return network, [(indices[id(source.variable)], weight) for weight, source in sources if source]


def masks_of_channels(keep: np.ndarray, weights: Channeled, *, count: int) -> Masks:
    """Return a mask for each of `count` weights that keeps the entries of kept bundles; None if it keeps all."""
    masks: Masks = [None] * count
    for index, weight in weights:
        for axis, bundles in weight.bundles_along.items():
            mask = np.broadcast_to(keep[bundles].reshape(shape_along(len(weight.shape), axis)), weight.shape)
            before = masks[index]
            masks[index] = mask if before is None else before & mask
    return [None if mask is None or mask.all() else np.array(mask) for mask in masks]


class StatisticsOwners:
    """The statistics of channels, such as those of BatchNormalization, that belong to a client with its masks.

    Args:
        weights: The weights with channels.
        variables: All weights.
        size: The number of bundles.
    """

    def __init__(self, weights: Channeled, variables: Sequence[keras.Variable], size: int) -> None:
        self._size = size
        self._makers = [
            (index, axis, weight.bundles_along[axis]) for index, weight in weights for axis in weight.makes
        ]
        outputs = np.unique(np.concatenate([np.empty(0, int), *(bundles for *_, bundles in self._makers)]))
        self._statistics = {
            index: weight.bundles_along[0]
            for index, weight in weights
            if not variables[index].trainable and len(weight.shape) == 1 and 0 in weight.bundles_along
            if np.isin(weight.bundles_along[0], outputs).all()
        }

    def masks(self, masks: Masks) -> Masks:
        """Add the masks of statistics: True for channels that a kept weight computes."""
        is_made = np.zeros(self._size, bool)
        for index, axis, bundles in self._makers:
            mask = masks[index]
            is_made[bundles if mask is None else bundles[mask.any(axis=other_axes(mask.ndim, axis))]] = True
        complete = list(masks)
        for index, bundles in self._statistics.items():
            if complete[index] is None and not is_made[bundles].all():
                complete[index] = is_made[bundles]
        return complete
