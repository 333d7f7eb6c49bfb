"""Whether a layer, an operation or a function treats each channel by itself, seen on numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfprune.keras_models.tracing.same_outputs import Tolerance, same_outputs
from tfprune.keras_models.tracing.sample_inputs import numbers_for
from tfprune.keras_models.tracing.trace_failure import FAILURES

_DRAWS = 8
_TOLERANCE = Tolerance(relative=1e-4, absolute=1e-5, nan_is_same=True)


def is_channelwise(function: Callable, arguments: Any, *, axes: Mapping[int, int]) -> bool:
    """Tell whether a function returns for some of the channels alone what it returns for them among all.

    Such a function needs no rule: channels go through it, and it works without those that are removed.

    Args:
        function: A layer, an operation or a function.
        arguments: Its arguments and keyword arguments, symbolic tensors in place of numbers.
        axes: The axis of the channels in each tensor that has them, by the id of the tensor. They have the same axis
            in what is returned.

    Example:
        >>> x = keras.KerasTensor((2, 6))
        >>> [is_channelwise(f, ((x,), {}), axes={id(x): 1}) for f in (keras.ops.relu, keras.ops.softmax)]
        [True, False]
    """
    tensors = [leaf for leaf in keras.tree.flatten(arguments) if isinstance(leaf, keras.KerasTensor)]
    (axis,), (size,) = {axes[id(x)] for x in tensors if id(x) in axes}, _sizes(tensors, axes)
    numbers = numbers_for(arguments)
    flat = [id(leaf) in axes for leaf in keras.tree.flatten(arguments)]
    generator = np.random.default_rng(0)
    try:
        whole = _called(function, numbers)
        for _ in range(_DRAWS):
            some = np.sort(generator.permutation(size)[: max(generator.integers(size), min(2, size))])
            leaves = [
                keras.ops.take(leaf, some, axis=axis) if is_taken else leaf
                for leaf, is_taken in zip(keras.tree.flatten(numbers), flat, strict=True)
            ]
            part = _called(function, keras.tree.pack_sequence_as(numbers, leaves))
            expected = [np.take(array, some, axis=axis) for array in whole]
            if not same_outputs(part, expected, tolerance=_TOLERANCE):
                return False
    except FAILURES:
        return False
    return True


def _sizes(tensors: list[Any], axes: Mapping[int, int]) -> set[int]:
    return {int(x.shape[axes[id(x)]]) for x in tensors if id(x) in axes}


def _called(function: Callable, numbers: Any) -> list[np.ndarray]:
    args, kwargs = numbers
    return [keras.ops.convert_to_numpy(value) for value in keras.tree.flatten(function(*args, **kwargs))]
