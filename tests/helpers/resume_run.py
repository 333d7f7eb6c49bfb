"""A training run that is killed at a step, as on a lost machine. `test_resume.py` goes on from its files."""

from __future__ import annotations

import os
import shutil
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


class Copy(keras.callbacks.Callback):
    """Copy the backups as they lie at a step, which is how a kill at this step leaves them."""

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__()
        self.folder, self.step = folder, step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            for name in ("epoch", "steps"):
                if (self.folder / name).exists():
                    shutil.copytree(self.folder / name, self.folder / str(self.step) / name)


class Kill(keras.callbacks.Callback):
    """End this process at a step, without a chance to tidy up."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    # Models of each step in a folder of its name; the last step is where the process is killed.
    folder, *steps = Path(sys.argv[1]), *map(int, sys.argv[2:])
    fit(
        make(),
        *(Save(folder / str(step) / "before.keras", step) for step in steps),
        pruning(end=18),
        *(Save(folder / str(step) / "after.keras", step) for step in steps),
        keras.callbacks.BackupAndRestore(folder / "epoch", save_freq="epoch"),
        keras.callbacks.BackupAndRestore(folder / "steps", save_freq=3),
        *(Copy(folder, step) for step in steps),
        Kill(steps[-1]),
    )
