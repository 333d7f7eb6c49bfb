"""A training run that is killed at a step, as on a lost machine. `test_resume.py` goes on from its files."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers

import tfprune

BATCHES, EPOCHS = 10, 3
RNG = np.random.default_rng(0)
# Every batch holds the same samples: Keras repeats an epoch that was cut off, and the data must not tell.
X = np.tile(RNG.normal(size=(4, 10)).astype("float32"), (BATCHES, 1))
Y = np.tile(RNG.normal(size=(4, 2)).astype("float32"), (BATCHES, 1))


def make() -> keras.Model:
    keras.utils.set_random_seed(1)
    stack = [layers.Dense(10, "tanh", name="hidden"), layers.BatchNormalization(), layers.Dense(2, name="out")]
    model = tfprune.wrap(keras.Sequential([keras.Input((10,)), *stack]))
    model.compile(keras.optimizers.Adam(0.05), "mse")
    return model


def pruning(end: float) -> tfprune.PruningCallback:
    return tfprune.PruningCallback(tfprune.schedules.Polynomial(0.8, begin=2, end=end), every=4)


def fit(model: keras.Model, *callbacks: keras.callbacks.Callback, **arguments) -> None:
    model.fit(X, Y, batch_size=4, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=list(callbacks), **arguments)


class Save(keras.callbacks.Callback):
    """Save the model at a step."""

    def __init__(self, path: Path, step: int) -> None:
        super().__init__()
        self.path, self.step = path, step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            self.model.save(self.path)


class Kill(keras.callbacks.Callback):
    """End this process at a step, without a chance to tidy up."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    folder, step = Path(sys.argv[1]), int(sys.argv[2])
    fit(
        make(),
        Save(folder / "before.keras", step),
        pruning(end=18),
        Save(folder / "after.keras", step),
        keras.callbacks.BackupAndRestore(folder / "epoch", save_freq="epoch"),
        keras.callbacks.BackupAndRestore(folder / "steps", save_freq=3),
        Kill(step),
    )
