"""Train for an amount of compute, and measure the perplexity on books that are held out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sample_apps.growth.books import Books, shuffled
from sample_apps.growth.compute import training_flops
from sample_apps.growth.networks import WINDOW

BATCH = 8
POINTS = 4  # of a curve
_COMPILED: dict[tuple, keras.Model] = {}


def train(
    model: keras.Model,
    books: Books,
    *,
    flops: float,
    rate: float,
    seed: int,
    spent: float = 0.0,
    optimizer: keras.optimizers.Optimizer | None = None,
    path: Path | None = None,
) -> list[tuple[float, float]]:
    """Train a model for as many operations, and return its perplexity against the operations spent.

    Args:
        model: The model, wrapped or not.
        books: What to train on, and to test on.
        flops: Operations to spend.
        rate: The highest learning rate.
        seed: Seed of the order of the windows.
        spent: Operations that were spent before.
        optimizer: Whose state the training starts with; None starts anew.
        path: The file in which the model is saved with its optimizer; None saves nothing.
    """
    each = BATCH * WINDOW * training_flops(model)
    steps = max(round(flops / each), POINTS)
    drawn = shuffled(books.train, steps * BATCH, seed=seed)
    trained = compiled_like(model)
    for variable, value in zip(trained.optimizer.variables, optimizer.variables if optimizer else (), strict=False):
        variable.assign(value)
    follow = Rate(rate, steps)
    curve = [(spent, perplexity(trained, books.test))]
    for part in np.array_split(np.arange(steps), POINTS):
        chosen = drawn[part[0] * BATCH : (part[-1] + 1) * BATCH]
        trained.fit(chosen[:, :-1], chosen[:, 1:], batch_size=BATCH, shuffle=False, callbacks=[follow], verbose=0)
        curve.append((spent + float(each) * (part[-1] + 1), perplexity(trained, books.test)))
    copy_weights(trained, model)
    if path is not None:
        trained.save(path)
    return curve


def compiled_like(model: keras.Model) -> keras.Model:
    """Return a compiled model that is built alike, with the same weights, and an optimizer that knows nothing yet.

    The first model of a kind is kept for the others: TensorFlow traces it once, which takes as long as much training.
    """
    kind = kind_of(model)
    if kind not in _COMPILED:
        _COMPILED[kind] = model
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        optimizer = keras.optimizers.AdamW(0.001, weight_decay=0.01, beta_2=0.98, global_clipnorm=1.0)
        model.compile(optimizer, loss, jit_compile=False)  # XLA takes minutes to compile it for a CPU
        optimizer.build(model.trainable_variables)
    found = _COMPILED[kind]
    copy_weights(model, found)
    for variable in found.optimizer.variables:
        variable.assign(np.zeros(variable.shape))
    return found


def kind_of(model: keras.Model) -> tuple:
    """Return what models that are built alike share."""
    return tuple((type(layer).__name__, *(tuple(one.shape) for one in layer.variables)) for layer in model.layers)


def last_trained_like(model: keras.Model) -> keras.Model:
    """Return the compiled model that was trained last of those built alike, with its optimizer."""
    return _COMPILED[kind_of(model)]


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copy weights, and masks if there are some."""
    for layer, other in zip(source.layers, target.layers, strict=True):
        for variable, counterpart in zip(layer.variables, other.variables, strict=True):
            counterpart.assign(variable)


class Rate(keras.callbacks.Callback):
    """Raises the learning rate over the first twentieth of some steps, then lowers it to a twentieth by a cosine."""

    def __init__(self, peak: float, steps: int) -> None:
        super().__init__()
        self.peak, self.steps, self.step = peak, steps, 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        warmup = max(self.steps // 20, 1)
        done = (self.step - warmup) / max(self.steps - warmup, 1)
        part = (self.step + 1) / warmup if self.step < warmup else 0.05 + 0.475 * (1 + math.cos(math.pi * done))
        self.model.optimizer.learning_rate = self.peak * part
        self.step += 1


def perplexity(model: keras.Model, windows: np.ndarray) -> float:
    """Return e to the mean surprise of each piece after the first of its window."""
    return math.exp(model.evaluate(windows[:, :-1], windows[:, 1:], batch_size=32, verbose=0))
