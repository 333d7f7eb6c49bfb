"""Drop blocks of a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from tfprune.base.renamed import renamed
from tfprune.base.spec import check_numbers
from tfprune.methods.growth.blocks import Blocks
from tfprune.methods.growth.find_blocks import find_blocks
from tfprune.methods.growth.growth_report import GrowthReport, comparison_data, report_growth
from tfprune.methods.growth.reorder import reorder


@renamed(data="samples=")
def drop_blocks(
    model: keras.Model,
    drop: Iterable[int],
    *,
    samples: Any = None,
    blocks: str | None = None,
) -> tuple[keras.Model, GrowthReport]:
    """Drop some of the repeated blocks of a model.

    Use it to make a deep model smaller and faster on any hardware, then train it. `rank_blocks` finds the least
    important blocks. The other blocks keep their masks and latent values.

    Args:
        model: A built model with repeated blocks: a Sequential or Functional one, or a backbone or task of KerasHub,
            wrapped or not. It is left unchanged.
        drop: The blocks to drop, counted from 0 in the order in which the model calls them.
        samples: Inputs on which the outputs of both models are compared; a few dozen are enough. None (the default)
            takes random numbers.
        blocks: A regular expression for the names of the layers in blocks, with the number of the block as its group,
            such as `r"block_(\\d+)_"`. None (the default) searches for parts that repeat.

    Returns:
        An uncompiled model and a `GrowthReport`. The model is of the same class if the number of blocks is an
        argument of the class, and otherwise Functional. The report shows which of the two it is, and whether the
        outputs are the same.

    Raises:
        TypeError: If `model` is not a Keras model, or `drop` holds something other than integers.
        ValueError: If the model has no repeated blocks, or not these, or all of them are to be dropped.

    Example:
        >>> import keras, tfprune
        >>> block = lambda index: keras.layers.Dense(4, "relu", name=f"block_{index}")
        >>> model = keras.Sequential([keras.Input((4,)), *map(block, range(3)), keras.layers.Dense(2, name="out")])
        >>> smaller, report = drop_blocks(model, [1])
        >>> [layer.name for layer in smaller.layers[1:]], report.parameters
        (['block_0', 'block_1', 'out'], (70, 50))

    Reference:
        Men et al., 2024, "ShortGPT", arXiv:2403.03853 (layers with similar input and output).
    """
    dropped = check_numbers(drop, "drop", of="blocks")
    source = find_blocks(model, blocks)
    count = len(source.blocks)
    unknown = [block for block in dropped if block >= count]
    if unknown or len(dropped) >= count:
        received = f"block {unknown[0]}" if unknown else f"all {count}"
        raise ValueError(
            f"Expected blocks to drop among 0 to {count - 1}, and at least one other block. Received: {received} of "
            f"{model.name!r}. Its blocks begin with the layers {_first_layers(source)}."
        )
    batches = comparison_data(samples, source)
    smaller = reorder(source, [block for block in range(count) if block not in dropped])
    return smaller.model, report_growth(smaller, batches)


def _first_layers(source: Blocks) -> str:
    names = [block.calls[0].layer.name for block in source.blocks]
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
