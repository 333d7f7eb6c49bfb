"""Learn how a sparsity is split over weights: thresholds that a short training moves together with the weights."""

from __future__ import annotations

import functools
import re
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.allocation import Weight, global_
from tfprune.base.spec import check_count, check_sparsity
from tfprune.criteria import Magnitude
from tfprune.keras_models.models.anatomy import Anatomy, check_model
from tfprune.keras_models.models.compiled import arguments_of, check_compiled, compile_like
from tfprune.keras_models.models.filters import Filters
from tfprune.keras_models.models.layers import as_numpy
from tfprune.masking.wrapping.choose_weights import choose_weights
from tfprune.masking.wrapping.pruned import Pruned, holds_pruned
from tfprune.masking.wrapping.pruned_layers import pruned_layers
from tfprune.masking.wrapping.transfer_weights import copy_with
from tfprune.patterns import Unstructured
from tfprune.schedules import Polynomial

_START = 0.1  # the fraction of all entries below the threshold that all weights have at first
_LEAST = 1e-6  # of a threshold: its logarithm is learned
_SPEED = 3.0  # of a threshold's logarithm, compared with a weight
_UPDATES, _END = 50, 0.75  # how often thresholds are set to the sparsity of a step, and until which part of the fit


def learn_allocation(
    model: keras.Model,
    sparsity: float,
    data: Any,
    *,
    filters: Filters = None,
    epochs: int = 1,
    batch_size: int | None = None,
    verbose: int | str = 0,
) -> dict[str, float]:
    """Train a copy with a threshold for each weight, and split a sparsity over the weights as the thresholds do.

    Use it before you prune, to compare a learned split with those by formula, which cost nothing. In the copy, an
    entry w counts as sign(w) * max(|w| - t, 0). All weights start with the same threshold t, and the loss moves each
    apart. A common factor keeps the zeros of all weights at a sparsity that rises to `sparsity`.

    Args:
        model: A compiled, built model that is not wrapped. It is left unchanged.
        sparsity: The fraction of zeros over all weights, in [0, 1).
        data: A tuple (x, y) or (x, y, sample weights), or a dataset that can be read more than once.
        filters: The weights to prune, as in `tfprune.wrap`. None (the default) takes all kernels that mix inputs.
        epochs: The number of epochs that the copy is trained, at least 1. Default 1.
        batch_size: Samples in a batch of arrays. None (the default) is 32, and leaves datasets as they are.
        verbose: As in `fit`. Default 0.

    Returns:
        The sparsity of each weight by a regular expression: pass it as `allocation` to `PruningCallback` or
        `update_masks`, with the same `filters` in `wrap`. The zeros of all weights add up to `sparsity`.

    Raises:
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If the model is not compiled or wrapped already, cannot be copied, or no weight can be pruned.
        ValueError: If an argument is out of its range.

    Example:
        >>> stack = [keras.layers.Dense(8, name="hidden"), keras.layers.Dense(1, name="out")]
        >>> model = keras.Sequential([keras.Input((8,)), *stack])
        >>> model.compile("adam", "mse")
        >>> x = np.random.default_rng(0).normal(size=(64, 8))
        >>> list(learn_allocation(model, 0.5, (x, x[:, :1])))
        ['^hidden/kernel$', '^out/kernel$']

    Reference:
        Kusupati et al., 2020, "Soft Threshold Weight Reparameterization for Learnable Sparsity", arXiv:2002.03231.
        The paper keeps the zeros of its training, whose number a penalty decides; here they only give the split.
    """
    check_compiled(model)
    sparsity = check_sparsity(sparsity, "sparsity")
    if holds_pruned(model):
        raise ValueError(
            f"Expected a model that is not wrapped. Received: {model.name!r} with masks. Call "
            f"learn_allocation first, and then tfprune.wrap(model)."
        )
    arguments = {**arguments_of(data), "epochs": check_count(epochs, "epochs", least=1), "verbose": verbose}
    copy = _with_thresholds(model, filters)
    copy.fit(**arguments, batch_size=batch_size, callbacks=[_Level(sparsity)])
    weights = _over_thresholds(copy)
    split = zip(weights, global_(weights, sparsity), strict=True)
    return {f"^{re.escape(weight.path)}$": share for weight, share in split}


@keras.saving.register_keras_serializable(package="tfprune")
class SoftThreshold(Pruned):
    """A wrapper whose layer reads each weight with all entries moved toward 0 by a learned threshold."""

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        self._logarithms: dict[str, keras.Variable] = {}
        super().__init__(layer, **kwargs)

    def _add_masks(self) -> None:
        super()._add_masks()
        for name in self.kernels:
            own = f"{name.replace('/', '_')}_threshold"
            self._logarithms[name] = self.add_weight(name=own, shape=(), initializer="zeros")

    def threshold(self, name: str) -> Any:
        """Return the threshold of a weight."""
        return ops.exp(_SPEED * self._logarithms[name].value)

    def scale(self, factor: float) -> None:
        """Multiply all thresholds, which are 1 at first."""
        for logarithm in self._logarithms.values():
            logarithm.assign_add(np.log(factor) / _SPEED)

    def _read(self, variable: keras.Variable, training: bool | None) -> Any:
        weight = super()._read(variable, training)
        name = next((name for name, kernel in self.kernels.items() if kernel.variable is variable), None)
        if name is None:
            return weight
        threshold = ops.cast(self.threshold(name), weight.dtype)
        return ops.sign(weight) * ops.relu(ops.abs(weight) - threshold)


class _Level(keras.callbacks.Callback):
    """Multiply all thresholds by a factor, from time to time, so that the zeros follow a schedule."""

    def __init__(self, sparsity: float) -> None:
        super().__init__()
        self._schedule = Polynomial(sparsity, end=_END).resolve(_UPDATES)
        self._epoch = self._updates = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        within = (batch + 1) / self.params["steps"] if self.params["steps"] else 0  # unknown in a first epoch
        due = int(_UPDATES * (self._epoch + within) / self.params["epochs"])
        if due == self._updates:
            return
        self._updates = due
        scores = np.concatenate([weight.scores().ravel() for weight in _over_thresholds(self.model)])
        factor = float(np.quantile(scores, max(self._schedule(due), _START)))
        for _, layer in pruned_layers(self.model):
            layer.scale(max(factor, _LEAST))


def _with_thresholds(model: keras.Model, filters: Filters) -> keras.Model:
    """Return a compiled copy of a model whose weights have thresholds."""
    anatomy = Anatomy.of(model)
    check_model(anatomy)
    criterion, pattern = Magnitude(), Unstructured()
    choice = choose_weights(anatomy, criterion=criterion, pattern=pattern, filters=filters, latent="zero")

    def wrapped(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        return SoftThreshold(layer, weights=choice[path][0], latent="zero") if path in choice else None

    copy = copy_with(anatomy, wrapped)
    layers = [layer for _, layer in pruned_layers(copy)]
    sizes = [np.abs(as_numpy(kernel.variable)).ravel() for layer in layers for kernel in layer.kernels.values()]
    for layer in layers:
        layer.scale(max(float(np.quantile(np.concatenate(sizes), _START)), _LEAST))
    return compile_like(copy, model, advice="Compile it with the names of a loss and of metrics")


def _over_thresholds(model: keras.Model) -> list[Weight]:
    """Return the trained weights, scored by the sizes of their entries divided by their thresholds."""

    def scores(layer: Any, name: str) -> np.ndarray:
        return np.abs(as_numpy(layer.kernels[name].variable)) / float(as_numpy(layer.threshold(name)))

    return [
        Weight(
            path=f"{path}/{name}",
            shape=tuple(layer.kernels[name].variable.shape),
            scores=functools.partial(scores, layer, name),
        )
        for path, layer in pruned_layers(model)
        for name in layer.trained()
    ]
