"""Rank the blocks of a model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.base.progress import Progress, check_verbose
from tfprune.base.spec import check_choice, check_count
from tfprune.keras_models.copying.twin import layer_inside
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.compiled import batch_loss, loss_of
from tfprune.keras_models.models.token_ids import check_token_ids, token_masks, without_padding
from tfprune.methods.growth.block_losses import mean_loss
from tfprune.methods.growth.block_ranking import BlockRanking, RankedBlock
from tfprune.methods.growth.blocks import Blocks
from tfprune.methods.growth.find_blocks import find_blocks


def rank_blocks(
    model: keras.Model,
    data: Any,
    *,
    blocks: str | None = None,
    criterion: str = "loss",
    loss: Any = None,
    batch_size: int = 32,
    verbose: int | str = "auto",
) -> BlockRanking:
    """Rank the repeated blocks of a model by their importance.

    Use it to choose the blocks for `drop_blocks`. With the loss as criterion, it evaluates `data` once for each
    block. With the similarity, it evaluates `data` once, and needs no labels.

    Args:
        model: A built model with repeated blocks: a Sequential or Functional one, or a backbone or task of KerasHub,
            wrapped or not. It is left unchanged.
        data: A tuple (x, y), or a dataset of such batches that can be read more than once. A few hundred samples are
            enough.
        blocks: A regular expression for the names of the layers in blocks, with the number of the block as its group,
            such as `r"block_(\\d+)_"`. None (the default) searches for parts that repeat.
        criterion: `"loss"` (the default): the loss without each block alone. `"similarity"`: the cosine between the
            input and the output of each block, over all positions but padding.
        loss: A loss, its name or a function; None (the default) takes the loss that the model is compiled with.
        batch_size: Samples in a batch, at least 1. Default 32.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            a bar after three seconds, in a terminal or a notebook.

    Returns:
        A `BlockRanking`: a row for each block, and `order`, the least important block first. Blocks depend on each
        other: to drop many, use `drop_blocks(model, count=..., data=data)`, which ranks the rest again after each.

    Raises:
        TypeError: If `model` is not a Keras model, or `data` is not data.
        ValueError: If the model has no repeated blocks, or, for the loss, several outputs or no loss.
        ValueError: If `data` are empty, of another shape or not finite, have token ids beyond the vocabulary, or,
                for the loss, have no labels, or have sample weights.

    Example:
        >>> import keras, tfprune
        >>> block = lambda index: keras.layers.Dense(4, "relu", name=f"block_{index}")
        >>> model = keras.Sequential([keras.Input((4,)), *map(block, range(3)), keras.layers.Dense(1)])
        >>> x = keras.random.normal((64, 4), seed=0)
        >>> ranking = rank_blocks(model, (x, x[:, :1]), loss="mse")
        >>> sorted(ranking.order)
        [0, 1, 2]

    Reference:
        Men et al., 2024, "ShortGPT", arXiv:2403.03853 (Block Influence is 1 - similarity).
    """
    check_choice(criterion, "criterion", choices=("loss", "similarity"))
    check_count(batch_size, "batch_size", least=1)
    check_verbose(verbose)
    measured = loss_of(model, loss) if criterion == "loss" and isinstance(model, keras.Model) else None
    source = find_blocks(model, blocks)
    batches = Batches(data, source.graph.model, batch_size=batch_size, is_for_loss=measured is not None)
    check_token_ids(source.graph, batches, argument="data")
    order = list(range(len(source.blocks)))
    losses: list[float] = []
    with Progress(1 + (len(order) if measured else 0), verbose=verbose, unit="evaluation") as progress:
        whole, similarities = _evaluate(source, order, batches, measured)
        if measured is not None:
            for block in order:
                progress.add()
                others = [other for other in order if other != block]
                losses.append(mean_loss(source, others, batches=batches, loss=measured))
    rows = [_row(source, block, similarities[block], losses[block] if measured else None) for block in order]
    return BlockRanking(tuple(rows), criterion, whole if measured else None)


def _evaluate(source: Blocks, order: list[int], batches: Batches, loss: Callable | None) -> tuple[float, list[float]]:
    """Return the mean loss of a model with some blocks, 0 without a loss, and the similarity of each block."""
    total, count = 0.0, 0
    cosines: list[list[np.ndarray]] = [[] for _ in order]
    for inputs, targets in batches:
        masks = list(token_masks(source.graph, inputs).values())
        values = source.run(order, inputs=[keras.ops.convert_to_tensor(array) for array in inputs])
        size = len(inputs[0])
        for index, pair in enumerate(itertools.pairwise(values.stream)):
            cosines[index].append(_cosines(*pair, masks))
        if loss is not None:
            advice = ' Or pass criterion="similarity".'
            total += size * batch_loss(loss, values.outputs[0], targets=targets, advice=advice)
        count += size
    return total / count, [float(np.concatenate(some).mean()) for some in cosines]


def _row(source: Blocks, block: int, similarity: float, loss: float | None) -> RankedBlock:
    layers = [call.layer for call in source.blocks[block].calls if isinstance(call.layer, keras.layers.Layer)]
    parameters = sum(layer_inside(layer).count_params() for layer in layers)
    return RankedBlock(block, layers[0].name, parameters, similarity, loss)


def _cosines(inputs: Any, outputs: Any, masks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the cosines between the input and the output of a block, of each position without padding."""
    inputs, outputs = (
        without_padding(keras.ops.convert_to_numpy(value).astype("float32"), masks) for value in (inputs, outputs)
    )
    norms = np.linalg.norm(inputs, axis=-1) * np.linalg.norm(outputs, axis=-1)
    return (np.sum(inputs * outputs, axis=-1) / np.maximum(norms, 1e-12)).ravel()
