"""Accuracy on episodes of scripts that were never trained on."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfprune
from sample_apps.few_shot.networks import SHOTS, WAYS
from sample_apps.few_shot.training import adapted

ALL_SHOTS, QUERIES, SEED = (1, 5, 10), 5, 20_261_127
STEPS = 5  # of adaptation, in a test of MAML


def by_prototypes(embeddings: np.ndarray, y: np.ndarray, *, shots: int, episodes: int) -> float:
    """Return the mean accuracy over 5-way episodes: each query goes to the class with the nearest mean."""
    right = []
    for task in tfprune.Episodes(embeddings, y, ways=WAYS, shots=shots, queries=QUERIES, count=episodes, seed=SEED):
        means = task.x[: WAYS * shots].reshape(WAYS, shots, -1).mean(axis=1)
        distances = np.square(task.x[WAYS * shots :, None] - means[None]).sum(axis=-1)
        right.append(np.mean(distances.argmin(axis=1) == task.y[WAYS * shots :]))
    return float(np.mean(right))


def by_adaptation(model: keras.Model, glyphs: Any, *, episodes: int) -> float:
    """Return the mean accuracy of a MAML model after some steps on each support set."""

    @tf.function
    def predicted(x: Any, y: Any, queries: Any) -> Any:
        return tf.argmax(adapted(model, x, y, queries, steps=STEPS), axis=1)

    right, support = [], WAYS * SHOTS
    tasks = tfprune.Episodes(glyphs.x, glyphs.y, ways=WAYS, shots=SHOTS, queries=QUERIES, count=episodes, seed=SEED)
    for task in tasks:
        found = predicted(tf.constant(task.x[:support]), tf.constant(task.y[:support]), tf.constant(task.x[support:]))
        right.append(np.mean(found.numpy() == task.y[support:]))
    return float(np.mean(right))
