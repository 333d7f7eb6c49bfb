"""A wrapped model as clients and server exchange it: arrays, masks, gradients, statistics, and parts of channels."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.base.arrays import shape_along
from tfprune.base.spec import ArgumentError, ArgumentTypeError, Spec, check_number, check_numbers
from tfprune.gradients import LossGradients, training_loss
from tfprune.masking.pruned import Pruned
from tfprune.masking.strip import channeled, pruned_layers, statistics_owners
from tfprune.methods.federated.averages import Arrays, Masks, check_arrays, check_masks
from tfprune.models.anatomy import as_numpy, to_matrix, walk
from tfprune.models.training import batches, check_batch, optimizers_of, slots_by_variable
from tfprune.solving.dependency_graph import ChanneledWeight, StatisticsOwners

# A wrapped Keras model as clients and server exchange it: a list of arrays, and their masks.


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
        masks = {index: self._mask(index) for index in range(len(self.variables))}
        owned = self._statistics.masks(masks)
        return [owned.get(index) if mask is None else mask for index, mask in masks.items()]

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

    def batch_gradients(self, data: Any, *, loss: Any = None) -> Iterator[Arrays]:
        """Yield `dense_gradients` of each batch, at the weights and masks of that moment.

        Args:
            data: Arrays (x, y), which are cut into batches of 32, a dataset, or an iterable of batches.
            loss: As in `dense_gradients`.
        """
        for batch in batches(data):
            yield dense_gradients(self, batch, loss=loss)

    def train_batches(
        self, data: Any, *, loss: Any = None, optimizer: keras.optimizers.Optimizer | None = None
    ) -> Iterator[Arrays]:
        """Train one step on each batch, and yield its gradients at all entries; those under masks change nothing.

        Args:
            data: Arrays (x, y), which are cut into batches of 32, a dataset, or an iterable of batches.
            loss: As in `dense_gradients`.
            optimizer: The optimizer; it is built for the trainable variables of the model.

        Raises:
            ValueError: If there is no optimizer or no loss, or the data do not fit the model.
        """
        if optimizer is None:
            advice = "Pass optimizer=keras.optimizers.SGD(0.01), for example."
            raise ArgumentError("optimizer", "an optimizer of Keras for a MaskedModel", "None", advice=advice)
        trained = [index for index, variable in enumerate(self.variables) if variable.trainable]
        variables, masks = [self.variables[index] for index in trained], self.masks
        for gradients in self.batch_gradients(data, loss=loss):
            shown = [
                ops.convert_to_tensor(gradient if mask is None else gradient * mask, variable.dtype)
                for gradient, mask, variable in zip(gradients, masks, self.variables, strict=True)
            ]
            optimizer.apply([shown[index] for index in trained], variables)
            yield gradients

    def _mask(self, index: int) -> np.ndarray | None:
        """Return the mask of a weight, statistics aside."""
        variable = self.variables[index]
        if id(variable) not in self._owners:
            return self._others.get(index)
        layer, name = self._owners[id(variable)]
        mask = np.array(as_numpy(layer.masks[name]), bool)
        return None if mask.all() else mask

    @functools.cached_property
    def _statistics(self) -> StatisticsOwners:
        return statistics_owners(self.model, self.variables)


# Gradients of a wrapped model at all entries, those under its masks included.


def dense_gradients(model: MaskedModel, data: Any, *, loss: Any = None) -> Arrays:
    """Differentiate the loss of one batch with respect to all entries of a wrapped model.

    Use it for methods such as FedMask and PruneFL, which need gradients of masked entries to bring them back; Keras'
    training gives these none. The gradients are with respect to mask * weight, with layers in training mode. The
    model does not change, apart from the random state of its dropout.

    Args:
        model: A wrapped model.
        data: (x, y) or (x, y, sample weights), as one batch.
        loss: The name of a loss, a function or a `keras.losses.Loss`; None takes the loss that the model was compiled
            with, and the losses that layers add.

    Returns:
        One array of float64 for each weight, in the order of `MaskedModel.weights`; zeros for a weight that is not
        trained, such as statistics.

    Raises:
        TypeError: If `model` is not a `MaskedModel`, or `data` is not a batch.
        ValueError: If `data` does not fit the model or has no targets, or there is no loss.

    Example:
        >>> import keras, tfprune
        >>> layers = [keras.Input((2,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")]
        >>> model = MaskedModel(tfprune.wrap(keras.Sequential(layers)))
        >>> model.set_masks([np.array([[1], [0]])])
        >>> [gradient] = dense_gradients(model, (np.array([[1.0, 3.0]]), np.array([[0.0]])), loss="mse")
        >>> gradient.ravel().tolist()
        [2.0, 6.0]
    """
    if not isinstance(model, MaskedModel):
        raise ArgumentTypeError("model", "`model` to be a MaskedModel", found=type(model).__name__)
    [whole] = batches(data, rows=None)
    if whole.y is None:
        raise ArgumentError("data", "`data` to be (x, y), to compute a loss", found="inputs only")
    check_batch(whole, model.model)
    gradients = model.gradients_of(loss).of(whole)
    return [
        gradients[id(variable)] if id(variable) in gradients else np.zeros(tuple(variable.shape))
        for variable in model.variables
    ]


# Measure the statistics of BatchNormalization on samples after training, instead of averaging during it.


def measure_statistics(model: MaskedModel, samples: Any, *, batch_size: int = 32) -> int:
    """Set the statistics of each BatchNormalization to the mean over the batches of some samples.

    Use it for HeteroFL, which calls it static normalization: clients train with the statistics of each batch, and
    measure the statistics for inference once, with the final weights of the server, which averages them. FedMask and
    PruneFL need it as well, because their steps do not update statistics.

    Args:
        model: A wrapped model. Only its statistics change.
        samples: An array, a tuple (x, y), a dataset or an iterable of batches. Labels are ignored.
        batch_size: Samples in a batch of arrays, at least 1. Default 32.

    Returns:
        The number of batches: the weight of this client in the average of the statistics.

    Raises:
        TypeError: If `model` is not a `MaskedModel`.
        ValueError: If the samples are empty or do not fit the model.

    Example:
        >>> import tfprune
        >>> layers = [keras.Input((1,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
        >>> model = MaskedModel(tfprune.wrap(keras.Sequential(layers)))
        >>> measure_statistics(model, np.array([[1.0], [3.0]]))
        1
        >>> [array.item() for array in model.weights[2:4]]
        [2.0, 1.0]

    Reference:
        Diao et al., 2021, "HeteroFL", arXiv:2010.01264: static batch normalization.
    """
    if not isinstance(model, MaskedModel):
        raise ArgumentTypeError("model", "`model` to be a MaskedModel", found=type(model).__name__)
    layers = [layer for _, layer in walk(model.model) if isinstance(layer, keras.layers.BatchNormalization)]
    momenta, totals, count = [layer.momentum for layer in layers], _zeros(layers), 0
    for layer in layers:
        layer.momentum = 0.0  # so that it has the statistics of the last batch
    try:
        for batch in batches(samples, rows=batch_size, argument="samples"):
            check_batch(batch, model.model, argument="samples")
            model.model(batch.x, training=True)
            totals = [before + added for before, added in zip(totals, _statistics(layers), strict=True)]
            count += 1
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    variables = [variable for layer in layers for variable in (layer.moving_mean, layer.moving_variance)]
    for variable, total in zip(variables, totals, strict=True):
        variable.assign(total / count)
    return count


def _statistics(layers: list[keras.layers.BatchNormalization]) -> Arrays:
    values = [variable for layer in layers for variable in (layer.moving_mean, layer.moving_variance)]
    return [as_numpy(variable).astype(np.float64) for variable in values]


def _zeros(layers: list[keras.layers.BatchNormalization]) -> Arrays:
    return [np.zeros_like(array) for array in _statistics(layers)]


# HeteroFL: small clients train the leading channels of every layer.


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
        return _masks_of_channels(keep, weights, count=len(variables))


def _masks_of_channels(keep: np.ndarray, weights: Iterable[tuple[int, ChanneledWeight]], *, count: int) -> Masks:
    """Return a mask for each of `count` weights that keeps the entries of kept bundles; None if it keeps all."""
    masks: Masks = [None] * count
    for index, weight in weights:
        for axis, bundles in weight.bundles_along.items():
            mask = np.broadcast_to(keep[bundles].reshape(shape_along(len(weight.shape), axis)), weight.shape)
            before = masks[index]
            masks[index] = mask if before is None else before & mask
    return [None if mask is None or mask.all() else np.array(mask) for mask in masks]


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


# The scaler of HeteroFL, and its loss for clients that lack some classes.


@keras.saving.register_keras_serializable(package="tfprune")
class Scaler(keras.layers.Layer):
    """Divide activations by the model rate of a HeteroFL client in training, and pass them on in inference.

    Put it after each hidden convolution or Dense layer, before the normalization, in the models of all clients, and
    with a model rate of 1 in the server's model. It has no weights.

    Args:
        model_rate: The fraction of the channels that the client has, in (0, 1].
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        TypeError: If `model_rate` is not a number.
        ValueError: If it is out of range.

    Example:
        >>> Scaler(0.5)(ops.ones((1, 2)), training=True).numpy().tolist()
        [[2.0, 2.0]]

    Reference:
        Diao et al., 2021, "HeteroFL", arXiv:2010.01264: the scaler.
    """

    def __init__(self, model_rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        meaning = "the fraction of channels that are kept"
        self.model_rate = check_number(model_rate, "model_rate", above=0, most=1, meaning=meaning)
        self.supports_masking = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return inputs / self.model_rate if training else inputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.model_rate}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Scaler:
        return cls(config["rate"], **{name: value for name, value in config.items() if name != "rate"})


@keras.saving.register_keras_serializable(package="tfprune")
class OwnClassesLoss(keras.losses.Loss):
    """Compute the cross-entropy of a client that lacks some classes, with their logits set to 0.

    Use it so that a client does not unlearn the classes that it has no samples of.

    Args:
        classes: The indices of the classes that the client has, from 0.
        **kwargs: Arguments of `keras.losses.Loss`.

    Raises:
        TypeError: If `classes` is not a list of integers.
        ValueError: If it is empty, or names a class twice.

    Example:
        >>> loss = OwnClassesLoss([0, 2])
        >>> round(float(loss(np.array([2]), np.array([[1.0, 9.0, 3.0]]))), 3)
        0.17

    Reference:
        Diao et al., 2021, "HeteroFL", arXiv:2010.01264: the masked cross-entropy.
    """

    def __init__(self, classes: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes = sorted(check_numbers(classes, "classes", of="classes"))

    def call(self, y_true: Any, y_pred: Any) -> Any:
        owned = np.isin(np.arange(y_pred.shape[-1]), self.classes)
        logits = ops.where(owned, y_pred, ops.zeros((), y_pred.dtype))
        return ops.sparse_categorical_crossentropy(y_true, logits, from_logits=True)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "classes": self.classes}
