"""Weights of experts: each expert is the mean of some experts of another model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np

from tfprune.keras_models.copying.origins import Groups, MadeOf, Shares, mean_of_groups
from tfprune.keras_models.copying.twin import layer_pairs
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.kernels import to_matrix
from tfprune.keras_models.models.layers import as_numpy, paired, walk
from tfprune.keras_models.models.low_rank import train_alike
from tfprune.masking.wrapping.pruned import Pruned
from tfprune.methods.experts.moe_layers import MoeLayer


def average_experts(
    new: keras.layers.Layer,
    source: Anatomy,
    *,
    layers: Sequence[MoeLayer],
    groups: Mapping[str, Groups],
    shares: Mapping[str, Shares],
) -> dict[int, MadeOf]:
    """Give a model with another number of experts its weights, masks and latent values.

    Returns what each of its variables was made of, by its id.

    Args:
        new: A model or layer that `set_expert_count` returned.
        source: The model or layer that it was made of.
        layers: The layers with experts in `source`.
        groups: For each of them, by its path, the experts whose mean each new expert is.
        shares: The shares of these experts in the mean, by the path; equal ones for a path that is not there.

    Raises:
        ValueError: If the other weights of the two have different shapes.
    """
    axes = {
        key: (axis, groups[layer.path], shares.get(layer.path, ()))
        for layer in layers
        for key, axis in layer.axes.items()
    }
    axes |= dict(_masks_and_latents(source.model, axes))
    made_of: dict[int, MadeOf] = {}
    for part, counterpart in layer_pairs(source, new):
        layer = part.model
        train_alike(paired(layer, counterpart))
        for variable, other in zip(layer.variables, counterpart.variables, strict=True):
            axis, own_groups, own_shares = axes.get(id(variable), (0, (), ()))
            made_of[id(other)] = variable, axis, own_groups, own_shares
            value = as_numpy(variable)
            if own_groups:
                value = mean_of_groups(value, own_groups, axis=axis, shares=own_shares)
            if tuple(other.shape) != value.shape:
                raise ValueError(
                    f"Expected {layer.name!r} to have weights of the same shapes, those of its experts aside. "
                    f"Received: {variable.path} of shape {tuple(other.shape)} where it has {value.shape}. Name all "
                    f"weights of the experts in tfprune.experts.register."
                )
            other.assign(value)
    for _, layer in walk(new, stop=Pruned):
        if isinstance(layer, Pruned):
            _write_masked_values(layer)
    return made_of


def _masks_and_latents(
    root: keras.layers.Layer, axes: Mapping[int, tuple[int, Groups, Shares]]
) -> Iterator[tuple[int, tuple[int, Groups, Shares]]]:
    """Yield the axis, groups and shares of the masks and latent values of weights, by the id of the variable."""
    for _, layer in walk(root, stop=Pruned):
        if isinstance(layer, Pruned):
            saved = layer.saved_variables()
            for index, name in enumerate(layer.masks):
                own = axes.get(id(layer.kernels[name].variable))
                if own is not None:
                    yield from ((id(variable), own) for key, variable in saved.items() if key.startswith(f"{index}_"))


def _write_masked_values(layer: Pruned) -> None:
    """Clear the latent values of entries that a merged mask keeps; refuse a mask that the pattern does not allow."""
    for index, (name, mask) in enumerate(layer.masks.items()):
        keep = as_numpy(mask)
        if not layer.pattern.allows(to_matrix(keep, layer.kernels[name])):
            raise ValueError(
                f"Expected experts that can be merged under {layer.pattern!r}. Received: {layer.name}/{name}, where "
                f"the union of the masks of a group has another shape. Strip first: tfprune.strip(model)."
            )
        for key, variable in layer.saved_variables().items():
            if key.startswith(f"{index}_") and key.endswith("_latent"):
                variable.assign(np.where(keep, 0, as_numpy(variable)))


def perturb_copies(
    layers: Sequence[MoeLayer], *, groups: Mapping[str, Groups], noise: float, random: str | None, seed: int
) -> None:
    """Add noise to the experts that are copies of earlier ones, and to their rows of the router; zeros stay zeros.

    Args:
        layers: The layers with experts in a model that has its weights.
        groups: For each of them, by its path, the experts that each expert is made of.
        noise: The standard deviation of the noise, as a fraction of that of the weight.
        random: The part to draw at random, with the standard deviation of the weight: `"router"`, all of its rows, or
            `"experts"`, the copies. None draws nothing.
        seed: Seed of the random numbers.
    """
    generator = np.random.default_rng(seed)
    for layer in layers:
        own_groups = groups[layer.path]
        is_copy = np.array([group in own_groups[:index] for index, group in enumerate(own_groups)])
        for variable in layer.layer.weights:
            if id(variable) not in layer.axes:
                continue
            value, axis = as_numpy(variable), layer.axes[id(variable)]
            part = "router" if id(variable) in layer.router else "experts"
            shape = [1] * value.ndim
            shape[axis] = len(own_groups)
            changes = (is_copy | (random == part == "router")).reshape(shape) & (value != 0)
            factor, scale = (0, 1) if part == random else (1, noise)
            perturbation = generator.normal(size=value.shape) * (scale * value.astype(np.float64).std())
            variable.assign(np.where(changes, factor * value + perturbation, value).astype(value.dtype))
