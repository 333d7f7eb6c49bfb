"""The channels behind the weights of a model: who has them under masks, and what is left of a choice of channels."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from tfprune.base.axes import other_axes, shape_along
from tfprune.keras_models.channels.network import ChanneledWeight, Network
from tfprune.masking.wrapping.flat_copy import flat_copy
from tfprune.methods.federated.arrays import Masks

Channeled = list[tuple[int, ChanneledWeight]]


def channeled(model: keras.Model, variables: Sequence[keras.Variable]) -> tuple[Network, Channeled]:
    """Return the channels of a model, and what each of its weights holds of them, with the index of the weight.

    Raises:
        ValueError: If the model cannot be followed.
    """
    copy = flat_copy(model)
    network = copy.network()
    indices = {id(variable): index for index, variable in enumerate(variables)}
    sources = ((weight, copy.sources.get(id(variable))) for weight, variable in network.variables(copy.model))
    return network, [(indices[id(source.variable)], weight) for weight, source in sources if source]


def masks_of_channels(keep: np.ndarray, found: Channeled, *, count: int) -> Masks:
    """Return a mask for each of `count` weights that leaves the entries of kept bundles; None where all are left."""
    masks: Masks = [None] * count
    for index, weight in found:
        for axis, bundles in weight.bundles_along.items():
            kept = np.broadcast_to(keep[bundles].reshape(shape_along(len(weight.shape), axis)), weight.shape)
            before = masks[index]
            masks[index] = kept if before is None else before & kept
    return [None if mask is None or mask.all() else np.array(mask) for mask in masks]


class StatisticsOwners:
    """Which statistics of channels, such as those of BatchNormalization, belong to a client with given masks.

    Args:
        found: What each weight holds of channels.
        variables: The weights.
        size: The number of bundles.
    """

    def __init__(self, found: Channeled, variables: Sequence[keras.Variable], size: int) -> None:
        self._size = size
        self._makers = [(index, axis, weight.bundles_along[axis]) for index, weight in found for axis in weight.makes]
        made = np.unique(np.concatenate([np.empty(0, int), *(bundles for *_, bundles in self._makers)]))
        self._statistics = {
            index: weight.bundles_along[0]
            for index, weight in found
            if not variables[index].trainable and len(weight.shape) == 1 and 0 in weight.bundles_along
            if np.isin(weight.bundles_along[0], made).all()
        }

    def masks(self, masks: Masks) -> Masks:
        """Return masks to which those of statistics were added: True for channels that a kept weight makes."""
        is_made = np.zeros(self._size, bool)
        for index, axis, bundles in self._makers:
            mask = masks[index]
            is_made[bundles if mask is None else bundles[mask.any(axis=other_axes(mask.ndim, axis))]] = True
        added = list(masks)
        for index, bundles in self._statistics.items():
            if added[index] is None and not is_made[bundles].all():
                added[index] = is_made[bundles]
        return added
