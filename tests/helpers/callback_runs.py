"""Short trainings of a small model, for the tests of the callback."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

import tfprune

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 10)).astype("float32")
Y = RNG.normal(size=(40, 2)).astype("float32")


def plain(seed: int = 1) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(10, activation="tanh", name="hidden"),
            layers.Dropout(0.2, seed=3),
            layers.BatchNormalization(name="norm"),
            layers.Dense(2, name="out"),
        ]
    )


def make(optimizer="adam", **compile_arguments) -> keras.Model:
    if optimizer == "adam" and not compile_arguments:
        return POOL.take()
    model = tfprune.wrap(plain())
    model.compile(optimizer, "mse", **compile_arguments)
    return model


class Pool:
    """Hand out models that earlier tests have trained, every variable as it was at first: tracing takes most time."""

    def __init__(self):
        self.models, self.taken = [], 0

    def take(self) -> keras.Model:
        if self.taken == len(self.models):
            self.models.append(self._new())
        model, optimizer, variables, values = self.models[self.taken]
        self.taken += 1
        keras.utils.set_random_seed(1)  # as `plain` does
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        model.stop_training = False
        return model

    def _new(self) -> tuple:
        model = tfprune.wrap(plain())
        model.compile("adam", "mse")
        model.optimizer.build(model.trainable_variables)
        variables = [*model.variables, *model.optimizer.variables]
        return model, model.optimizer, variables, [variable.numpy() for variable in variables]

    def give_back(self) -> None:
        """Keep what tests have not compiled again."""
        self.models = [one for one in self.models if one[0].optimizer is one[1]]
        self.taken = 0


POOL = Pool()


def fit(model: keras.Model, *callbacks, epochs: int = 1, **arguments) -> dict[str, list[float]]:
    """Train 10 updates an epoch, always on the same batches."""
    arguments = {"batch_size": 4, "shuffle": False, "verbose": 0, **arguments}
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **arguments).history


def masks_of(model: keras.Model) -> list[np.ndarray]:
    return [model.get_layer(name).masks["kernel"].numpy() for name in ("hidden", "out")]


def assert_equal(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def sparsities(model: keras.Model) -> list[float]:
    return [row.sparsity for row in tfprune.sparsity_report(model).rows]


class Record(keras.callbacks.Callback):
    """Count the zeros of the first mask after every batch."""

    def __init__(self):
        super().__init__()
        self.zeros = []

    def on_train_batch_end(self, batch, logs=None):
        self.zeros.append(int(np.sum(self.model.get_layer("hidden").masks["kernel"].numpy() == 0)))
