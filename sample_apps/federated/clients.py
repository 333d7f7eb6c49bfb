"""The model of a watch, and its training on the data of one person."""

from __future__ import annotations

import functools

import keras
import numpy as np
import tensorflow as tf

import tfprune
from sample_apps.data.wrist import WINDOW
from sample_apps.federated.people import Person
from tfprune.federated import MaskedModel

AXES, EXERCISES, BATCH, RATE = 6, 7, 32, 0.002


def build(seed: int) -> keras.Model:
    """Build the model: a BatchNormalization in front scales the axes, so that the watch feeds plain measurements."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((WINDOW, AXES), name="motion"),
            layers.BatchNormalization(momentum=0.9, name="scale"),
            layers.Conv1D(32, 5, strides=2, activation="relu", name="conv_1"),
            layers.Conv1D(64, 5, strides=2, activation="relu", name="conv_2"),
            layers.Conv1D(64, 3, activation="relu", name="conv_3"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(EXERCISES, activation="softmax", name="exercise"),
        ]
    )


class Trainer:
    """A wrapped model with an optimizer that begins anew for each client and round."""

    def __init__(self, seed: int) -> None:
        self.model = MaskedModel(tfprune.wrap(build(seed)))
        self.initial = self.model.weights
        keras_model, variables = self.model.model, self.model.model.trainable_variables
        loss = keras.losses.SparseCategoricalCrossentropy()
        self.optimizer = keras.optimizers.Adam(RATE)
        self.optimizer.build(variables)
        self._slots = [keras.ops.convert_to_numpy(variable) for variable in self.optimizer.variables]

        @tf.function(reduce_retracing=True)
        def step(x: tf.Tensor, y: tf.Tensor) -> None:
            with tf.GradientTape() as tape:
                value = loss(y, keras_model(x, training=True))
            self.optimizer.apply(tape.gradient(value, variables), variables)

        self._step = step
        self._predict = tf.function(lambda x: keras_model(x, training=False), reduce_retracing=True)

    def fit(self, person: Person, *, epochs: int, seed: tuple[int, ...]) -> None:
        """Train on whole batches of a person's windows."""
        for variable, value in zip(self.optimizer.variables, self._slots, strict=True):
            variable.assign(value)
        random = np.random.default_rng(seed)
        for _ in range(epochs):
            order = random.permutation(len(person.x))
            for start in range(0, len(order) - BATCH + 1, BATCH):
                batch = order[start : start + BATCH]
                self._step(person.x[batch], person.y[batch])

    def accuracy(self, person: Person) -> float:
        """Return the accuracy on the second half of a person's recordings."""
        return float(np.mean(np.argmax(self._predict(person.test_x), axis=1) == person.test_y))

    def prune(self, person: Person, *, sparsity: float, epochs: int, seed: tuple[int, ...]) -> None:
        """Choose masks by training alone for some epochs, and go back to the first weights under them."""
        self.fit(person, epochs=epochs, seed=seed)
        # "erk" prunes the small layers less: the first convolution and the classifier.
        tfprune.update_masks(self.model.model, sparsity, allocation="erk")
        self.model.set_weights(self.initial)


@functools.lru_cache(maxsize=1)  # one model for all clients of a process: each brings its weights and masks
def trainer(seed: int) -> Trainer:
    # One thread: sums are then added up in the same order, whatever else runs.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.backend.clear_session()
    return Trainer(seed)
