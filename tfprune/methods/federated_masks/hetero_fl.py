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

    The entries of a small client are among those of each larger one. Average with all weights 1 to count clients, as
    the paper's authors do.

    Args:
        rate: The fraction of the channels to keep, in (0, 1]; the number of channels is rounded up.

    Raises:
        TypeError: If `rate` is not a number.
        ValueError: If `rate` is out of range.

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

    rate: float

    def __post_init__(self) -> None:
        self._hold(rate=check_number(self.rate, "rate", above=0, most=1, meaning="the fraction of channels to keep"))

    def masks(self, model: keras.Model) -> Masks:
        """Return masks that keep the first channels of each layer.

        The inputs and outputs of the model, and channels that cannot be removed, are kept whole.

        Args:
            model: A wrapped model. It is left unchanged; pass the masks to `MaskedModel.set_masks`.

        Returns:
            One mask for each weight, in the order of `MaskedModel.weights`; biases and statistics lose channels, too.
            None for an array that is kept whole.

        Raises:
            TypeError: If `model` is not a Keras model.
            ValueError: If the model has no pruned layers, or its channels cannot be followed.
        """
        variables = MaskedModel(model).variables
        network, weights = channeled(model, variables)
        keep = network.all_kept()
        for group in network.groups:
            free = np.sort(network.free_part(group).bundles)
            keep[free[math.ceil(self.rate * len(free)) :]] = False
        return masks_of_channels(keep, weights, count=len(variables))


def leading_channels(model: keras.Model, rate: float) -> Masks:
    """Return `HeteroFL(rate).masks(model)`: the earlier name, kept for code that uses it.

    Example:
        >>> import tfprune
        >>> layers = [keras.Input((2,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(1, name="out")]
        >>> [kernel, *others] = leading_channels(tfprune.wrap(keras.Sequential(layers)), 0.5)
        >>> kernel.astype(int).tolist()
        [[1, 1, 0, 0], [1, 1, 0, 0]]
    """
    return HeteroFL(rate).masks(model)
