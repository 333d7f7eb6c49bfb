"""The embedding network, and the two heads that train it: distances to class means, and a classifier."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

import tfprune

SIZE = 28
WAYS, SHOTS = 5, 5  # in training


@keras.saving.register_keras_serializable(package="few_shot")
class Distances(keras.layers.Layer):
    """Turn the embeddings of an episode into logits: minus the squared distance to each class mean."""

    def __init__(self, ways: int, shots: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ways, self.shots = ways, shots

    def call(self, embeddings: Any) -> Any:
        support = embeddings[: self.ways * self.shots]
        means = ops.mean(ops.reshape(support, (self.ways, self.shots, embeddings.shape[-1])), axis=1)
        return -ops.sum(ops.square(embeddings[:, None] - means[None]), axis=-1)

    def compute_output_shape(self, shape: tuple) -> tuple:
        return (shape[0], self.ways)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ways": self.ways, "shots": self.shots}


# Distances read all channels of the embedding and have none of their own, so the embedding may become smaller, too.
tfprune.register_shrinkable(Distances, lambda flow, call: [(None, None)])


def embedding_layers(width: int) -> list[keras.layers.Layer]:
    """Return four blocks of convolution, normalization, ReLU and pooling, as ProtoNet and MAML use them."""
    layers = keras.layers
    found = []
    for number in range(4):
        # With the default momentum of 0.99, averages would lag behind in short fine-tuning.
        found += [
            layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv_{number}"),
            layers.BatchNormalization(momentum=0.9, name=f"norm_{number}"),
            layers.ReLU(name=f"relu_{number}"),
            layers.MaxPooling2D(name=f"pool_{number}"),
        ]
    return [*found, layers.Flatten(name="embedding")]


def build(head: keras.layers.Layer, *, width: int, seed: int) -> keras.Model:
    """Return an untrained network with a head: the same weights for the same seed."""
    keras.utils.set_random_seed(seed)
    x = image = keras.Input((SIZE, SIZE, 1), name="image")
    for layer in [*embedding_layers(width), head]:
        x = layer(x)
    return keras.Model(image, x)


def embedding_of(model: keras.Model) -> keras.Model:
    """Return the part without the head, which is what a device needs."""
    return keras.Model(model.inputs, model.layers[-2].output, name="embedding")


def query_loss(y: Any, logits: Any) -> Any:
    """Return the cross-entropy of the queries of an episode, which come after its support set."""
    losses = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
    return losses[WAYS * SHOTS :]
