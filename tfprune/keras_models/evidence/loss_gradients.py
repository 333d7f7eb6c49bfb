"""Gradients of a model's loss with respect to its kernels, batch by batch, by Keras' own training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.criteria.facts import MEAN, UnknownFact
from tfprune.keras_models.evidence.scored_weight import FactRequest
from tfprune.keras_models.models.batches import Batch
from tfprune.keras_models.models.layer_hooks import read_only_scope
from tfprune.keras_models.models.layers import as_numpy, walk

_FLAT = 1e-6  # the gradient of a sum of softmax is 0 but for rounding

Loss = Callable[[Any, Any, Any, Any], Any]  # from inputs, targets, outputs and sample weights


def training_loss(model: keras.layers.Layer, loss: Any) -> Loss:
    """Return a loss given by name or as a function, or the loss that a model was compiled with.

    Raises:
        ValueError: If `loss` is None and the model is not compiled with one, or `loss` is not the name of a loss.
    """
    if loss is None:
        if not getattr(model, "compiled", False) or not model.loss:
            raise ValueError(
                f"Expected a loss, whose gradients the criterion looks at. Received: {model.name!r}, which is not "
                f"compiled with one, and loss=None. Compile it, or pass a loss, for example loss='mse'."
            )
        return lambda x, y, outputs, weight: model.compute_loss(x, y, outputs, weight, training=False)
    function = keras.losses.get(loss)
    if isinstance(function, keras.losses.Loss):
        return lambda x, y, outputs, weight: function(y, outputs, sample_weight=weight)

    def mean(x: Any, y: Any, outputs: Any, weight: Any) -> Any:
        losses = function(y, outputs)
        return ops.mean(losses if weight is None else losses * ops.cast(weight, losses.dtype))

    return mean


class Recorder(keras.optimizers.Optimizer):
    """An optimizer that changes no weight, and adds up what facts measure of the gradients, in float64.

    Args:
        requests: Facts of gradients.
    """

    def __init__(self, requests: Sequence[FactRequest]) -> None:
        super().__init__(learning_rate=0.0, name="recorder")
        self.requests = tuple(requests)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        super().build(variables)
        self.indices = {id(variable): index for index, variable in enumerate(variables)}
        self.sums = [
            self.add_variable(shape=request.shape, dtype="float64", name=f"{request.fact.name}_{index}")
            for index, request in enumerate(self.requests)
        ]

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        for request, total in zip(self.requests, self.sums, strict=True):
            gradient = grads[self.indices[id(request.subject.kernel.variable)]]
            if gradient is not None:  # the loss depends on it
                recorded = arranged(ops.cast(without_sparse_rows(gradient), "float64"), request)
                total.assign_add(request.checked(request.fact.reduce(recorded, ops), request.shape))
        self.iterations.assign_add(1)

    def reset(self) -> None:
        """Forget all batches."""
        for variable in self.variables:
            variable.assign(ops.zeros_like(variable.value))

    def combined(self) -> dict[str, np.ndarray]:
        """Return the recorded facts, by the keys of their requests."""
        batches = int(self.iterations)
        return {
            request.key: as_numpy(total).astype(np.float64) / (batches if request.fact.combine == MEAN else 1)
            for request, total in zip(self.requests, self.sums, strict=True)
        }


def without_sparse_rows(gradient: Any) -> Any:
    """Return a gradient as an array, also of an embedding, whose gradient names rows."""
    if hasattr(gradient, "dense_shape"):  # of an embedding: the rows that were looked up
        rows, shape = ops.expand_dims(gradient.indices, 1), gradient.dense_shape
        return ops.scatter(rows, gradient.values, shape)
    return gradient


def arranged(gradient: Any, request: FactRequest) -> Any:
    """Return a gradient as the fact takes it: of the weight's shape, or with a column for each output or input."""
    if request.fact.per == "entry":
        return gradient
    rest = [axis for axis in range(len(gradient.shape)) if axis not in request.axes]
    order = [*rest, *request.axes]
    gradient = gradient if order == sorted(order) else ops.transpose(gradient, order)
    return ops.reshape(gradient, (-1, *request.shape))


class _OpenModel(keras.Model):
    """A model whose training step hands the gradients of a loss to a recording optimizer.

    Args:
        model: The model.
        loss: Its loss.
        masks: Masks that let the gradients of masked entries through; the weights themselves hold the zeros.
        recorder: The optimizer, which is built here.
        training: Whether layers behave as in training.
    """

    def __init__(
        self,
        model: keras.layers.Layer,
        loss: Loss,
        masks: Sequence[keras.Variable],
        *,
        recorder: keras.optimizers.Optimizer,
        training: bool,
    ) -> None:
        super().__init__(dtype="float32", autocast=False)
        self.model = model
        self._scope = lambda: read_only_scope(model, masks)
        self._loss, self._in_training = loss, training
        self.built = True
        self.compile(optimizer=recorder)
        recorder.build(self.trainable_variables)

    def call(self, inputs: Any) -> Any:
        self._entered = self._scope()
        with self._entered:
            return self.model(inputs, training=self._in_training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        with self._entered:  # it holds the losses that layers added in the call
            return self._loss(x, y, y_pred, sample_weight)


class Gradients(_OpenModel):
    """A model in inference whose training step hands the gradients of a loss to a `Recorder`.

    Args:
        model: The model.
        loss: Its loss.
        requests: Facts of gradients.
    """

    def __init__(self, model: keras.layers.Layer, loss: Loss, requests: Sequence[FactRequest]) -> None:
        masks = [request.subject.mask for request in requests if request.subject.mask is not None]
        self.recorder = Recorder(requests)
        super().__init__(model, loss, masks, recorder=self.recorder, training=False)

    def reset(self) -> None:
        """Forget all batches."""
        self.recorder.reset()

    def record(self, batch: Batch) -> None:
        """Record one batch."""
        if batch.y is None:
            raise ValueError(
                "Expected `data` with targets, as the criterion looks at gradients of the loss. Received: inputs "
                "only. Pass (x, y)."
            )
        self.train_on_batch(batch.x, batch.y, sample_weight=batch.sample_weight)

    def combined(self) -> dict[str, np.ndarray]:
        """Return the recorded facts, by the keys of their requests."""
        return self.recorder.combined()


class LossGradients(_OpenModel):
    """A model in training whose training step keeps the gradients of a loss, and changes no weight.

    Args:
        model: The model.
        loss: Its loss.
        masks: Masks whose entries get gradients, too.
    """

    def __init__(self, model: keras.layers.Layer, loss: Loss, masks: Sequence[keras.Variable]) -> None:
        self.kept = _LastGradients()
        self._seeds = [layer.seed_generator for _, layer in walk(model) if getattr(layer, "seed_generator", None)]
        super().__init__(model, loss, masks, recorder=self.kept, training=True)

    def of(self, batch: Batch) -> dict[int, np.ndarray]:
        """Return the gradients of a batch, by the id of the weight."""
        self.train_on_batch(batch.x, batch.y, sample_weight=batch.sample_weight)
        for generator in self._seeds:
            generator.next()  # or the next batch would drop the same units
        values = [np.array(as_numpy(gradient), np.float64) for gradient in self.kept.gradients]
        return {id(variable): value for variable, value in zip(self.trainable_variables, values, strict=True)}


class _LastGradients(keras.optimizers.Optimizer):
    """An optimizer that changes no weight, and keeps the last gradient of each."""

    def __init__(self) -> None:
        super().__init__(learning_rate=0.0, name="last_gradients")

    def build(self, variables: Sequence[keras.Variable]) -> None:
        super().build(variables)
        self.gradients = [
            self.add_variable(shape=variable.shape, dtype=variable.dtype, name=f"gradient_{index}")
            for index, variable in enumerate(variables)
        ]

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        for gradient, kept in zip(grads, self.gradients, strict=True):
            is_used = gradient is not None  # the loss depends on it
            kept.assign(without_sparse_rows(gradient) if is_used else ops.zeros_like(kept.value))


class FlowGradients(_OpenModel):
    """A model in inference whose training step keeps the gradients of its summed outputs, weights taken as |w|."""

    def __init__(self, model: keras.layers.Layer) -> None:
        self.kept = _LastGradients()
        super().__init__(model, _sum_of_outputs, (), recorder=self.kept, training=False)
        weights = model.trainable_variables
        self._scope = lambda: read_only_scope(model, values={id(each): ops.abs(each.value) for each in weights})


def _sum_of_outputs(x: Any, y: Any, outputs: Any, weight: Any) -> Any:
    return sum(ops.sum(ops.cast(output, "float32")) for output in keras.tree.flatten(outputs))


def synaptic_flows(
    model: keras.layers.Layer, origins: Mapping[int, keras.Variable]
) -> dict[int, np.ndarray] | UnknownFact:
    """Return |w| dR/d|w| of each trained weight, by its id; R is the sum of the outputs on inputs of ones.

    Args:
        model: The model.
        origins: By the id of a weight, the weight whose id is returned in its place.
    """
    inputs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    if not inputs or any(None in tensor.shape[1:] for tensor in inputs):
        return UnknownFact("the model does not name the shapes of its inputs")
    ones = [ops.ones((1, *tensor.shape[1:]), dtype=tensor.dtype) for tensor in inputs]
    flow = FlowGradients(model)
    flow.train_on_batch(keras.tree.pack_sequence_as(model.inputs, ones) if len(ones) > 1 else ones[0])
    gradients = [np.asarray(as_numpy(gradient), np.float64) for gradient in flow.kept.gradients]
    variables = flow.trainable_variables
    flows = [np.abs(each * as_numpy(weight)) for each, weight in zip(gradients, variables, strict=True)]
    if max(each.max(initial=0) for each in flows) < _FLAT:
        return UnknownFact("the sum of the outputs is the same whatever the weights are, as after softmax")
    return {id(origins.get(id(weight), weight)): each for weight, each in zip(variables, flows, strict=True)}
