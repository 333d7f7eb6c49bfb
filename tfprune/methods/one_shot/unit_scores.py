"""Scores of hidden units, from the moments of the inputs of the layer that reads them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from tfprune.solving.brain_surgery import DAMPING, Surgeon, removals
from tfprune.solving.least_squares import GramMoments, damped_factor, inverse_of_lower

Score = Callable[..., np.ndarray]


def kept_units(
    score: str, moments: GramMoments, *, weights: np.ndarray, indices: np.ndarray, keep: int
) -> np.ndarray:
    """Choose the channels to keep.

    Args:
        score: One of `SCORES`, or "greedy".
        moments: The moments of the inputs, and of the outputs of the weights.
        weights: The weights, of shape (outputs, inputs).
        indices: The indices of the inputs of each channel, of shape (channels, size).
        keep: The number of channels to keep.

    Returns:
        Booleans, one for each channel.

    Example:
        >>> moments = GramMoments(3, 1)
        >>> moments.add_inputs(np.diag([1.0, 2.0, 3.0]))
        >>> kept_units("activation", moments, weights=np.ones((1, 3)), indices=np.arange(3)[:, np.newaxis], keep=2)
        array([False,  True,  True])
    """
    kept = np.ones(len(indices), dtype=bool)
    if score == "greedy":
        surgeon = Surgeon(moments.gram, weights, channels=indices)
        order = itertools.islice(removals([surgeon], len(indices)), len(indices) - keep)
        kept[[channel for channel, _ in order]] = False
    else:
        scores = SCORES[score](moments, weights.astype(np.float64), indices)
        kept[np.argsort(scores, kind="stable")[: len(indices) - keep]] = False
    return kept


def _activation(moments: GramMoments, weights: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Score by the norm of the inputs of a channel over all data."""
    return np.sqrt(moments.gram.diagonal()[indices].sum(axis=1))


def _wanda(moments: GramMoments, weights: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Score by the norm of the inputs of a channel, times the norm of the weights that read it."""
    energy = moments.gram.diagonal() * np.square(weights).sum(axis=0)
    return np.sqrt(energy[indices].sum(axis=1))


def _obs(moments: GramMoments, weights: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Score by the error without the channel, after the other weights are updated."""
    return Surgeon(moments.gram, weights, channels=indices).costs()


def _putri(moments: GramMoments, weights: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Score as in the paper: as if all channels before this one were removed, so that their order matters."""
    half = inverse_of_lower(damped_factor(moments.gram, DAMPING))
    factor = np.linalg.cholesky(half.T @ half).diagonal()
    power = moments.energy / max(moments.count, 1)
    return (power @ np.square(weights) / np.square(factor))[indices].sum(axis=1)


SCORES: dict[str, Score] = {"activation": _activation, "wanda": _wanda, "obs": _obs, "putri": _putri}
