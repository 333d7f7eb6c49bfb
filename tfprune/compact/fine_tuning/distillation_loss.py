"""The part of a teacher in the loss: how far outputs and features of a student are from the teacher's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from tfprune.compact.fine_tuning.class_outputs import logits_of
from tfprune.compact.fine_tuning.distillation import Distillation
from tfprune.keras_models.models.layer_hooks import OnCall, hooked_calls
from tfprune.keras_models.models.layers import walk


class DistillationLoss:
    """The part of a teacher in the loss.

    No list, dict or layer, so Keras does not take the teacher for a part of the model that holds this.

    Args:
        student: A graph of layers.
        teacher: Any model with outputs of the same shapes.
        how: What is compared.

    Raises:
        ValueError: If they share weights or differ in their outputs, a layer is not found, or outputs that are
            compared as classes are not.
    """

    def __init__(self, student: keras.Model, teacher: keras.Model, how: Distillation) -> None:
        _check_apart(student, teacher)
        _check_shapes(student, teacher)
        self.how, self._teacher = how, teacher
        self._pairs = [(_layer(student, own, "model"), _layer(teacher, other, "teacher")) for own, other in how.pairs]
        self._logits = None if how.temperature is None else (logits_of(student), logits_of(teacher))
        self._heard: dict[int, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear what the student's layers return in a training step."""
        self._heard = {}
        with hooked_calls([own for own, _ in self._pairs], _into(self._heard)):
            yield
        self._heard = {}

    def loss(self, x: Any, y_pred: Any) -> Any:
        """Return the part of the teacher: of the outputs and of the features, added up."""
        features: dict[int, Any] = {}
        with hooked_calls([other for _, other in self._pairs], _into(features)):
            outputs = self._teacher(x, training=False)
        parts = []
        if self._logits:
            # By its name, Keras 3.15 takes the function instead, and compares logits as if they were probabilities.
            divergence = keras.losses.KLDivergence()
            compare = keras.distillation.LogitsDistillation(self.how.temperature, divergence).compute_loss
            students, teachers = self._logits
            pairs = zip(teachers(outputs), students(y_pred), strict=True)
            parts = [compare(ops.stop_gradient(shown), own) for shown, own in pairs]
        return sum(parts) + sum(
            _distance(self._heard[id(own)], ops.stop_gradient(features[id(other)]), own) for own, other in self._pairs
        )


def _into(heard: dict[int, Any]) -> OnCall:
    def on_call(layer: keras.layers.Layer, inputs: Any, outputs: Any) -> None:
        heard[id(layer)] = ops.cast(outputs, "float32")

    return on_call


def _distance(own: Any, other: Any, layer: keras.layers.Layer) -> Any:
    """Return the mean squared difference, relative to the mean square of what the teacher shows."""
    if own.shape[1:] != other.shape[1:]:
        raise ValueError(
            f"Expected features of the same shape in student and teacher. Received: {layer.name!r} with "
            f"{tuple(own.shape[1:])} and {tuple(other.shape[1:])}. Name a layer that keeps its channels."
        )
    return ops.mean(ops.square(own - other)) / (ops.mean(ops.square(other)) + keras.backend.epsilon())


def _layer(model: keras.Model, name: str, argument: str) -> keras.layers.Layer:
    """Return the layer of a name or path."""
    by_path = {path: layer for path, layer in walk(model) if path}
    by_name = {layer.name: layer for layer in reversed(by_path.values())}
    if name not in by_path and name not in by_name:
        raise ValueError(
            f"Expected `features` among the layers of the {argument}, {', '.join(map(repr, by_path))}. Received: "
            f"{name!r}."
        )
    return by_path.get(name) or by_name[name]


def _check_apart(student: keras.Model, teacher: keras.Model) -> None:
    shared = {id(weight) for weight in student.weights} & {id(weight) for weight in teacher.weights}
    if shared:
        raise ValueError(
            f"Expected a teacher with weights of its own. Received: {teacher.name!r}, which shares {len(shared)} of "
            f"its weights with {student.name!r}. Copy it first: keras.models.clone_model, then set_weights."
        )


def _check_shapes(student: keras.Model, teacher: keras.Model) -> None:
    own, other = (
        [tuple(output.shape) for output in keras.tree.flatten(getattr(model, "outputs", None) or [])]
        for model in (student, teacher)
    )
    if own and other and own != other:
        raise ValueError(
            f"Expected student and teacher with outputs of the same shapes. Received: {own} and {other}."
        )
