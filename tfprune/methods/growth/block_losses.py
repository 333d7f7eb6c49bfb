"""Losses of a model without some of its blocks, and the blocks to drop one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import keras

from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.compiled import batch_loss
from tfprune.methods.growth.blocks import Blocks


def mean_loss(blocks: Blocks, order: Sequence[int], *, batches: Batches, loss: Callable) -> float:
    """Return the mean loss of a model that runs some of its blocks."""
    total, count = 0.0, 0
    for inputs, targets in batches:
        values = blocks.run(order, inputs=[keras.ops.convert_to_tensor(array) for array in inputs])
        total += len(inputs[0]) * batch_loss(loss, values.outputs[0], targets=targets)
        count += len(inputs[0])
    return total / count


def one_by_one(count: int, measure: Callable[[list[int]], float]) -> Iterator[tuple[int, float]]:
    """Yield the blocks to drop, one after the other, each with the loss of the model without it and those before.

    Args:
        count: The number of blocks of the model. All but the last one are yielded.
        measure: Returns the loss of the model with the blocks of these numbers.

    Example:
        >>> list(one_by_one(3, lambda kept: float(10 - sum(kept))))
        [(0, 7.0), (1, 8.0)]
    """
    remaining = list(range(count))
    while len(remaining) > 1:
        losses = {block: measure([other for other in remaining if other != block]) for block in remaining}
        least = min(remaining, key=lambda block: losses[block])
        remaining.remove(least)
        yield least, losses[least]
