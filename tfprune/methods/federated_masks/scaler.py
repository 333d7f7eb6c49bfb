"""The scaler of HeteroFL, and its loss for clients that lack some classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.base.spec import check_number, check_numbers


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
