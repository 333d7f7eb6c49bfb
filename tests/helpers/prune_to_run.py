"""A run of prune_to with a folder, to be killed: python prune_to_run.py FOLDER."""

from __future__ import annotations

import sys
from dataclasses import fields

import keras
import numpy as np

import tfprune
from tfprune.compact.prune_to import PruneReport

RNG = np.random.default_rng(0)
X = RNG.normal(size=(256, 12)).astype("float32")
Y = (X @ RNG.normal(size=(12, 4))).argmax(axis=1)


def make() -> keras.Model:
    keras.utils.set_random_seed(3)
    layers = keras.layers
    stack = [layers.Dense(32, "relu"), layers.Dropout(0.2), layers.Dense(32, "relu"), layers.BatchNormalization()]
    model = keras.Sequential([keras.Input((12,)), *stack, layers.Dense(4)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    model.fit(X, Y, epochs=2, verbose=0)
    return model


def run(folder: str | None, **changes) -> tuple[keras.Model, PruneReport]:
    model = make()
    keras.utils.set_random_seed(7)
    tuning = {"max_samples": 128, "distillation": tfprune.Distillation()}
    tuning |= {name: changes.pop(name) for name in {*changes} & {field.name for field in fields(tfprune.FineTuning)}}
    settings = {"epochs": 2, "fine_tuning": tfprune.FineTuning(**tuning), **changes}
    return tfprune.prune_to(model, tfprune.budget(flops=0.3), (X, Y), folder=folder, verbose=0, **settings)


if __name__ == "__main__":
    run(sys.argv[1])
