"""Whether a layer, an operation or a function treats each channel by itself, seen on numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from tfprune.keras_models.tracing.same_outputs import Tolerance, same_outputs
from tfprune.keras_models.tracing.sample_inputs import numbers_for
from tfprune.keras_models.tracing.trace_failure import FAILURES

_DRAWS = 4
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
    flat = [id(leaf) in axes for leaf in keras.tree.flatten(arguments)]
    normal = numbers_for(arguments)
    try:
        for numbers in (normal, keras.tree.map_structure(_positive, normal)):  # roots and logarithms take the latter
            whole = _called(function, numbers)
            for some in _subsets(size):
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


def _subsets(size: int) -> Iterator[np.ndarray]:
    """Yield indices of channels: large random parts and what they leave, so that no channel is in all of them."""
    generator = np.random.default_rng(0)
    for _ in range(_DRAWS if size > 1 else 0):
        order = generator.permutation(size)
        count = generator.integers((size + 1) // 2, size)
        yield from (np.sort(order[:count]), np.sort(order[count:]))


def _positive(value: Any) -> Any:
    is_tensor = keras.ops.is_tensor(value) and keras.backend.is_float_dtype(value.dtype)
    return keras.ops.abs(value) if is_tensor else value


def _sizes(tensors: list[Any], axes: Mapping[int, int]) -> set[int]:
    return {int(x.shape[axes[id(x)]]) for x in tensors if id(x) in axes}


def _called(function: Callable, numbers: Any) -> list[np.ndarray]:
    args, kwargs = numbers
    return [keras.ops.convert_to_numpy(value) for value in keras.tree.flatten(function(*args, **kwargs))]
