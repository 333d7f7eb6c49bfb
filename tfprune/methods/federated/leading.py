"""HeteroFL: a client that is small gets the leading channels of every layer."""

from __future__ import annotations

import math

import keras
import numpy as np

from tfprune.base.spec import check_number
from tfprune.methods.federated.arrays import Masks
from tfprune.methods.federated.channel_owners import channeled, masks_of_channels
from tfprune.methods.federated.masked_model import MaskedModel


def leading_channels(model: keras.Model, rate: float) -> Masks:
    """Return masks that leave a client the first channels of each layer.

    Use it for clients of different strength: the entries of a small client are among those of each larger one.
    Average with all weights 1 to count clients, as the paper's authors do. The inputs and outputs of the model, and
    channels that cannot go, stay whole.

    Args:
        model: A wrapped model. It is left unchanged; pass the masks to `MaskedModel.set_masks`.
        rate: The fraction of the channels that stays, in (0, 1]; it is rounded up.

    Returns:
        One mask for each weight, in the order of `MaskedModel.weights`: biases and statistics lose channels, too.

    Raises:
        TypeError: If `model` is not a Keras model, or `rate` is not a number.
        ValueError: If `rate` is out of range, the model has no pruned layers, or its channels cannot be followed.

    Example:
        >>> import tfprune
        >>> layers = [keras.Input((2,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(1, name="out")]
        >>> masks = leading_channels(tfprune.wrap(keras.Sequential(layers)), 0.5)
        >>> [None if mask is None else mask.astype(int).tolist() for mask in masks]
        [[[1, 1, 0, 0], [1, 1, 0, 0]], [1, 1, 0, 0], [[1], [1], [0], [0]], None]

    Reference:
        Diao et al., 2021, "HeteroFL: Computation and Communication Efficient Federated Learning for Heterogeneous
        Clients", arXiv:2010.01264.
    """
    share = check_number(rate, "rate", above=0, most=1, meaning="the fraction of the channels that stays")
    variables = MaskedModel(model).variables
    network, found = channeled(model, variables)
    keep = network.all_kept()
    for group in network.groups:
        free = np.sort(network.free_part(group).bundles)
        keep[free[math.ceil(share * len(free)) :]] = False
    return masks_of_channels(keep, found, count=len(variables))
