"""The wrappers in a model, and whether their masks hide anything."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import keras

from tfprune.base.warn_user import warn_user
from tfprune.keras_models.models.anatomy import check_keras
from tfprune.keras_models.models.kernels import Kernel
from tfprune.keras_models.models.layers import as_numpy, walk
from tfprune.masking.wrapping.masked_weights import count_kept
from tfprune.masking.wrapping.pruned import Pruned


def wrappers(model: keras.layers.Layer) -> list[tuple[str, Pruned]]:
    """Return the wrappers of a model with their paths, each once, built or not; there may be none."""
    candidates = ((path, layer) for path, layer in walk(model, stop=Pruned) if isinstance(layer, Pruned))
    return [(path or layer.name, layer) for path, layer in candidates if layer.prunes]


def waits_for_data(model: keras.layers.Layer) -> bool:
    """Tell whether a model, or a wrapper in it, is built by the first batch that it is called on."""
    named_layers = wrappers(model)
    return not all(layer.built for _, layer in named_layers) if named_layers else not model.built


def pruned_layers(model: keras.layers.Layer) -> list[tuple[str, Pruned]]:
    """Return the wrappers of a model with their paths, each once.

    Raises:
        TypeError: If `model` is not a Keras model or layer.
        ValueError: If there are none, one is not built, or two hold the same weight.
    """
    check_keras(model, keras.layers.Layer)
    named_layers = wrappers(model)
    if not named_layers:
        raise ValueError(
            f"Expected a model with pruned layers. Received: {model.name!r}, which has none. Use the model that "
            f"tfprune.wrap(model) returns."
        )
    unbuilt = [path for path, layer in named_layers if not layer.built]
    if unbuilt:
        raise ValueError(f"Expected built layers. Received: {', '.join(unbuilt)}; call the model on data first.")
    _check_owners(named_layers)
    return named_layers


def masked_sparsity(model: keras.layers.Layer) -> float:
    """Return the fraction of zeros in the weights under masks, in [0, 1], as `sparsity_report` counts it."""
    masked = [(kernel.variable, layer.masks[name]) for layer, name, kernel in _kernels(model)]
    return 1 - sum(itertools.starmap(count_kept, masked)) / sum(math.prod(mask.shape) for _, mask in masked)


def hidden_share(model: keras.layers.Layer) -> float:
    """Return the share of entries that masks hide, in [0, 1]; entries that have just grown are 0, but not hidden."""
    masks = [layer.masks[name] for layer, name, _ in _kernels(model)]
    return 1 - sum(map(count_kept, masks)) / sum(math.prod(mask.shape) for mask in masks)


def _kernels(model: keras.layers.Layer) -> Iterator[tuple[Pruned, str, Kernel]]:
    return ((layer, name, kernel) for _, layer in wrappers(model) for name, kernel in layer.kernels.items())


def warn_if_dense(model: keras.layers.Layer) -> None:
    """Warn if a model has masks and none of them holds a zero."""
    masks = [mask for _, layer in wrappers(model) for mask in layer.masks.values()]
    if masks and all(as_numpy(mask).all() for mask in masks):
        warn_user(
            f"No weight of {model.name!r} is pruned: it has pruned layers, but none of their masks holds a zero. "
            f"Train it with PruningCallback, or UpdatePruningStep under tfmot's names, among the callbacks, or call "
            f"tfprune.update_masks(model, sparsity), before you strip it."
        )


def mask_zeros(model: keras.layers.Layer) -> None:
    """Let the masks of wrappers show where their weights are zero."""
    for _, layer in wrappers(model):
        for name, kernel in layer.kernels.items():
            layer.set_mask(name, as_numpy(kernel.variable) != 0)


def _check_owners(layers: list[tuple[str, Pruned]]) -> None:
    """Refuse a weight under two masks: the one set last would win, silently."""
    owners: dict[int, str] = {}
    for path, layer in layers:
        for name, kernel in layer.kernels.items():
            first = owners.setdefault(id(kernel.variable), f"{path}/{name}")
            if first != f"{path}/{name}":
                raise ValueError(
                    f"Expected each weight under one mask. Received: {first} and {path}/{name}, which are the same "
                    f"weight. Wrap its layer once, and call the wrapper wherever the layer is needed."
                )
