"""How much compute a model should have been trained with before it grows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import keras

from tfprune.keras_models.models.anatomy import Anatomy, check_model
from tfprune.masking.wrapping.pruned import Pruned
from tfprune.methods.experts.moe_layers import find_moe_layers
from tfprune.report import Report

TOKENS_PER_PARAMETER = 20  # of Hoffmann et al., 2022
OPERATIONS_PER_PARAMETER = 6  # for each token: two in the forward pass, four for the gradients


@dataclass(frozen=True)
class GrowthCompute(Report):
    """The compute with which a model is about converged, so that growth by interposition is worth a try.

    Attributes:
        parameters: All parameters of the model.
        active_parameters: Those that each token meets: of a mixture, the share of experts that the router chooses.

    Example:
        >>> print(GrowthCompute(parameters=8_000_000, active_parameters=3_000_000))
        3,000,000 of 8,000,000 parameters are active. Train on 6.0e+07 tokens (1.1e+15 operations) before growth.
    """

    JSON_NAMES = ("parameters", "active_parameters", "tokens", "operations")

    parameters: int
    active_parameters: int

    @property
    def tokens(self) -> int:
        """Tokens to train on: 20 for each active parameter."""
        return TOKENS_PER_PARAMETER * self.active_parameters

    @property
    def operations(self) -> int:
        """Floating-point operations of this training: 6 for each active parameter and token."""
        return OPERATIONS_PER_PARAMETER * self.active_parameters * self.tokens

    def __str__(self) -> str:
        return (
            f"{self.active_parameters:,} of {self.parameters:,} parameters are active. "
            f"Train on {self.tokens:.1e} tokens ({self.operations:.1e} operations) before growth."
        )


def growth_compute(model: keras.Model) -> GrowthCompute:
    """Return how much compute a model should have been trained with before it grows.

    Use it to decide when to grow. The source found that from about this compute on, interposed copies of blocks are
    better than stacked ones. It is a rule of thumb, found on language models of billions of parameters.

    Args:
        model: A built model, wrapped or not, with mixtures of experts or without.

    Returns:
        The active parameters, and the tokens and operations for them.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(10, use_bias=False)])
        >>> advice = growth_compute(model)
        >>> advice.active_parameters, advice.tokens, advice.operations
        (100, 2000, 1200000)

    Reference:
        Orthogonal growth, "Beyond Sunk Costs", 2025, arXiv:2510.08008 (F_c = 6 N 20 N, with N active parameters).
    """
    anatomy = Anatomy.of(model)
    check_model(anatomy)
    wrappers = [layer for _, layer in anatomy.every if isinstance(layer, Pruned)]
    beside = {id(variable) for wrapper in wrappers for variable in wrapper.saved_variables().values()}
    sizes = {id(weight): math.prod(weight.shape) for weight in model.weights if id(weight) not in beside}
    active = dict(sizes)
    for layer in find_moe_layers(model):
        for key in layer.axes.keys() - layer.router:
            active[key] = sizes[key] * layer.top_k // layer.experts
    return GrowthCompute(sum(sizes.values()), sum(active.values()))
