"""Cuts of KerasHub's models, even and uneven, and how two models are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np


def _alternately(groups: Sequence[Any], sparsity: float) -> list[float]:
    """Let a block lose units and no heads, the next one heads and no units, and so on."""
    return [sparsity if index % 4 in (1, 2) else 0.0 for index in range(len(groups))]


EVEN = {"sparsity": 0.5}
UNEVEN = {"sparsity": 0.5, "allocation": _alternately}


def trained(make: Callable[[], keras.Model]) -> keras.Model:
    """Return a model whose weights are none of them zero or one, as those of norms are at first."""
    keras.utils.set_random_seed(0)
    model = make()
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1 * keras.random.normal(variable.shape, dtype=variable.dtype))
    return model


def arrays(outputs: Any) -> list[np.ndarray]:
    return [np.asarray(output) for output in keras.tree.flatten(outputs)]


def assert_equal(model: Callable, reference: Callable, inputs: Any) -> None:
    for ours, theirs in zip(arrays(model(inputs)), arrays(reference(inputs)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def assert_origins(model, made, origins):
    """Every weight of a model that was made of another one is what its origin makes of a weight there."""
    for weight, origin in zip(made.weights, origins, strict=True):
        np.testing.assert_array_equal(weight, origin.follow(np.asarray(model.weights[origin.weight])))
