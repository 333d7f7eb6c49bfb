"""The model of a watch, and its training on the data of one person."""

from __future__ import annotations

import functools
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import tfprune
from sample_apps.data.wrist import WINDOW
from sample_apps.federated.people import BATCH, Person, whole_batches
from tfprune.export import Trainer as DeviceTrainer
from tfprune.export import to_trainer
from tfprune.federated import MaskedModel, Scaler

AXES, EXERCISES, RATE = 6, 7, 0.002


def build(seed: int, *, rate: float = 1.0) -> keras.Model:
    """Build the model: a BatchNormalization in front scales the axes, so that the watch feeds plain measurements.

    A watch that has only a part of the channels (HeteroFL) has a scaler behind each convolution.
    """
    keras.utils.set_random_seed(seed)
    layers, scaled = keras.layers, rate < 1
    parts = [keras.Input((WINDOW, AXES), name="motion"), layers.BatchNormalization(momentum=0.9, name="scale")]
    for number, (channels, kernel, strides) in enumerate(((32, 5, 2), (64, 5, 2), (64, 3, 1)), start=1):
        parts.append(layers.Conv1D(channels, kernel, strides=strides, activation="relu", name=f"conv_{number}"))
        parts += [Scaler(rate)] if scaled else []  # it may stand behind ReLU, which a factor passes
    head = layers.Dense(EXERCISES, activation="softmax", name="exercise")
    return keras.Sequential([*parts, layers.GlobalAveragePooling1D(), head])


class Trainer:
    """A wrapped model with an optimizer that begins anew for each client and round."""

    def __init__(self, seed: int, *, rate: float = 1.0) -> None:
        self.model = MaskedModel(tfprune.wrap(build(seed, rate=rate)))
        self.initial = self.model.weights
        keras_model, variables = self.model.model, self.model.model.trainable_variables
        self.loss = loss = keras.losses.SparseCategoricalCrossentropy()
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
        self.reset_optimizer()
        for x, y in whole_batches(person, epochs=epochs, seed=seed):
            self._step(x, y)

    def reset_optimizer(self) -> None:
        """Forget the moments of the client before."""
        for variable, value in zip(self.optimizer.variables, self._slots, strict=True):
            variable.assign(value)

    def accuracy(self, person: Person) -> float:
        """Return the accuracy on the second half of a person's recordings."""
        return float(np.mean(np.argmax(self._predict(person.test_x), axis=1) == person.test_y))

    def training_accuracy(self, person: Person) -> float:
        """Return the accuracy on the first half, which a client may look at."""
        return float(np.mean(np.argmax(self._predict(person.x), axis=1) == person.y))

    def open_masks(self) -> None:
        """Keep all entries again: the client before may have left its own masks."""
        self.model.set_masks([None] * len(self.initial))

    def prune(self, person: Person, *, sparsity: float, epochs: int, seed: tuple[int, ...]) -> None:
        """Choose masks by training alone for some epochs, and go back to the first weights under them."""
        self.fit(person, epochs=epochs, seed=seed)
        # "erk" prunes the small layers less: the first convolution and the classifier.
        tfprune.update_masks(self.model.model, sparsity, allocation="erk")
        self.model.set_weights(self.initial)


@functools.lru_cache(maxsize=2)  # one model for all clients of a process: each brings its weights and masks
def trainer(seed: int, rate: float = 1.0) -> Trainer:
    # One thread: sums are then added up in the same order, whatever else runs.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return Trainer(seed, rate=rate)


def export(folder: Path, seed: int) -> None:
    """Write the file by which watches without Keras train, with room for all masks, and its first state."""
    from sample_apps.federated.devices import FILE, FIRST

    folder.mkdir(parents=True, exist_ok=True)
    model = tfprune.wrap(build(seed))
    model.compile(keras.optimizers.Adam(RATE), keras.losses.SparseCategoricalCrossentropy())
    to_trainer(model, folder / FILE, batch_size=BATCH, max_density=1.0, compress="packed", verbose=0)
    DeviceTrainer(folder / FILE).save(folder / FIRST)
