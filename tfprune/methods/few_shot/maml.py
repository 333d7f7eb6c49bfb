"""MAML: a classifier that a few steps on a support set adapt to its task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from tfprune.base.spec import check_count, check_number
from tfprune.keras_models.evidence.episodes import Episodes
from tfprune.methods.few_shot.learner import Learner, check_output


@dataclass(frozen=True)
class MAML(Learner):
    """Learn a task by a few steps of gradient descent on its support set, from weights trained for that.

    Pass a classifier as `model`, with as many logits as the episodes have ways. The outer gradient flows through the
    inner steps (second order). Normalization takes the statistics of the batch, queries included. It needs Keras'
    TensorFlow backend, which differentiates a gradient.

    Args:
        learning_rate: The learning rate of the inner steps, above 0. Default 0.01, as in PMP-DACIS.
        steps: The number of inner steps in training, at least 1. Default 5.
        test_steps: The number of inner steps when accuracy is measured, at least 1. None (the default) takes `steps`.

    Raises:
        TypeError: If a number is not one.
        ValueError: If it is out of its range.

    Example:
        >>> MAML(learning_rate=0.1, steps=3)
        MAML(learning_rate=0.1, steps=3, test_steps=None)

    Reference:
        Finn, Abbeel & Levine, 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
        arXiv:1703.03400.
    """

    learning_rate: float = 0.01
    steps: int = 5
    test_steps: int | None = None

    def __post_init__(self) -> None:
        rate = check_number(self.learning_rate, "learning_rate", above=0)
        self._hold(learning_rate=rate, steps=check_count(self.steps, "steps", least=1))
        if self.test_steps is not None:
            self._hold(test_steps=check_count(self.test_steps, "test_steps", least=1))

    def headed(self, model: keras.Model, tasks: Episodes) -> keras.Model:
        if keras.config.backend() != "tensorflow":
            raise ValueError(
                f"Expected Keras' TensorFlow backend for MAML. Received: {keras.config.backend()!r}. Set "
                f"KERAS_BACKEND=tensorflow, or use tfprune.few_shot.Prototypes()."
            )
        check_output(model, size=tasks.ways, advice="End it in a Dense layer with a logit for each way.")
        return keras.Model(model.inputs[0], model.outputs[0])

    def bare(self, headed: keras.Model) -> keras.Model:
        return headed

    def logits(self, headed: keras.Model, tasks: Episodes) -> Callable[[Any, Any, bool], Any]:
        support = tasks.ways * tasks.shots

        def of_queries(x: Any, y: Any, is_training: bool) -> Any:
            steps = self.steps if is_training else self.test_steps or self.steps
            return self._adapted(headed, x[:support], y[:support], x[support:], steps=steps)

        return of_queries

    def _adapted(self, model: keras.Model, x: Any, y: Any, queries: Any, *, steps: int) -> Any:
        """Return logits of queries after some steps on a support set; the model itself does not change."""
        import tensorflow as tf

        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        fast = [tf.convert_to_tensor(variable) for variable in model.trainable_variables]
        others = [tf.convert_to_tensor(variable) for variable in model.non_trainable_variables]
        for _ in range(steps):
            with tf.GradientTape() as tape:
                tape.watch(fast)
                value = loss(y, model.stateless_call(fast, others, x, training=True)[0])
            gradients = tape.gradient(value, fast, unconnected_gradients="zero")
            fast = [weight - self.learning_rate * gradient for weight, gradient in zip(fast, gradients, strict=True)]
        return model.stateless_call(fast, others, queries, training=True)[0]
