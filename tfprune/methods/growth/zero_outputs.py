"""Set to zero what blocks add to what they read, so that they hand it on as it is, and learn from there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.keras_models.models.kernels import kernels
from tfprune.keras_models.models.layer_hooks import holders, hooked_calls
from tfprune.keras_models.models.layers import as_numpy, walk
from tfprune.keras_models.tracing.open_layers import own_weights
from tfprune.methods.blocks.block import layer_inside
from tfprune.methods.blocks.reordered_model import Arranged
from tfprune.methods.blocks.run import run, run_block


def zero_outputs(made: Arranged, places: Sequence[int], *, inputs: Sequence[Any]) -> dict[int, tuple[str, ...]]:
    """Set to zero the last weights on each way through some blocks, and return their paths by place.

    Those before the last ones keep their values, so that the gradients of the last ones are not zero. Where it is not
    enough that all kernels are zero, because a normalization adds something after them, its weights count, too.

    Args:
        made: A model, in which weights are set to zero.
        places: The places of the blocks.
        inputs: Numbers for each input of the model, on which it is tried.

    Raises:
        ValueError: If a block does not hand on what it reads even if all its kernels are zero.
    """
    values = run(made.found, made.order, inputs=inputs)
    found: dict[int, tuple[str, ...]] = {}
    for place in places:
        number, entry = made.order[place], _like(values.stream[place])

        def through(place: int = place, number: int = number, entry: Any = entry) -> Any:
            own = functools.partial(made.perform, place=place)
            return run_block(made.found, number, entry=entry, context=values.context, perform=own)

        found[place] = _zero(made, place, entry, through)
    return found


def _zero(made: Arranged, place: int, entry: Any, through: Callable[[], Any]) -> tuple[str, ...]:
    layers = made.at(place)
    shared = [call.layer for call in made.found.blocks[made.order[place]].calls if made.found.is_shared(call.layer)]
    if any(getattr(layer, "weights", None) for layer in shared):
        raise ValueError(
            f"Expected blocks with weights of their own for zero_output=True. Received: block {made.order[place]} of "
            f"{made.found.copy.name!r}, which shares {shared[0].name!r} with others. Pass zero_output=False."
        )
    for has_normalizations in (False, True):
        weights = _in_order(layers, through, has_normalizations=has_normalizations)
        values = [as_numpy(weight).copy() for _, weight in weights]
        for _, weight in weights:
            weight.assign(np.zeros(weight.shape))
        if _is_same(through(), entry):
            return _least(weights, values, is_same=lambda: _is_same(through(), entry))
        for (_, weight), value in zip(weights, values, strict=True):
            weight.assign(value)
    first = made.found.blocks[made.order[place]].calls[0].layer.name
    raise ValueError(
        f"Expected blocks that add something to what they read, for zero_output=True. Received: block "
        f"{made.order[place]} of {made.found.copy.name!r}, which begins with {first!r} and changes what it reads "
        f"even if all its weights are zero, as a normalization after the sum does. Pass zero_output=False."
    )


def _least(
    weights: list[tuple[str, keras.Variable]], values: list[np.ndarray], *, is_same: Callable[[], bool]
) -> tuple[str, ...]:
    """Give weights of zeros their values back, the first ones first, as far as the block hands on what it reads."""
    zeroed = []
    for (path, weight), value in zip(weights, values, strict=True):
        weight.assign(value)
        if not is_same():
            weight.assign(np.zeros(weight.shape))
            zeroed.append(path)
    return tuple(zeroed)


def _like(stream: Any) -> Any:
    """Return random numbers to read in place of what blocks read, none below zero where they read none."""
    random = np.random.default_rng(0).normal(size=tuple(stream.shape))
    is_positive = bool(keras.ops.all(stream >= 0))
    return keras.ops.cast(abs(random) if is_positive else random, keras.backend.standardize_dtype(stream.dtype))


def _is_same(one: Any, other: Any) -> bool:
    return np.array_equal(*(keras.ops.convert_to_numpy(keras.ops.cast(value, "float32")) for value in (one, other)))


def _in_order(
    layers: Sequence[keras.layers.Layer], through: Callable[[], Any], *, has_normalizations: bool
) -> list[tuple[str, keras.Variable]]:
    """Return kernels, and what is beside them, in the order in which their layers are called, with their paths."""
    paths: dict[int, str] = {}
    parts: dict[int, keras.layers.Layer] = {}
    for layer in map(layer_inside, layers):
        inner = {key: holder for key, (_, holder) in holders(layer).items()}
        owners = {id(inner[id(kernel.variable)]) for kernel in kernels(layer)}
        for path, part in walk(layer):
            if id(part) in owners or (has_normalizations and own_weights(part)):
                parts[id(part)] = part
                paths[id(part)] = f"{layer.name}/{path}" if path else layer.name
    called: dict[int, int] = {}

    def note(layer: keras.layers.Layer, given: Any, returned: Any) -> None:
        called.setdefault(id(layer), len(called))

    with hooked_calls(parts.values(), note):
        through()
    ordered = sorted(parts.values(), key=lambda part: called.get(id(part), len(parts)))
    return [
        (f"{paths[id(part)]}/{weight.name}", weight)
        for part in ordered
        for weight in own_weights(part)
        if keras.backend.is_float_dtype(weight.dtype) and not weight.name.startswith("moving_")
    ]
