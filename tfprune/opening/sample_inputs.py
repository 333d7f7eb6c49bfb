"""Small inputs to look at a model with: symbolic ones of fixed shapes, and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

BATCH, LENGTH = 2, 8  # where a model leaves a size open


def fixed_shape(shape: Sequence[int | None]) -> tuple[int, ...]:
    """Return a shape in which no size is open.

    Example:
        >>> fixed_shape((None, None, 3))
        (2, 8, 3)
    """
    sizes = [BATCH if axis == 0 else LENGTH for axis in range(len(shape))]
    return tuple(known if size is None else size for size, known in zip(shape, sizes, strict=True))


def fixed_inputs(model: keras.Model) -> Any:
    """Return symbolic inputs of fixed shapes, in the structure of the model's own."""

    def like(tensor: keras.KerasTensor) -> keras.KerasTensor:
        return keras.Input(batch_shape=fixed_shape(tensor.shape), dtype=tensor.dtype, name=tensor.name)

    return keras.tree.map_structure(like, model.input)


def numbers_for(structure: Any, *, seed: int = 0) -> Any:
    """Return numbers in place of symbolic tensors; whole ones are 0 or 1, as indices and masks may be."""
    generator = np.random.default_rng(seed)

    def value(leaf: Any) -> Any:
        if not isinstance(leaf, keras.KerasTensor):
            return leaf
        shape, dtype = fixed_shape(leaf.shape), keras.backend.standardize_dtype(leaf.dtype)
        if keras.backend.is_float_dtype(dtype):
            return keras.ops.cast(generator.normal(size=shape), dtype)
        return keras.ops.cast(generator.random(shape) < 0.8, dtype)

    return keras.tree.map_structure(value, structure)
