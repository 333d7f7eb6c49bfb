"""Drop blocks of a model."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import keras

from tfprune.base.progress import Progress, check_verbose
from tfprune.base.spec import check_count, check_numbers
from tfprune.keras_models.models.anatomy import check_keras
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.compiled import loss_of
from tfprune.keras_models.models.token_ids import check_token_ids
from tfprune.methods.growth.block_losses import mean_loss, one_by_one
from tfprune.methods.growth.blocks import Blocks
from tfprune.methods.growth.find_blocks import find_blocks
from tfprune.methods.growth.growth_report import DroppedBlock, GrowthReport, comparison_data, report_growth
from tfprune.methods.growth.reorder import reorder


def drop_blocks(
    model: keras.Model,
    drop: Iterable[int] | None = None,
    *,
    samples: Any = None,
    count: int | None = None,
    blocks: str | None = None,
    data: Any = None,
    loss: Any = None,
    batch_size: int = 32,
    verbose: int | str = "auto",
) -> tuple[keras.Model, GrowthReport]:
    """Drop some of the repeated blocks of a model.

    Use it to make a deep model smaller and faster on any hardware, then train it. Name the blocks in `drop`, for
    example those that `rank_blocks` ranks lowest. Or pass `count` and `data`: the block whose removal raises the loss
    least is dropped again and again, and each loss is that of the model without the blocks dropped before. The other
    blocks keep their masks and latent values.

    Args:
        model: A built model with repeated blocks: a Sequential or Functional one, or a backbone or task of KerasHub,
            wrapped or not. It is left unchanged.
        drop: The blocks to drop, counted from 0 in the order in which the model calls them. None (the default) with
            `count` and `data`.
        samples: Inputs on which the outputs of both models are compared; a few dozen are enough. None (the default)
            takes random numbers.
        count: How many blocks to drop one by one, from 1 to all but one. None (the default) with `drop`.
        blocks: A regular expression for the names of the layers in blocks, with the number of the block as its group,
            such as `r"block_(\\d+)_"`. None (the default) searches for parts that repeat.
        data: The data on which the loss is measured, for `count`: a tuple (x, y), or a dataset of such batches that
            can be read more than once. To drop k of n blocks, it is evaluated n + (n - 1) + ... times, k terms.
        loss: A loss, its name or a function, for `count`; None (the default) takes the loss that the model is
            compiled with.
        batch_size: Samples in a batch of `data`, at least 1. Default 32.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            a bar after three seconds, in a terminal or a notebook.

    Returns:
        An uncompiled model and a `GrowthReport`. The model is of the same class if the number of blocks is an
        argument of the class, and otherwise Functional. The report shows which of the two it is, whether the outputs
        are the same, and the loss after each block that was dropped one by one (`steps`).

    Raises:
        TypeError: If `model` is not a Keras model, or `drop` holds something other than integers.
        ValueError: If the model has no repeated blocks, or not these, or all of them are to be dropped.
        ValueError: If not exactly one of `drop` and `count` is given, or `data` or `loss` come without `count`.
        ValueError: If `count` comes without data, targets or a loss, or the model has several outputs.
        ValueError: If `data` have token ids beyond the vocabulary, or sample weights.

    Example:
        >>> import keras, tfprune
        >>> block = lambda index: keras.layers.Dense(4, "relu", name=f"block_{index}")
        >>> model = keras.Sequential([keras.Input((4,)), *map(block, range(3)), keras.layers.Dense(2, name="out")])
        >>> smaller, report = drop_blocks(model, [1])
        >>> [layer.name for layer in smaller.layers[1:]], report.parameters
        (['block_0', 'block_1', 'out'], (70, 50))
        >>> x = keras.random.normal((64, 4), seed=0)
        >>> smaller, report = drop_blocks(model, count=2, data=(x, x[:, :2]), loss="mse")
        >>> len(report.order), len(report.steps)
        (1, 2)

    Reference:
        Song et al., 2024, "SLEB", arXiv:2402.09025 (one by one, algorithm 1); Men et al., 2024, "ShortGPT",
        arXiv:2403.03853 (layers with similar input and output).
    """
    check_keras(model)
    check_verbose(verbose)
    check_count(batch_size, "batch_size", least=1)
    measured = _loss_for(model, drop, count, data=data, loss=loss)
    dropped = set() if drop is None else check_numbers(drop, "drop", of="blocks")
    source = find_blocks(model, blocks)
    batches = comparison_data(samples, source)
    whole: float | None = None
    steps: tuple[DroppedBlock, ...] = ()
    if count is not None and measured is not None:
        most = len(source.blocks) - 1
        check_count(count, "count", least=1, most=most)
        judged = Batches(data, source.graph.model, batch_size=batch_size, is_for_loss=True)
        check_token_ids(source.graph, judged, argument="data")
        whole, steps = _steps(source, count, judged, measured, verbose=verbose)
        dropped = {step.block for step in steps}
    _check_known(dropped, source, model.name)
    smaller = reorder(source, [block for block in range(len(source.blocks)) if block not in dropped])
    return smaller.model, replace(report_growth(smaller, batches), loss=whole, steps=steps)


def _loss_for(model: keras.Model, drop: Any, count: Any, *, data: Any, loss: Any) -> Callable | None:
    """Return the loss by which blocks are dropped; None where they are named.

    Raises:
        ValueError: If both or none are asked for, or the data are missing or superfluous.
    """
    if (drop is None) == (count is None):
        received = "neither" if drop is None else f"drop={drop!r}, count={count!r}"
        raise ValueError(
            f"Expected either `drop`, the blocks to drop, or `count`, how many to drop one by one. Received: "
            f"{received}."
        )
    if count is None and (data is not None or loss is not None):
        raise ValueError(
            "Expected `count` with `data` and `loss`, which choose the blocks. Received: `drop` with them. To "
            "compare the outputs of both models on data, pass samples=..."
        )
    if count is not None and data is None:
        raise ValueError(
            f"Expected `data` with `count`, on which the loss is measured. Received: count={count!r}, data=None. "
            f"Pass data=(x, y)."
        )
    return None if count is None else loss_of(model, loss)


def _steps(
    source: Blocks, count: int, batches: Batches, loss: Callable, *, verbose: int | str
) -> tuple[float, tuple[DroppedBlock, ...]]:
    """Return the loss of the whole model, and the blocks that are dropped one by one."""
    blocks = len(source.blocks)
    measure = functools.partial(mean_loss, source, batches=batches, loss=loss)
    with Progress(1 + sum(range(blocks - count + 1, blocks + 1)), verbose=verbose, unit="evaluation") as progress:

        def counted(order: list[int]) -> float:
            progress.add()
            return measure(order)

        whole = counted(list(range(blocks)))
        pairs = list(itertools.islice(one_by_one(blocks, counted), count))
    return whole, tuple(DroppedBlock(block, source.blocks[block].calls[0].layer.name, loss) for block, loss in pairs)


def _check_known(dropped: set[int], source: Blocks, name: str) -> None:
    count = len(source.blocks)
    unknown = [block for block in dropped if block >= count]
    if unknown or len(dropped) >= count:
        received = f"block {unknown[0]}" if unknown else f"all {count}"
        raise ValueError(
            f"Expected blocks to drop among 0 to {count - 1}, and at least one other block. Received: {received} of "
            f"{name!r}. Its blocks begin with the layers {_first_layers(source)}."
        )


def _first_layers(source: Blocks) -> str:
    names = [block.calls[0].layer.name for block in source.blocks]
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
