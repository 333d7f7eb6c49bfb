"""What files hold of a wrapper: its masks and latent values, by names that are the same in every copy."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import keras
import numpy as np

from tfprune.models.kernels import to_matrix

Variables = Mapping[str, keras.Variable]


def saved_names(masks: Variables, latents: Variables) -> dict[str, keras.Variable]:
    """Return masks and latent values by their names in files: the weight's position, and the end of its path."""
    names = {path: f"{index}_{path.rpartition('/')[2]}" for index, path in enumerate(masks)}
    saved = {f"{names[path]}_mask": mask for path, mask in masks.items()}
    return saved | {f"{names[path]}_latent": latent for path, latent in latents.items()}


def check_saved(layer: Any, store: Mapping[str, Any], *, names: Collection[str]) -> None:
    """Refuse a file that has no masks for the weights of a wrapper, or masks that its pattern does not allow.

    Args:
        layer: The wrapper.
        store: What the file holds for it, by name.
        names: What it has to hold, as `saved_names` names it: the masks first.

    Raises:
        ValueError: Saying what was found instead.
    """
    if set(store.keys()) != set(names):
        raise ValueError(
            f"Expected the masks of layer {layer.name!r}: {', '.join(names) or 'none, as it is not built'}. "
            f"Received a file with {', '.join(store.keys()) or 'nothing'} in their place. Load weights of a "
            f"model that is not wrapped before you wrap it: model.load_weights(path), then tfprune.wrap(model)."
        )
    for (name, mask), stored in zip(layer.masks.items(), names, strict=False):
        values = np.asarray(store[stored])
        if values.shape == mask.shape and not layer.pattern.allows(to_matrix(values, layer.kernels[name])):
            raise ValueError(
                f"Expected a mask of {layer.name}/{name} with zeros as in {layer.pattern!r}. Received a file whose "
                f"mask has them elsewhere. Wrap with the pattern that the file was trained with."
            )
