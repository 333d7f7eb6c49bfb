"""Prototypical networks: a class is the mean of its embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from tfprune.keras_models.channels.groups import register_shrinkable
from tfprune.keras_models.evidence.episodes import Episodes
from tfprune.methods.few_shot.learner import Learner, check_output


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
        check_output(model, size=None, advice="Flatten or pool it, so that each sample has one vector.")
        return keras.Model(model.inputs[0], PrototypeDistances(tasks.ways, tasks.shots)(model.outputs[0]))

    def bare(self, headed: keras.Model) -> keras.Model:
        return self.embedding(headed)

    def logits(self, headed: keras.Model, tasks: Episodes) -> Callable[[Any, Any, bool], Any]:
        embedding, support = self.embedding(headed), tasks.ways * tasks.shots

        def of_queries(x: Any, y: Any, is_training: bool) -> Any:
            embeddings = embedding(x, training=is_training)
            return distances(embeddings, ways=tasks.ways, shots=tasks.shots)[support:]

        return of_queries


def distances(embeddings: Any, *, ways: int, shots: int) -> Any:
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
        return distances(embeddings, ways=self.ways, shots=self.shots)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (input_shape[0], self.ways)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ways": self.ways, "shots": self.shots}


# It reads all channels of the embedding and has none itself, so the embedding may become smaller.
register_shrinkable(PrototypeDistances, lambda flow, call: [(None, None)])
