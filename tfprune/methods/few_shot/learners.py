"""Learners: how a model learns from episodes, by prototypes or MAML, and meta-training of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from tfprune.base.arrays import output_axes
from tfprune.base.output import Progress
from tfprune.base.spec import ArgumentTypeError, Spec, check_count, check_number
from tfprune.channels.groups import register_shrinkable
from tfprune.facts import ClassMoments
from tfprune.gradients import Episodes, MetaGradients, without_sparse_rows
from tfprune.models.anatomy import as_numpy, kernels
from tfprune.models.training import Batch

# How a model learns from episodes: the methods that training and validation call.


class Learner(Spec):
    """Base of the algorithms that learn a new task from its support set."""

    _EXAMPLES: ClassVar[str] = "tfprune.few_shot.MAML(learning_rate=0.1, steps=3)"

    def headed(self, model: keras.Model, tasks: Episodes) -> keras.Model:
        """Return the model that is pruned: it shares the layers of the model given.

        Raises:
            ValueError: If the outputs of the model are not those that the algorithm needs.
        """
        raise NotImplementedError

    def bare(self, headed: keras.Model) -> keras.Model:
        """Return the model that ships, from the one that is pruned."""
        raise NotImplementedError

    def embedding(self, headed: keras.Model) -> keras.Model:
        """Return the part whose outputs are compared between classes."""
        return keras.Model(headed.inputs[0], headed.layers[-1].input, name="embedding")

    def logits(self, headed: keras.Model, tasks: Episodes) -> Callable[[Any, Any, bool], Any]:
        """Return a function from the samples and labels of an episode, and whether it trains, to its queries' logits.

        Args:
            headed: The model.
            tasks: Episodes of the same ways and shots.
        """
        raise NotImplementedError


def _check_output(model: keras.Model, *, size: int | None, advice: str) -> None:
    """Refuse a model without a single input and a single output of shape (samples, numbers).

    Raises:
        ValueError: If there are several inputs or outputs, or the output has another shape.
    """
    shapes = [tuple(output.shape) for output in model.outputs]
    if len(model.inputs) != 1 or len(shapes) != 1 or len(shapes[0]) != 2 or size not in (None, shapes[0][1]):
        raise ValueError(
            f"Expected a model with one input and one output of shape (samples, {size or 'numbers'}). Received: "
            f"{model.name!r} with {len(model.inputs)} inputs and outputs of shape {shapes}. {advice}"
        )


# MAML: a classifier that a few steps on a support set adapt to its task.


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
        _check_output(model, size=tasks.ways, advice="End it in a Dense layer with a logit for each way.")
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


# Prototypical networks: a class is the mean of its embeddings.


@dataclass(frozen=True)
class Prototypes(Learner):
    """Learn as a prototypical network: a query belongs to the class whose mean embedding is nearest.

    Pass the embedding as `model`. Channels of its output can be removed as well, because only distances between
    embeddings matter.

    Example:
        >>> Prototypes()
        Prototypes()

    Reference:
        Snell, Swersky & Zemel, 2017, "Prototypical Networks for Few-shot Learning", arXiv:1703.05175.
    """

    def headed(self, model: keras.Model, tasks: Episodes) -> keras.Model:
        _check_output(model, size=None, advice="Flatten or pool it, so that each sample has one vector.")
        return keras.Model(model.inputs[0], PrototypeDistances(tasks.ways, tasks.shots)(model.outputs[0]))

    def bare(self, headed: keras.Model) -> keras.Model:
        return self.embedding(headed)

    def logits(self, headed: keras.Model, tasks: Episodes) -> Callable[[Any, Any, bool], Any]:
        embedding, support = self.embedding(headed), tasks.ways * tasks.shots

        def of_queries(x: Any, y: Any, is_training: bool) -> Any:
            embeddings = embedding(x, training=is_training)
            return _distances(embeddings, ways=tasks.ways, shots=tasks.shots)[support:]

        return of_queries


def _distances(embeddings: Any, *, ways: int, shots: int) -> Any:
    """Return minus the squared distance of each embedding of an episode to the mean of each class.

    Args:
        embeddings: The embeddings of an episode, its support set first, (samples, numbers).
        ways: The number of classes.
        shots: The number of support samples of each class.
    """
    support = ops.reshape(embeddings[: ways * shots], (ways, shots, embeddings.shape[-1]))
    return -ops.sum(ops.square(embeddings[:, None] - ops.mean(support, axis=1)[None]), axis=-1)


@keras.saving.register_keras_serializable(package="tfprune")
class PrototypeDistances(keras.layers.Layer):
    """Turns the embeddings of an episode into logits, so that channels of the embedding can be removed.

    Args:
        ways: The number of classes.
        shots: The number of support samples of each class.
    """

    def __init__(self, ways: int, shots: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.ways, self.shots = ways, shots

    def call(self, embeddings: Any) -> Any:
        return _distances(embeddings, ways=self.ways, shots=self.shots)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.ways)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ways": self.ways, "shots": self.shots}


# It reads all channels of the embedding and has none itself, so the embedding may become smaller.
register_shrinkable(PrototypeDistances, lambda flow, call: [(None, None)])


# Meta-train and validate a model on episodes: each episode is one step of Keras' `fit`.

_CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Episodic(keras.Model):
    """A model that takes whole episodes, and returns the logits of their queries.

    Args:
        headed: The model that is pruned and trained; it keeps its weights.
        learner: How it learns from a support set.
        tasks: Episodes of the ways, shots and queries that it will see.
    """

    def __init__(self, headed: keras.Model, learner: Learner, tasks: Episodes) -> None:
        super().__init__()
        self.headed = headed
        self._of_queries = learner.logits(headed, tasks)
        self.built = True

    def call(self, inputs: dict[str, Any], training: bool = False) -> Any:
        return self._of_queries(inputs["x"], inputs["y"], training)

    def train(
        self,
        lessons: Lessons,
        optimizer: keras.optimizers.Optimizer,
        *,
        number: int,
        callbacks: Sequence[keras.callbacks.Callback],
        progress: Progress,
    ) -> None:
        """Take one step on each episode, as the epoch of this number, from 1; keep the norms of its gradients."""
        meta, recording = MetaGradients(self.headed), _recording(optimizer, self.headed)
        recording.build(self.trainable_variables)
        self.compile(recording, _CROSS_ENTROPY, metrics=["accuracy"])
        ticks = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: progress.add())
        self.fit(
            lessons,
            initial_epoch=number - 1,
            epochs=number,
            callbacks=[*callbacks, ticks],
            shuffle=False,
            verbose=0,
        )
        meta.take(recording.norms())

    def accuracies(self, tasks: Episodes) -> np.ndarray:
        """Return the accuracy on the queries of each episode."""
        support = tasks.ways * tasks.shots
        pairs = ((self.predict_on_batch(_inputs(task)).argmax(axis=1), task.y[support:]) for task in tasks)
        return np.array([np.mean(predicted == targets) for predicted, targets in pairs])


class Lessons(keras.utils.PyDataset):
    """Episodes to train on, one a batch: each has a seed, so that they are the same however they are read.

    Args:
        tasks: The episodes whose classes and sizes are drawn.
        episodes: The number of episodes.
        number: The number of the stage.
    """

    def __init__(self, tasks: Episodes, episodes: int, number: int) -> None:
        super().__init__()
        self._tasks, self._episodes, self._number = tasks, episodes, number

    def __len__(self) -> int:
        return self._episodes

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        task = next(self._tasks.draw(1, seed=[self._tasks.seed, self._number, index]))
        return _inputs(task), task.y[self._tasks.ways * self._tasks.shots :]


def _inputs(task: Batch) -> dict[str, np.ndarray]:
    return {"x": task.x, "y": task.y.astype("int32")}


def query_loss(tasks: Episodes) -> Callable[[Any, Any], Any]:
    """Return the loss of an episode's queries, from labels and logits of all its samples, for evidence."""
    support = tasks.ways * tasks.shots

    def loss(y: Any, logits: Any) -> Any:
        return keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)[support:]

    return loss


def task_complexity(embedding: keras.Model, tasks: Iterable[Batch]) -> float:
    """Return the mean over episodes of how much the class means of the embeddings differ in direction."""
    complexities = []
    for task in tasks:
        values = embedding.predict_on_batch(task.x)
        moments = ClassMoments(values.shape[1])
        moments.add(values, task.classes)
        complexities.append(moments.complexity())
    return float(np.mean(complexities))


def settings_of(optimizer: str | keras.optimizers.Optimizer) -> dict[str, Any]:
    """Return the settings of an optimizer, without its rate, which each stage sets, and its name, which counts them.

    Raises:
        TypeError: If it is neither an optimizer nor a name.
    """
    if not isinstance(optimizer, (str, keras.optimizers.Optimizer)):
        raise ArgumentTypeError("optimizer", "`optimizer` to be a Keras optimizer or its name", repr(optimizer))
    settings = keras.optimizers.serialize(keras.optimizers.get(optimizer))
    changes = {"learning_rate": 0.0, "name": "optimizer"}
    return {**settings, "config": {**settings["config"], **changes}}


def optimizer_of(settings: dict[str, Any], rate: float) -> keras.optimizers.Optimizer:
    """Return a fresh optimizer of some settings, with this learning rate."""
    return keras.optimizers.deserialize({**settings, "config": {**settings["config"], "learning_rate": rate}})


def _recording(optimizer: keras.optimizers.Optimizer, model: keras.Model) -> Any:
    """Return a copy of an optimizer that adds up the norms of the gradients of each output as it takes steps."""
    axes_of = {id(kernel.variable): output_axes(kernel.axes) for kernel in kernels(model)}

    class Recording(type(optimizer)):  # type: ignore[misc]
        def build(self, variables: Sequence[keras.Variable]) -> None:
            super().build(variables)
            self.sums: list[keras.Variable | None] = []
            for index, variable in enumerate(variables):
                axes = axes_of.get(id(variable))
                size = axes and int(np.prod([variable.shape[axis] for axis in axes]))
                new = self.add_variable(shape=(size,), dtype="float32", name=f"norms_{index}") if size else None
                self.sums.append(new)
            self.axes = [axes_of.get(id(variable)) for variable in variables]

        def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
            for gradient, axes, total in zip(grads, self.axes, self.sums, strict=True):
                if axes is not None and total is not None and gradient is not None:
                    gradient = ops.cast(without_sparse_rows(gradient), "float32")
                    rest = tuple(axis for axis in range(len(gradient.shape)) if axis not in axes)
                    norms = ops.sqrt(ops.sum(ops.square(gradient), axis=rest))
                    total.assign_add(ops.reshape(norms, (-1,)))
            super().apply(grads, trainable_variables)

        def norms(self) -> list[np.ndarray | None]:
            steps = max(int(self.iterations), 1)
            return [None if total is None else as_numpy(total) / steps for total in self.sums]

    return Recording.from_config(optimizer.get_config())
