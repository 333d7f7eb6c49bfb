"""Report of `grow_depth` and `drop_blocks`: the blocks of the new model, and whether its outputs are the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfprune.keras_models.copying.origins import Origins
from tfprune.keras_models.copying.twin import layer_inside
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.kernels import kernels
from tfprune.keras_models.tracing.same_outputs import LargestDifference, difference_in_words
from tfprune.keras_models.tracing.sample_inputs import numbers_for, usable_length
from tfprune.masking.wrapping.sparsity_report import sparsity_report
from tfprune.methods.growth.blocks import Blocks
from tfprune.methods.growth.reordered_model import ReorderedModel
from tfprune.report import Report, table


@dataclass(frozen=True)
class PlacedBlock(Report):
    """A block of the new model.

    Attributes:
        place: Its index in the new model, from 0.
        block: The index of the block in the original model, from 0.
        layer: The name of its first layer.
        is_copy: Whether the same block occurs before it.
        parameters: The number of entries of its weights.
        nnz: The number of non-zero entries of its kernels, with the masks applied.
        zeroed: The weights that were set to zero, so that it returns its input.
    """

    place: int
    block: int
    layer: str
    is_copy: bool
    parameters: int
    nnz: int
    zeroed: tuple[str, ...] = ()


@dataclass(frozen=True)
class DroppedBlock(Report):
    """A block that was dropped one by one.

    Attributes:
        block: The index of the block in the original model, from 0.
        layer: The name of its first layer.
        loss: The loss of the model without it and the blocks that were dropped before.
    """

    block: int
    layer: str
    loss: float


@dataclass(frozen=True)
class GrowthReport(Report):
    """The blocks of a model after `grow_depth` or `drop_blocks`, and whether its outputs are the same.

    Attributes:
        rows: A row for each block of the new model.
        blocks: The number of blocks of the original model.
        into: `"class"` if the new model is of the same class, `"graph"` if it is a Functional model.
        reason: The reason why a model of a class became a graph; empty otherwise.
        parameters: The number of parameters of the original and of the new model.
        difference: The largest difference of an output, as a fraction of the largest output, on the samples that you
            passed, or on random numbers; None if the model does not run on random numbers.
        samples: The number of samples that it was measured on, 0 for random numbers.
        origins: Where each weight of the new model comes from, for `carry_optimizer`.
        loss: The loss of the original model, if blocks were dropped one by one; None otherwise.
        steps: The blocks that were dropped one by one, in this order, each with the loss after it.

    Example:
        >>> import keras, tfprune
        >>> block = lambda index: keras.layers.Dense(4, "relu", name=f"block_{index}")
        >>> model = keras.Sequential([keras.Input((4,)), *map(block, range(3)), keras.layers.Dense(2)])
        >>> smaller, report = tfprune.transformers.drop_blocks(model, [1])
        >>> report.order, report.is_function_preserving
        ((0, 2), False)
    """

    JSON_NAMES = (
        *("rows", "blocks", "into", "reason", "parameters", "order", "copies", "difference", "samples"),
        *("is_function_preserving", "loss", "steps"),
    )

    rows: tuple[PlacedBlock, ...]
    blocks: int
    into: str
    reason: str
    parameters: tuple[int, int]
    difference: float | None
    samples: int
    origins: Origins = field(default=(), repr=False)
    loss: float | None = None
    steps: tuple[DroppedBlock, ...] = ()

    @property
    def order(self) -> tuple[int, ...]:
        """The blocks of the model, in the order in which the new model calls them."""
        return tuple(row.block for row in self.rows)

    @property
    def copies(self) -> tuple[int, ...]:
        """The indices of the copies: `drop_blocks` removes them again."""
        return tuple(row.place for row in self.rows if row.is_copy)

    @property
    def is_function_preserving(self) -> bool | None:
        """Whether the outputs differ by no more than one millionth; None if it was not measured."""
        return None if self.difference is None else self.difference <= 1e-6

    def __str__(self) -> str:
        lines = [
            [
                *(row.place, row.block, row.layer, "yes" if row.is_copy else "", ", ".join(row.zeroed)),
                *(f"{row.parameters:,}", f"{row.nnz:,}"),
            ]
            for row in self.rows
        ]
        header = ["position", "block", "first layer", "copy", "zeroed", "parameters", "non-zeros"]
        return self._steps() + table(header, lines, left=5) + f"\n\n{self._summary()}"

    def _steps(self) -> str:
        if self.loss is None:
            return ""
        lines = [[step.block, step.layer, f"{step.loss:.4f}"] for step in self.steps]
        return table(["dropped", "first layer", "loss"], [["", "", f"{self.loss:.4f}"], *lines], left=2) + "\n\n"

    def _summary(self) -> str:
        kind = "a model of the same class" if self.into == "class" else "a Functional model"
        why = f" ({self.reason})" if self.reason else ""
        sizes = " to ".join(f"{count:,}" for count in self.parameters)
        outputs = difference_in_words(self.difference, is_same=self.is_function_preserving, samples=self.samples)
        return f"{self.blocks} to {len(self.rows)} blocks, {sizes} parameters, {kind}{why}. {outputs}"


def report_growth(
    reordered: ReorderedModel, data: Batches | None, *, zeroed: Mapping[int, tuple[str, ...]] | None = None
) -> GrowthReport:
    """Return the report of a model with other blocks, compared with the model that it was made of.

    Args:
        reordered: The model.
        data: Inputs to compare on; None compares on random numbers.
        zeroed: The paths of the weights that were set to zero, by the index of their block.
    """
    order, source = list(reordered.order), reordered.source
    rows = []
    for index, number in enumerate(order):
        layers = reordered.block_layers(index)
        nnz = sum(sparsity_report(layer).total_nnz for layer in layers if kernels(layer))
        is_copy, set_to_zero = number in order[:index], (zeroed or {}).get(index, ())
        rows.append(PlacedBlock(index, number, layers[0].name, is_copy, _count(layers), nnz, set_to_zero))
    difference, samples = _difference(reordered, data)
    layers_before = {id(call.layer): call.layer for call in source.graph.calls}.values()
    return GrowthReport(
        rows=tuple(rows),
        blocks=len(source.blocks),
        into=reordered.into,
        reason=reordered.reason,
        parameters=(_count(layers_before), _count(reordered.all_layers())),
        difference=difference,
        samples=samples,
        origins=reordered.origins(),
    )


def _count(layers: Iterable[Any]) -> int:
    """Return the number of parameters of layers, without masks and latent values."""
    plain = [layer_inside(layer) for layer in layers if isinstance(layer, keras.layers.Layer)]
    return sum(layer.count_params() for layer in plain)


def comparison_data(data: Any, blocks: Blocks) -> Batches | None:
    """Return data batch by batch; None if there are none.

    Raises:
        TypeError: If they are not data, or can be read only once.
    """
    return None if data is None else Batches(data, blocks.graph.model, batch_size=32, argument="samples")


def sample_inputs(data: Batches | None, blocks: Blocks) -> list[Any] | None:
    """Return two samples of each input, of data or else random; None if the model does not run on random numbers."""
    if data is not None:
        return [array[:2] for array in next(_inputs(data))]
    model = blocks.graph.model
    length = usable_length(model)
    return None if length is None else keras.tree.flatten(numbers_for(model.input, length=length))


def _inputs(data: Batches) -> Iterator[list[np.ndarray]]:
    yield from (arrays for arrays, _ in data)


def _difference(reordered: ReorderedModel, data: Batches | None) -> tuple[float | None, int]:
    """Return the largest difference relative to the largest output, and the number of samples of data."""
    source = reordered.source
    numbers = sample_inputs(None, source) if data is None else None
    if data is None and numbers is None:
        return None, 0
    difference, samples = LargestDifference(), 0
    for arrays in [numbers or []] if data is None else _inputs(data):
        samples += 0 if data is None else len(arrays[0])
        tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
        inputs = keras.tree.pack_sequence_as(source.graph.model.input, tensors)
        difference.add(reordered.model(inputs, training=False), source.copy(inputs, training=False))
    return difference.fraction, samples
