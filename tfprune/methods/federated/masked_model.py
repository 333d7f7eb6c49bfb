"""A wrapped Keras model as clients and server exchange it: a list of arrays, and their masks."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfprune.keras_models.evidence.loss_gradients import LossGradients, training_loss
from tfprune.keras_models.models.kernels import to_matrix
from tfprune.keras_models.models.layers import as_numpy
from tfprune.keras_models.models.optimizers import optimizers_of, slots_by_variable
from tfprune.masking.wrapping.pruned import Pruned
from tfprune.masking.wrapping.pruned_layers import pruned_layers
from tfprune.methods.federated.arrays import Arrays, Masks, check_arrays, check_masks
from tfprune.methods.federated.channel_owners import StatisticsOwners, channeled

_log = logging.getLogger(__name__)


class MaskedModel:
    """The weights and masks of a wrapped model, in the order in which its stripped copy returns its weights.

    The order does not depend on the names of layers. Statistics of BatchNormalization have masks, too: a client
    owns those of the channels that its masks leave, because it has never seen the others.

    Args:
        model: A built model that `tfprune.wrap` returned. It is used as it is, not copied.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has no pruned layers, or one is not built.

    Attributes:
        model: The wrapped model.
        variables: The Keras variables behind the weights.

    Example:
        >>> import tfprune
        >>> model = tfprune.wrap(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="out")]))
        >>> report = tfprune.update_masks(model, 0.5)
        >>> masked = MaskedModel(model)
        >>> [array.shape for array in masked.weights]
        [(4, 2), (2,)]
        >>> int(masked.masks[0].sum()), masked.masks[1]
        (4, None)
    """

    def __init__(self, model: keras.Model) -> None:
        layers = [layer for _, layer in pruned_layers(model)]
        self.model = model
        self._owners: dict[int, tuple[Pruned, str]] = {
            id(kernel.variable): (layer, name) for layer in layers for name, kernel in layer.kernels.items()
        }
        beside = {id(variable) for layer in layers for variable in layer.saved_variables().values()}
        self.variables = [variable for variable in model.weights if id(variable) not in beside]
        self._others: dict[int, np.ndarray] = {}  # masks that no wrapper holds, by the index of the weight
        self._masks = [mask for layer in layers for mask in layer.masks.values()]
        self._recorded: tuple[Any, LossGradients] | None = None

    @property
    def weights(self) -> Arrays:
        """The weights, with zeros where masks hide them; copies."""
        return [np.array(as_numpy(variable)) for variable in self.variables]

    @property
    def masks(self) -> Masks:
        """The masks; None for a weight of which all entries are kept."""
        masks = [self._mask(index) for index in range(len(self.variables))]
        return self._statistics.masks(masks) if self._statistics else masks

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set the weights; entries that the masks hide become zero.

        Raises:
            TypeError: If they are not a list of arrays.
            ValueError: If their number or shapes are others.
        """
        arrays = check_arrays(weights, "weights", like=self.weights)
        for index, (variable, array) in enumerate(zip(self.variables, arrays, strict=True)):
            mask = self._mask(index)
            variable.assign(array if mask is None else np.where(mask, array, 0))

    def set_masks(self, masks: Sequence[Any]) -> None:
        """Set the masks, and clear the slots of the model's optimizer where they hide an entry.

        Statistics keep their values. A mask of another weight without a wrapper, such as a bias, is kept beside the
        model, and holds when its weights are set and read.

        Raises:
            TypeError: If they are not a list of masks.
            ValueError: If their number or shapes are others, or a mask does not fit the pattern of its layer.
        """
        checked = self.check_masks(masks)
        slots = [slots_by_variable(each, self.model.trainable_variables) for each in optimizers_of(self.model)]
        self._others = {}
        for index, (variable, mask) in enumerate(zip(self.variables, checked, strict=True)):
            if id(variable) in self._owners:
                layer, name = self._owners[id(variable)]
                keep = np.ones(tuple(variable.shape), bool) if mask is None else mask
                layer.set_mask(name, keep, slots=[slot for each in slots for slot in each.get(id(variable), ())])
            elif mask is not None and variable.trainable:
                self._others[index] = mask
                variable.assign(np.where(mask, as_numpy(variable), 0))

    def check_masks(self, masks: Sequence[Any]) -> Masks:
        """Return masks that fit this model, its shapes and the patterns of its layers.

        Raises:
            TypeError: If they are not a list of masks.
            ValueError: If their number or shapes are others, or a mask does not fit the pattern of its layer.
        """
        checked = check_masks(masks, "masks", like=self.weights)
        for variable, mask in zip(self.variables, checked, strict=True):
            if mask is None or id(variable) not in self._owners:
                continue
            layer, name = self._owners[id(variable)]
            if not layer.pattern.allows(to_matrix(mask, layer.kernels[name])):
                raise ValueError(
                    f"Expected a mask of {layer.name}/{name} with zeros as in {layer.pattern!r}. Received: one that "
                    f"has them elsewhere. Wrap the models of clients and server with the same pattern."
                )
        return checked

    def gradients_of(self, loss: Any) -> LossGradients:
        """Return what differentiates a loss at all entries, for `dense_gradients`; it is compiled once for a loss.

        Raises:
            ValueError: If `loss` is None and the model is not compiled with one, or it is not the name of a loss.
        """
        loss_in_use = getattr(self.model, "loss", None) if loss is None else loss
        if self._recorded is None or self._recorded[0] is not loss_in_use:
            function = training_loss(self.model, loss)
            self._recorded = loss_in_use, LossGradients(self.model, function, self._masks)
        return self._recorded[1]

    def _mask(self, index: int) -> np.ndarray | None:
        """Return the mask of a weight, statistics aside."""
        variable = self.variables[index]
        if id(variable) not in self._owners:
            return self._others.get(index)
        layer, name = self._owners[id(variable)]
        mask = np.array(as_numpy(layer.masks[name]), bool)
        return None if mask.all() else mask

    @functools.cached_property
    def _statistics(self) -> StatisticsOwners | None:
        if all(variable.trainable for variable in self.variables):
            return None
        try:
            network, weights = channeled(self.model, self.variables)
        except ValueError as error:
            _log.info("statistics are taken for those of all channels: %s", error)
            return None
        return StatisticsOwners(weights, self.variables, network.size)
