"""Accuracy on episodes of unseen scripts, from the embeddings of an exported file."""

from __future__ import annotations

import numpy as np

import tfprune
from sample_apps.few_shot.networks import WAYS

ALL_SHOTS, QUERIES, SEED = (1, 5, 10), 5, 20_261_127


def by_prototypes(embeddings: np.ndarray, y: np.ndarray, *, shots: int, episodes: int) -> float:
    """Return the mean accuracy over 5-way episodes: each query goes to the class with the nearest mean."""
    right = []
    for task in tfprune.few_shot.Episodes(
        embeddings, y, ways=WAYS, shots=shots, queries=QUERIES, episodes=episodes, seed=SEED
    ):
        means = task.x[: WAYS * shots].reshape(WAYS, shots, -1).mean(axis=1)
        distances = np.square(task.x[WAYS * shots :, None] - means[None]).sum(axis=-1)
        right.append(np.mean(distances.argmin(axis=1) == task.y[WAYS * shots :]))
    return float(np.mean(right))
