"""Rank the blocks of a model by similarity or loss, and the norms of its residual stream."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import check_choice, check_count
from tfprune.methods.growth.blocks import Blocks, find_blocks
from tfprune.models.anatomy import as_numpy, kernels
from tfprune.models.training import Batches, batch_loss, check_token_ids, loss_of, token_masks, without_padding
from tfprune.models.twin import layer_inside
from tfprune.report import Report, table

# Losses of a model without some of its blocks, and the blocks to drop one by one.


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


# Report of `rank_blocks`: how much a model needs each of its blocks.


@dataclass(frozen=True)
class RankedBlock(Report):
    """A block of a model and its importance.

    Attributes:
        block: The block, counted from 0.
        layer: The name of its first layer.
        parameters: The number of entries of its weights.
        similarity: The cosine between its input and its output, the mean over positions, in [-1, 1].
        loss: The loss of the model without the block; None if it was not measured.
    """

    block: int
    layer: str
    parameters: int
    similarity: float
    loss: float | None


@dataclass(frozen=True)
class BlockRanking(Report):
    """The blocks of a model, ranked by their importance.

    Attributes:
        rows: A row for each block, in the order in which the model calls them.
        criterion: `"loss"` or `"similarity"`.
        loss: The loss of the whole model; None if it was not measured.

    Example:
        >>> rows = (RankedBlock(0, "first", 20, 0.9, None), RankedBlock(1, "second", 20, 0.99, None))
        >>> BlockRanking(rows, criterion="similarity", loss=None).order
        (1, 0)
    """

    JSON_NAMES = ("rows", "criterion", "loss", "order")

    rows: tuple[RankedBlock, ...]
    criterion: str
    loss: float | None

    @property
    def order(self) -> tuple[int, ...]:
        """The blocks, the least important first: `drop_blocks(model, ranking.order[:2])`."""
        ranked = sorted(self.rows, key=lambda row: -row.similarity if row.loss is None else row.loss)
        return tuple(row.block for row in ranked)

    def __str__(self) -> str:
        ranks = {block: rank for rank, block in enumerate(self.order, 1)}
        lines = [
            [
                *(row.block, row.layer, f"{row.parameters:,}", f"{row.similarity:.4f}"),
                *([] if row.loss is None else [f"{row.loss:.4f}"]),
                ranks[row.block],
            ]
            for row in self.rows
        ]
        header = [
            "block",
            "first layer",
            "parameters",
            "similarity",
            *(["loss without"] if self.loss is not None else []),
        ]
        title = "" if self.loss is None else f"The loss of the whole model is {self.loss:.4f}.\n\n"
        return title + table([*header, "drop order"], lines, left=2)


# Rank the blocks of a model.


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
    rows = [_ranked_row(source, block, similarities[block], losses[block] if measured else None) for block in order]
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


def _ranked_row(source: Blocks, block: int, similarity: float, loss: float | None) -> RankedBlock:
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


# The norms of the weights by block, which tell whether a model is trained long enough to repeat its blocks.

_LEAST_RISE = 0.05  # of the mean norm, from the first block to the last one
_LEAST_TAU = 0.5  # of the pairs of blocks, three rise for each that falls


@dataclass(frozen=True)
class BlockNorm(Report):
    """The norm of a block.

    Attributes:
        block: The block, counted from 0.
        layer: The name of its first layer.
        norm: The mean over its kernels of the root of the mean square of their entries.
    """

    block: int
    layer: str
    norm: float


@dataclass(frozen=True)
class NormProfile(Report):
    """The norms of the blocks of a model, from the first one to the last.

    Attributes:
        rows: A row for each block, in the order in which the model calls them.

    Example:
        >>> rows = [BlockNorm(index, f"block_{index}", norm) for index, norm in enumerate([0.030, 0.033, 0.035])]
        >>> profile = NormProfile(tuple(rows))
        >>> profile.trend, round(profile.rise, 3), round(profile.seam, 1)
        ('rising', 0.153, 2.0)
    """

    JSON_NAMES = ("rows", "trend", "rise", "seam")

    rows: tuple[BlockNorm, ...]

    @property
    def rise(self) -> float:
        """How much the norm rises from the first block to the last one, by a fitted line, in parts of its mean."""
        if len(self.rows) < 2:
            return 0.0
        norms = np.array([row.norm for row in self.rows])
        slope = np.polyfit(np.arange(len(norms)), norms, 1)[0]
        return float(slope * (len(norms) - 1) / max(norms.mean(), np.finfo(float).tiny))

    @property
    def trend(self) -> str:
        """`"rising"` or `"falling"` by at least 5 % and in three pairs of blocks of four, otherwise `"flat"`."""
        norms = [row.norm for row in self.rows]
        signs = [np.sign(after - before) for before, after in itertools.combinations(norms, 2)]
        if abs(self.rise) < _LEAST_RISE or np.sign(self.rise) * np.mean(signs) < _LEAST_TAU:
            return "flat"
        return "rising" if self.rise > 0 else "falling"

    @property
    def seam(self) -> float:
        """The step from the last block to the first one, where stacks meet, in mean steps between neighbors."""
        norms = np.array([row.norm for row in self.rows])
        steps = np.abs(np.diff(norms))
        return float(abs(norms[-1] - norms[0]) / steps.mean()) if steps.any() else 0.0

    def __str__(self) -> str:
        lines = [[row.block, row.layer, f"{row.norm:.4g}"] for row in self.rows]
        typical = {
            "rising": "as in a language model after long training: interposed copies keep this profile",
            "falling": "unlike those of a language model after long training",
            "flat": "as in a model at the start of its training",
        }
        return table(["block", "first layer", "norm"], lines, left=2) + (
            f"\n\nThe norms are {self.trend} ({self.rise:+.1%} of the mean over the depth), {typical[self.trend]}.\n"
            f"If you stacked two copies of all blocks, the norm would jump between the copies by {self.seam:.1f} "
            f"times the mean\ndifference between neighboring blocks."
        )


def norm_profile(model: keras.Model, *, blocks: str | None = None) -> NormProfile:
    """Measure the norms of the kernels of each repeated block.

    Use it before `grow_depth`. In language models that are trained for long, norms rise with the depth; the source
    found interposition better than stacking for such models, and stacking for those that are trained less.

    Args:
        model: A built model with repeated blocks: a Sequential or Functional one, or a backbone or task of KerasHub,
            wrapped or not. It is left unchanged.
        blocks: A regular expression for the names of the layers in blocks, whose group is the number of the block,
            such as `r"block_(\\d+)_"`. None (the default) searches for parts that repeat.

    Returns:
        A profile: a row for each block, and whether the norms rise.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model has no repeated blocks, or they have no kernels.

    Example:
        >>> import keras, tfprune
        >>> block = lambda index: keras.layers.Dense(64, "relu", name=f"block_{index}")
        >>> model = keras.Sequential([keras.Input((64,)), *map(block, range(3)), keras.layers.Dense(1)])
        >>> tfprune.growth.norm_profile(model).trend
        'flat'

    Reference:
        Orthogonal growth, "Beyond Sunk Costs", 2025, arXiv:2510.08008 (figure 2: Frobenius norm over the root of the
        number of entries).
    """
    source = find_blocks(model, blocks)
    return NormProfile(tuple(_norm_row(source, number) for number in range(len(source.blocks))))


def _norm_row(source: Blocks, number: int) -> BlockNorm:
    layers = {
        id(call.layer): call.layer
        for call in source.blocks[number].calls
        if isinstance(call.layer, keras.layers.Layer)
    }
    first, *_ = layers.values()
    values = [as_numpy(kernel.variable).astype(np.float64) for layer in layers.values() for kernel in kernels(layer)]
    if not values:
        raise ValueError(
            f"Expected blocks with kernels. Received: block {number} of {source.copy.name!r}, which begins with "
            f"{first.name!r} and has none. Name other blocks: blocks=r'block_(\\d+)_'."
        )
    return BlockNorm(number, first.name, float(np.mean([np.sqrt(np.mean(value**2)) for value in values])))
