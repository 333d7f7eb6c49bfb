"""Gradients of a model's loss with respect to its kernels, batch by batch, by Keras' own training step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.axes import output_axes
from tfprune.evidence.layer_hooks import read_only_scope
from tfprune.models.batches import Batch
from tfprune.models.kernels import Kernel
from tfprune.models.layers import as_numpy

Loss = Callable[[Any, Any, Any, Any], Any]  # of inputs, targets, outputs and sample weights


def loss_of(model: keras.layers.Layer, loss: Any) -> Loss:
    """Return a loss given by name or as a function, or the one that a model was compiled with.

    Raises:
        ValueError: If there is neither, or no loss of that name.
    """
    if loss is None:
        if not getattr(model, "compiled", False) or not model.loss:
            raise ValueError(
                f"Expected a loss, whose gradients the criterion looks at. Received: {model.name!r}, which is not "
                f"compiled with one, and loss=None. Compile it, or pass loss='sparse_categorical_crossentropy', say."
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
    """An optimizer that moves nothing, and adds up what it is told of the gradients of some kernels, in float64.

    Args:
        kernels: Whose.
        facts: Which: `"gradient_sizes"`, `"gradient_norms"`, `"movement"` (here the gradient itself).
    """

    def __init__(self, kernels: Sequence[Kernel], facts: Sequence[str]) -> None:
        super().__init__(learning_rate=0.0, name="recorder")
        self.kernels, self.facts = tuple(kernels), tuple(facts)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        super().build(variables)
        self.places = {id(variable): place for place, variable in enumerate(variables)}
        self.sums = {
            f"{fact}_{place}": self.add_variable(shape=_shape(kernel, fact), dtype="float64", name=f"{fact}_{place}")
            for place, kernel in enumerate(self.kernels)
            for fact in self.facts
        }

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        for place, kernel in enumerate(self.kernels):
            gradient = grads[self.places[id(kernel.variable)]]
            if gradient is None:
                continue  # the loss does not depend on it
            gradient = ops.cast(_dense(gradient), "float64")
            for fact in self.facts:
                self.sums[f"{fact}_{place}"].assign_add(_REDUCED[fact](gradient, kernel))
        self.iterations.assign_add(1)

    def reset(self) -> None:
        """Forget all batches."""
        for variable in self.variables:
            variable.assign(ops.zeros_like(variable.value))

    def mean(self, fact: str, place: int) -> np.ndarray:
        """Return a fact of the kernel at some place, the mean over batches."""
        return as_numpy(self.sums[f"{fact}_{place}"]).astype(np.float64) / int(self.iterations)


def _dense(gradient: Any) -> Any:
    if hasattr(gradient, "dense_shape"):  # of an embedding: the rows that were looked up
        rows, shape = ops.expand_dims(gradient.indices, 1), gradient.dense_shape
        return ops.scatter(rows, gradient.values, shape)
    return gradient


def _shape(kernel: Kernel, fact: str) -> tuple[int, ...]:
    shape = tuple(kernel.variable.shape)
    return (math.prod(shape[axis] for axis in output_axes(kernel.axes)),) if fact == "gradient_norms" else shape


def _norms(gradient: Any, kernel: Kernel) -> Any:
    rest = [axis for axis in range(len(kernel.axes)) if axis not in output_axes(kernel.axes)]
    return ops.reshape(ops.sqrt(ops.sum(ops.square(gradient), axis=rest)), (-1,))


_REDUCED: dict[str, Callable[[Any, Kernel], Any]] = {
    "gradient_sizes": lambda gradient, kernel: ops.abs(gradient),
    "gradient_norms": _norms,
    "movement": lambda gradient, kernel: gradient,
}


class Gradients(keras.Model):
    """A model in inference whose training step hands the gradients of a loss to a `Recorder`.

    Args:
        model: The model.
        loss: Its loss.
        masks: Masks that let gradients of hidden entries through; the weights themselves hold the zeros.
        recorder: Is told of them.
    """

    def __init__(
        self, model: keras.layers.Layer, loss: Loss, masks: Sequence[keras.Variable], recorder: Recorder
    ) -> None:
        super().__init__(dtype="float32", autocast=False)
        self.model = model
        self._scope = lambda: read_only_scope(model, masks)
        self._loss = loss
        self.built = True
        self.recorder = recorder
        self.compile(optimizer=recorder)
        recorder.build(self.trainable_variables)

    def call(self, inputs: Any) -> Any:
        self._entered = self._scope()
        with self._entered:
            return self.model(inputs, training=False)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        with self._entered:  # which holds the losses that layers added in the call
            return self._loss(x, y, y_pred, sample_weight)

    def reset(self) -> None:
        """Forget all batches."""
        self.recorder.reset()

    def record(self, batch: Batch) -> None:
        """Let the recorder see the gradients of one batch."""
        if batch.y is None:
            raise ValueError(
                "Expected `data` with targets, as the criterion looks at gradients of the loss. Received: inputs "
                "only. Pass (x, y)."
            )
        self.train_on_batch(batch.x, batch.y, sample_weight=batch.sample_weight)
