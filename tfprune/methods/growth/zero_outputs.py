"""Set the last weights of blocks to zero, so that each block returns its input at first, and learns from there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.keras_models.copying.twin import layer_inside
from tfprune.keras_models.models.kernels import kernels
from tfprune.keras_models.models.layer_hooks import holders, hooked_calls
from tfprune.keras_models.models.layers import as_numpy, join_path, walk
from tfprune.keras_models.tracing.open_layers import own_weights
from tfprune.keras_models.tracing.same_outputs import EXACT, same_outputs
from tfprune.methods.growth.reordered_model import ReorderedModel


def zero_outputs(
    reordered: ReorderedModel, indices: Sequence[int], *, inputs: Sequence[Any]
) -> dict[int, tuple[str, ...]]:
    """Set to zero the last weights on each path through some blocks, and return their paths by the block's index.

    Weights before the last ones keep their values, so that the gradients of the last ones are not zero. If zero
    kernels are not enough, because a normalization after them adds something, its weights are set to zero too.

    Args:
        reordered: The model. Its weights are changed.
        indices: The indices of the blocks.
        inputs: Numbers for each input of the model, on which it is tried.

    Raises:
        ValueError: If a block does not return its input even when all its kernels are zero.
    """
    source = reordered.source
    values = source.run(reordered.order, inputs=inputs)
    zeroed: dict[int, tuple[str, ...]] = {}
    for index in indices:
        entry = _random_like(values.stream[index])
        run = functools.partial(
            source.run_block,
            reordered.order[index],
            entry=entry,
            context=values.context,
            perform=functools.partial(reordered.perform, index=index),
        )
        zeroed[index] = _zero_output(reordered, index, entry, run)
    return zeroed


def _zero_output(reordered: ReorderedModel, index: int, entry: Any, run: Callable[[], Any]) -> tuple[str, ...]:
    source, number = reordered.source, reordered.order[index]
    layers, calls = reordered.block_layers(index), source.blocks[number].calls
    shared = [call.layer for call in calls if source.is_shared(call.layer)]
    if any(getattr(layer, "weights", None) for layer in shared):
        raise ValueError(
            f"Expected blocks with weights of their own for zero_output=True. Received: block {number} of "
            f"{source.copy.name!r}, which shares {shared[0].name!r} with others. Pass zero_output=False."
        )
    for has_normalizations in (False, True):
        weights = _in_call_order(layers, run, has_normalizations=has_normalizations)
        values = [as_numpy(weight).copy() for _, weight in weights]
        for _, weight in weights:
            weight.assign(np.zeros(weight.shape))
        if same_outputs(run(), entry, tolerance=EXACT):
            return _restore_first(weights, values, is_identity=lambda: same_outputs(run(), entry, tolerance=EXACT))
        for (_, weight), value in zip(weights, values, strict=True):
            weight.assign(value)
    raise ValueError(
        f"Expected blocks that add something to what they read, for zero_output=True. Received: block {number} of "
        f"{source.copy.name!r}, which begins with {calls[0].layer.name!r} and changes what it reads even if all its "
        f"weights are zero, as a normalization after the sum does. Pass zero_output=False."
    )


def _restore_first(
    weights: list[tuple[str, keras.Variable]], values: list[np.ndarray], *, is_identity: Callable[[], bool]
) -> tuple[str, ...]:
    """Restore the values of weights, the first ones first, as long as the block is the identity.

    Returns the paths of those that stay zero.
    """
    zeroed = []
    for (path, weight), value in zip(weights, values, strict=True):
        weight.assign(value)
        if not is_identity():
            weight.assign(np.zeros(weight.shape))
            zeroed.append(path)
    return tuple(zeroed)


def _random_like(stream: Any) -> Any:
    """Return random numbers in the shape of a block's input, without negative ones if it has none."""
    random = np.random.default_rng(0).normal(size=tuple(stream.shape))
    is_positive = bool(keras.ops.all(stream >= 0))
    return keras.ops.cast(abs(random) if is_positive else random, keras.backend.standardize_dtype(stream.dtype))


def _in_call_order(
    layers: Sequence[keras.layers.Layer], run: Callable[[], Any], *, has_normalizations: bool
) -> list[tuple[str, keras.Variable]]:
    """Return the weights of layers with kernels, in the order in which these are called, with their paths."""
    paths: dict[int, str] = {}
    parts: dict[int, keras.layers.Layer] = {}
    for layer in map(layer_inside, layers):
        inner = {key: holder for key, (_, holder) in holders(layer).items()}
        owners = {id(inner[id(kernel.variable)]) for kernel in kernels(layer)}
        for path, part in walk(layer):
            if id(part) in owners or (has_normalizations and own_weights(part)):
                parts[id(part)] = part
                paths[id(part)] = join_path(layer.name, path)
    called: dict[int, int] = {}

    def note(layer: keras.layers.Layer, inputs: Any, outputs: Any) -> None:
        called.setdefault(id(layer), len(called))

    with hooked_calls(parts.values(), note):
        run()
    ordered = sorted(parts.values(), key=lambda part: called.get(id(part), len(parts)))
    return [
        (f"{paths[id(part)]}/{weight.name}", weight)
        for part in ordered
        for weight in own_weights(part)
        if keras.backend.is_float_dtype(weight.dtype) and not weight.name.startswith("moving_")
    ]
