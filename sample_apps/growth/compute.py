"""The compute of training a model: floating-point operations, counted from the sizes of its kernels.

A multiplication and an addition count as two. To read a piece takes two operations for each entry of a kernel that it
meets, and `4 * WINDOW * width` in each block for the scores of attention and the sums that they weight. The gradients
take twice as many again. Of a mixture, a piece meets the experts that the router chooses. Norms, activations, biases
and the optimizer are left out.
"""

from __future__ import annotations

import math

import keras

from sample_apps.growth.networks import WINDOW, Mixture


def training_flops(model: keras.Model, *, all_experts: bool = False) -> int:
    """Return how many operations training takes for each piece.

    Args:
        model: A model of `networks.build`, with other blocks or experts, wrapped or not.
        all_experts: Whether to count each expert, as this app's Mixture computes all of them for every piece.
    """
    return 3 * sum(_forward(getattr(layer, "layer", layer), all_experts) for layer in model.layers)


def _forward(layer: keras.layers.Layer, all_experts: bool) -> int:
    if isinstance(layer, Mixture):
        experts = layer.num_experts if all_experts else layer.top_k
        return 2 * (_size(layer.router.kernel) + (_size(layer.up) + _size(layer.down)) // layer.num_experts * experts)
    if isinstance(layer, keras.layers.MultiHeadAttention):
        kernels = [weight for weight in layer.weights if weight.name == "kernel"]
        return 2 * sum(map(_size, kernels)) + 4 * WINDOW * layer.num_heads * layer.key_dim
    return 2 * _size(layer.kernel) if isinstance(layer, keras.layers.Dense) else 0


def _size(weight: keras.Variable) -> int:
    return math.prod(weight.shape)
