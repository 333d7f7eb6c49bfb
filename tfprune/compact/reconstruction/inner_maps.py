"""The linear maps of a layer: the layer itself, or the layers that one made of others holds."""

from __future__ import annotations

from dataclasses import replace

import keras

from tfprune.compact.reconstruction.linear_map import LinearMap, NotLinear, linear_map
from tfprune.keras_models.models.kernels import kernels
from tfprune.keras_models.models.layer_hooks import LOOPS
from tfprune.keras_models.models.layers import sublayers
from tfprune.report import Skipped


def inner_maps(layer: keras.layers.Layer, *, name: str) -> tuple[list[LinearMap], list[Skipped]]:
    """Return the maps of a layer, their kernels with paths below it, and the parts with kernels that are left alone.

    Args:
        layer: The layer, which is opened where it is no linear map itself but holds layers that are.
        name: How it is called where it is left alone.
    """
    if kernels(layer) and not layer.trainable:
        return [], [Skipped(name, "frozen (trainable=False)", Skipped.FROZEN)]
    try:
        return [linear_map(layer)] if kernels(layer) else [], []
    except NotLinear as reason:
        skipped = Skipped(name, str(reason), Skipped.NO_RULE)
    found: list[LinearMap] = []
    left: list[Skipped] = []
    parts = [] if isinstance(layer, LOOPS) else sublayers(layer)
    inside = {id(kernel.variable) for part in parts for kernel in kernels(part)}
    if any(id(kernel.variable) not in inside for kernel in kernels(layer)):
        left.append(skipped)
    for part in {id(part): part for part in parts}.values():
        maps, others = inner_maps(part, name=f"{name}/{part.name}")
        found += [replace(one, kernel=replace(one.kernel, path=f"{part.name}/{one.kernel.path}")) for one in maps]
        left += others
    return found, left
