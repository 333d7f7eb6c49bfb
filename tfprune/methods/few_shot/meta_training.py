"""Meta-train and validate a model on episodes: each episode is one step of Keras' `fit`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.base.axes import output_axes
from tfprune.base.progress import Progress
from tfprune.criteria import ClassMoments
from tfprune.keras_models.evidence.episodes import Episodes
from tfprune.keras_models.evidence.loss_gradients import without_sparse_rows
from tfprune.keras_models.evidence.meta_gradients import MetaGradients
from tfprune.keras_models.models.batches import Batch
from tfprune.keras_models.models.kernels import kernels
from tfprune.keras_models.models.layers import as_numpy
from tfprune.methods.few_shot.learner import Learner

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


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
        self.compile(recording, CROSS_ENTROPY, metrics=["accuracy"])
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
        raise TypeError(
            f"Expected `optimizer` to be a Keras optimizer or its name. Received: optimizer={optimizer!r}."
        )
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
