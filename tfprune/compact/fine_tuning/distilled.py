"""distilled: put a teacher into the training loss of a model."""

from __future__ import annotations

from typing import Any

import keras

from tfprune.compact.fine_tuning.distillation import Distillation, check_distillation
from tfprune.compact.fine_tuning.distillation_loss import DistillationLoss
from tfprune.keras_models.models.anatomy import check_keras
from tfprune.keras_models.models.graph import check_graph


def distilled(model: keras.Model, teacher: keras.Model, distillation: Distillation | None = None) -> keras.Model:
    """Return a model over the same layers and weights, with a teacher in its training loss.

    Use it with gradual pruning, where the dense model teaches the pruned one: compile and fit the returned model,
    with a `PruningCallback` as usual, then strip or shrink `model`, whose weights were trained. The teacher is called
    on each batch, so data augmentation works, and is left unchanged. `evaluate` and `val_loss` report the loss
    without the teacher. Saving stores the student as a plain model, without the teacher.

    Args:
        model: The student: a built Sequential or Functional model, wrapped or not.
        teacher: A model with outputs of the same shapes. It is not trained.
        distillation: The weight of the teacher and the outputs that are compared. None (the default) takes
            `tfprune.Distillation()`.

    Returns:
        The model to compile and fit.

    Raises:
        TypeError: If a model is not a Keras model, or `distillation` is not a `Distillation`.
        ValueError: If the student is not a graph of layers, a layer is not found, or the models share weights or
            differ in the shapes of their outputs.
        ValueError: If there is a temperature, and the outputs are not classes.

    Example:
        >>> import tfprune
        >>> dense = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(4)])
        >>> student = tfprune.wrap(dense)
        >>> training = tfprune.distilled(student, dense, tfprune.Distillation(temperature=4))
        >>> training.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> callback = tfprune.PruningCallback(tfprune.schedules.Polynomial(0.5, end=1.0), every=1)
        >>> history = training.fit(keras.ops.ones((8, 8)), keras.ops.zeros(8), callbacks=[callback], verbose=0)
        >>> tfprune.sparsity_report(tfprune.strip(student)).sparsity
        0.5

    Reference:
        Hinton et al., 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
    """
    check_graph(model)
    check_keras(teacher, argument="teacher")
    settings = Distillation() if distillation is None else check_distillation(distillation, "distillation")
    return _Distilled(model, distillation=DistillationLoss(model, teacher, settings))


@keras.saving.register_keras_serializable(package="tfprune", name="Distilled")
class _Distilled(keras.Model):
    """The graph of a student with another training loss."""

    def __init__(self, student: keras.Model, *, distillation: DistillationLoss) -> None:
        if isinstance(student, keras.Sequential):  # whose `input` is what it was called on
            super().__init__(student.inputs[0], student.outputs[0], name=student.name)
        else:
            super().__init__(student.input, student.output, name=student.name)
        self._distillation = distillation

    def train_step(self, *args: Any) -> Any:
        with self._distillation.listening():
            return super().train_step(*args)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        own = super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        if not training:
            return own
        weight, regularization = self._distillation.how.weight, sum(self.losses)  # which counts in full
        return (1 - weight) * own + weight * (self._distillation.loss(x, y_pred) + regularization)

    def get_config(self) -> dict[str, Any]:
        return self._plain().get_config()

    def _plain(self) -> keras.Model:
        return keras.Model(self.input, self.output, name=self.name, trainable=self.trainable)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> keras.Model:
        return keras.Model.from_config(config, custom_objects)
