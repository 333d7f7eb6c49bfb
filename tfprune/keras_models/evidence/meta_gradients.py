"""Gradients of the outer steps of meta-training, kept beside the weights for criteria that look at them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfprune.base.axes import output_axes
from tfprune.criteria.facts import META
from tfprune.keras_models.evidence.loss_gradients import without_sparse_rows
from tfprune.keras_models.models.kernels import Kernel, kernels
from tfprune.keras_models.models.layers import as_numpy


class MetaGradients:
    """Record the gradients of the outer loss of meta-training, for `criteria.DACIS(meta=...)`.

    Create it before meta-training, and call `add` in each outer step. The gradients are stored with the weights of
    the model, where `update_masks` and `plan_shrink` find them. A new recorder on the same model starts anew.

    Args:
        model: The model that is trained, wrapped or not, and built.

    Raises:
        TypeError: If `model` is not a Keras layer or model.
        ValueError: If it has no kernel that is trained.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False, name="out")])
        >>> meta = MetaGradients(model)
        >>> meta.add([np.array([[3.0, 0.0], [4.0, 1.0]])])
        >>> meta.norms()
        [array([5., 1.])]
    """

    def __init__(self, model: keras.layers.Layer) -> None:
        if not isinstance(model, keras.layers.Layer):
            raise TypeError(f"Expected a Keras model. Received: model={model!r} of type {type(model).__name__}.")
        self._model, self._steps = model, 0
        positions = {id(variable): index for index, variable in enumerate(model.trainable_variables)}
        trained = [kernel for kernel in kernels(model) if id(kernel.variable) in positions]
        self._kernels = [(positions[id(kernel.variable)], kernel) for kernel in trained]
        if not self._kernels:
            raise ValueError(
                f"Expected a model with kernels that are trained. Received: {model.name!r} without any. Build it "
                f"first."
            )
        for kernel in trained:
            setattr(kernel.variable, META, None)

    def add(self, gradients: Sequence[Any]) -> None:
        """Add the gradients of one outer step.

        Args:
            gradients: One for each of `model.trainable_variables`, in this order, as `tape.gradient` returns them;
                None where the loss does not depend on the weight.

        Raises:
            ValueError: If their number or shapes are wrong.
        """
        gradients = [None if gradient is None else without_sparse_rows(gradient) for gradient in gradients]
        variables = self._model.trainable_variables
        received = [None if gradient is None else tuple(gradient.shape) for gradient in gradients]
        expected = [tuple(variable.shape) for variable in variables]
        fits = len(received) == len(expected) and all(
            shape in (None, other) for shape, other in zip(received, expected, strict=True)
        )
        if not fits:
            raise ValueError(
                f"Expected one gradient for each of the {len(expected)} trainable variables of "
                f"{self._model.name!r}, of shapes {expected}. Received: {received}. Pass the result of "
                f"tape.gradient(loss, model.trainable_variables)."
            )
        self._steps += 1
        for position, kernel in self._kernels:
            before = getattr(kernel.variable, META)
            gradient = gradients[position]
            norms = _norms(np.zeros(kernel.variable.shape) if gradient is None else as_numpy(gradient), kernel)
            mean = 0.0 if before is None else before
            setattr(kernel.variable, META, mean + (norms - mean) / self._steps)

    def take(self, norms: Sequence[np.ndarray | None]) -> None:
        """Replace the recorded norms by `norms`, which an earlier recorder returned."""
        for position, kernel in self._kernels:
            setattr(kernel.variable, META, norms[position])

    def norms(self) -> list[np.ndarray | None]:
        """Return the mean over steps of the norm of each output, in the order of `add`; None for biases."""
        return [getattr(variable, META, None) for variable in self._model.trainable_variables]


def _norms(gradient: np.ndarray, kernel: Kernel) -> np.ndarray:
    outputs = output_axes(kernel.axes)
    rest = tuple(axis for axis in range(gradient.ndim) if axis not in outputs)
    return np.sqrt(np.square(gradient.astype(np.float64)).sum(axis=rest)).ravel()
