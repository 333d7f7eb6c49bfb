"""Small inputs to look at a model with: symbolic ones of fixed shapes, and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfprune.keras_models.tracing.trace_failure import FAILURES

BATCH, LENGTH = 2, 8  # where a model leaves a size open
LENGTHS = (LENGTH, 4, 2048)  # of short texts, of a model for shorter ones, of sound


def fixed_shape(shape: Sequence[int | None], *, length: int = LENGTH) -> tuple[int, ...]:
    """Return a shape in which no size is open.

    Example:
        >>> fixed_shape((None, None, 3))
        (2, 8, 3)
    """
    sizes = [BATCH if axis == 0 else length for axis in range(len(shape))]
    return tuple(sample_size if size is None else size for size, sample_size in zip(shape, sizes, strict=True))


def first_run(model: keras.Model) -> tuple[int, Any] | None:
    """Run a model on the first length that it takes; return the length and the outputs, None if it takes none."""
    runs = ((length, run_on_numbers(model, length)) for length in LENGTHS)
    return next(((length, outputs) for length, outputs in runs if outputs is not None), None)


def run_on_numbers(model: keras.Model, length: int) -> Any:
    """Return the outputs of a model on numbers of a length; None where it does not run on them."""
    try:
        return model(numbers_for(model.input, length=length), training=False)
    except FAILURES:
        return None


def usable_length(model: keras.Model) -> int | None:
    """Return the first length on which a model runs; None if there is none."""
    run = first_run(model)
    return None if run is None else run[0]


def fixed_inputs(model: keras.Model, *, length: int = LENGTH) -> Any:
    """Return symbolic inputs of fixed shapes, in the structure of the model's own."""

    def like(tensor: keras.KerasTensor) -> keras.KerasTensor:
        shape = fixed_shape(tensor.shape, length=length)
        return keras.Input(batch_shape=shape, dtype=tensor.dtype, name=tensor.name)

    return keras.tree.map_structure(like, model.input)


def numbers_for(structure: Any, *, length: int = LENGTH, seed: int = 0) -> Any:
    """Return numbers in place of symbolic tensors; whole ones are 0 or 1, as indices and masks may be."""
    generator = np.random.default_rng(seed)

    def value(leaf: Any) -> Any:
        if not isinstance(leaf, keras.KerasTensor):
            return leaf
        shape = fixed_shape(leaf.shape, length=length)
        dtype = keras.backend.standardize_dtype(leaf.dtype)
        if keras.backend.is_float_dtype(dtype):
            return keras.ops.cast(generator.normal(size=shape), dtype)
        return keras.ops.cast(generator.random(shape) < 0.8, dtype)

    return keras.tree.map_structure(value, structure)
