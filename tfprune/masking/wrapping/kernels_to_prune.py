"""Which weights of one layer a wrapper prunes."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from tfprune.keras_models.models.calls import unbuilt
from tfprune.keras_models.models.kernels import Kernel, kernels
from tfprune.patterns import Pattern


def kernels_to_prune(
    layer: keras.layers.Layer, names: Sequence[str] | None, *, pattern: Pattern
) -> dict[str, Kernel]:
    """Return the kernels of a layer to prune, by name.

    Args:
        layer: A built layer.
        names: Names of its weights; None takes every kernel that mixes inputs.
        pattern: What each of them has to take.

    Raises:
        ValueError: If there are none, the layer has no such weight, or one cannot take the pattern.
    """
    offered = {kernel.path: kernel for kernel in kernels(layer)}
    if names is None:
        names = [name for name, kernel in offered.items() if kernel.mixes_inputs]
    unknown = [name for name in names if name not in offered]
    if unknown or not names:
        missing = ", ".join(unbuilt(layer))
        raise ValueError(
            f"Expected weights of layer {layer.name!r} ({type(layer).__name__}) that can be pruned. "
            f"Received: {', '.join(unknown) or 'none'}; the layer offers {', '.join(offered) or 'none'}. "
            + (f"Not built yet: {missing}; call the layer on data first. " if missing else "")
            + f"tfprune.register_prunable({type(layer).__name__}, ...) names the weights of a custom layer."
        )
    chosen = {name: offered[name] for name in names}
    for name, kernel in chosen.items():
        refusal = pattern.refusal(kernel.matrix_shape)
        if refusal:
            raise ValueError(f"Weight {layer.name}/{name} cannot take the pattern: {refusal}.")
    return chosen
