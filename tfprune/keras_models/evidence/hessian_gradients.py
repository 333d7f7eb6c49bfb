"""The Hessian of a loss times its gradient, batch by batch: a second derivative, taken by each backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.criteria.facts import FACTS, MEAN
from tfprune.keras_models.evidence.loss_gradients import Gradients, Loss, arranged, without_sparse_rows
from tfprune.keras_models.evidence.scored_weight import FactRequest
from tfprune.keras_models.models.batches import Batch
from tfprune.keras_models.models.layer_hooks import read_only_scope
from tfprune.keras_models.models.layers import as_numpy

Values = list[Any]  # tensors, one for each weight
Scalar = Callable[[Values], Any]


class HessianGradients:
    """Multiply the Hessian of a loss by its mean gradient, with respect to the weights of some requests.

    It reads the data twice: `first` records the mean gradient, and then this object each batch's product with it.

    Args:
        model: The model.
        loss: Its loss.
        requests: Facts that are recorded of the product.
    """

    def __init__(self, model: keras.layers.Layer, loss: Loss, requests: Sequence[FactRequest]) -> None:
        self._model, self._loss, self._requests = model, loss, tuple(requests)
        self._weights = list({id(each.subject.kernel.variable): each for each in requests}.values())
        self._masks = [each.subject.mask for each in self._weights if each.subject.mask is not None]
        gradient = FACTS["gradient"]
        self._of_gradients = [FactRequest(each.subject, gradient, each.hooked, each.holder) for each in self._weights]
        self.first = Gradients(model, loss, self._of_gradients)

    def reset(self) -> None:
        """Forget all batches."""
        gradients = self.first.combined()
        self._vectors = [gradients[request.key] for request in self._of_gradients]
        self._sums: dict[str, Any] = {request.key: 0.0 for request in self._requests}
        self._batches = 0

    def record(self, batch: Batch) -> None:
        """Record one batch."""
        values = [ops.copy(each.subject.kernel.variable.value) for each in self._weights]
        products = _product(lambda inner: self._loss_at(inner, batch), values, self._vectors)
        by_subject = {id(each.subject): value for each, value in zip(self._weights, products, strict=True)}
        for request in self._requests:
            recorded = arranged(ops.cast(without_sparse_rows(by_subject[id(request.subject)]), "float64"), request)
            reduced = request.checked(request.fact.reduce(recorded, ops), request.shape)
            self._sums[request.key] += np.asarray(as_numpy(reduced), np.float64)
        self._batches += 1

    def combined(self) -> dict[str, np.ndarray]:
        """Return the recorded facts, by the keys of their requests."""
        return {
            request.key: self._sums[request.key] / (self._batches if request.fact.combine == MEAN else 1)
            for request in self._requests
        }

    def _loss_at(self, values: Values, batch: Batch) -> Any:
        """Return the loss of a batch with other values of the weights, in inference."""
        replaced = {
            id(each.subject.kernel.variable): value for each, value in zip(self._weights, values, strict=True)
        }
        with read_only_scope(self._model, self._masks, values=replaced):
            outputs = self._model(batch.x, training=False)
            return self._loss(batch.x, batch.y, outputs, batch.sample_weight)


def _product(loss: Scalar, values: Values, vectors: Sequence[np.ndarray]) -> Values:
    """Return the Hessian of a loss times vectors: the gradient of the scalar product of its gradient with them."""

    def along(gradients: Sequence[Any]) -> Any:
        pairs = zip(gradients, vectors, strict=True)
        return sum(ops.sum(without_sparse_rows(each) * ops.cast(vector, each.dtype)) for each, vector in pairs)

    gradients_of = _GRADIENTS_OF[keras.config.backend()]
    return gradients_of(lambda outer: along(gradients_of(loss, outer, is_inner=True)), values, is_inner=False)


def _tensorflow(scalar: Scalar, values: Values, *, is_inner: bool) -> Values:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(values)
        value = scalar(values)
    return tape.gradient(value, values, unconnected_gradients="zero")


def _jax(scalar: Scalar, values: Values, *, is_inner: bool) -> Values:
    import jax

    return jax.grad(scalar)(values)


def _torch(scalar: Scalar, values: Values, *, is_inner: bool) -> Values:
    import torch

    with torch.enable_grad():
        values = values if is_inner else [value.detach().clone().requires_grad_() for value in values]
        return torch.autograd.grad(scalar(values), values, create_graph=is_inner, materialize_grads=True)


_GRADIENTS_OF = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
