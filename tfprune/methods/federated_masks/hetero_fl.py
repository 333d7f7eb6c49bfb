"""HeteroFL: small clients train the leading channels of every layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import keras
import numpy as np

from tfprune.base.spec import Spec, check_number
from tfprune.methods.federated.arrays import Masks
from tfprune.methods.federated.channel_owners import channeled, masks_of_channels
from tfprune.methods.federated.masked_model import MaskedModel


@dataclass(frozen=True)
class HeteroFL(Spec):
    """Masks that keep the first channels of each layer, for clients of different strength.

    A larger client has all entries of a smaller one. Average with a weight of 1 for each client, as the authors of
    the paper do.

    Args:
        model_rate: The fraction of the channels to keep, in (0, 1]; the number of channels is rounded up.

    Raises:
        TypeError: If `model_rate` is not a number.
        ValueError: If `model_rate` is out of range.

    Example:
        >>> import tfprune
        >>> layers = [keras.Input((2,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(1, name="out")]
        >>> masks = HeteroFL(0.5).masks(tfprune.wrap(keras.Sequential(layers)))
        >>> [None if mask is None else mask.astype(int).tolist() for mask in masks]
        [[[1, 1, 0, 0], [1, 1, 0, 0]], [1, 1, 0, 0], [[1], [1], [0], [0]], None]

    Reference:
        Diao et al., 2021, "HeteroFL: Computation and Communication Efficient Federated Learning for Heterogeneous
        Clients", arXiv:2010.01264.
    """

    model_rate: float

    def __post_init__(self) -> None:
        meaning = "the fraction of channels to keep"
        self._hold(model_rate=check_number(self.model_rate, "model_rate", above=0, most=1, meaning=meaning))

    def masks(self, model: keras.Model) -> Masks:
        """Return masks that keep the first channels of each layer.

        The inputs and outputs of the model, and channels that cannot be removed, are kept whole.

        Args:
            model: A wrapped model. It is not changed; pass the masks to `MaskedModel.set_masks`.

        Returns:
            One mask for each weight, in the order of `MaskedModel.weights`; biases and statistics lose channels as
            well. None for an array that is kept whole.

        Raises:
            TypeError: If `model` is not a Keras model.
            ValueError: If the model has no pruned layers, or its channels cannot be followed.
        """
        variables = MaskedModel(model).variables
        network, weights = channeled(model, variables)
        keep = network.all_kept()
        for group in network.groups:
            free = np.sort(group.free_part().bundles)
            keep[free[math.ceil(self.model_rate * len(free)) :]] = False
        return masks_of_channels(keep, weights, count=len(variables))


def leading_channels(model: keras.Model, model_rate: float) -> Masks:
    """Return `HeteroFL(model_rate).masks(model)`, the same masks by an earlier name.

    Example:
        >>> import tfprune
        >>> layers = [keras.Input((2,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(1, name="out")]
        >>> [kernel, *others] = leading_channels(tfprune.wrap(keras.Sequential(layers)), 0.5)
        >>> kernel.astype(int).tolist()
        [[1, 1, 0, 0], [1, 1, 0, 0]]
    """
    return HeteroFL(model_rate).masks(model)
