"""Whether a model with other blocks computes the same, measured, and its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.kernels import kernels
from tfprune.keras_models.tracing.sample_inputs import numbers_for, usable_length
from tfprune.masking.wrapping.sparsity_report import sparsity_report
from tfprune.methods.blocks.block import layer_inside
from tfprune.methods.blocks.find_blocks import Blocks
from tfprune.methods.blocks.reordered_model import Arranged
from tfprune.methods.growth.growth_report import GrowthReport, PlacedBlock


def reported(
    made: Arranged, data: Batches | None, *, zeroed: Mapping[int, tuple[str, ...]] | None = None
) -> GrowthReport:
    """Return the report of a model with other blocks, compared with the model that it was made of.

    Args:
        made: The model.
        data: Inputs to compare on; None takes random numbers.
        zeroed: The weights that were set to zero, by the place of their block.
    """
    order, before = list(made.order), {id(call.layer): call.layer for call in made.found.graph.calls}
    rows = []
    for place, number in enumerate(order):
        layers = made.at(place)
        nnz = sum(sparsity_report(layer).total_nnz for layer in layers if kernels(layer))
        is_copy, set_to_zero = number in order[:place], (zeroed or {}).get(place, ())
        rows.append(PlacedBlock(place, number, layers[0].name, is_copy, _count(layers), nnz, set_to_zero))
    difference, samples = _difference(made, data)
    return GrowthReport(
        rows=tuple(rows),
        blocks=len(made.found.blocks),
        into=made.into,
        reason=made.reason,
        parameters=(_count(before.values()), _count(made.every())),
        difference=difference,
        samples=samples,
    )


def _count(layers: Any) -> int:
    """Return the number of parameters of layers, masks and latent values aside."""
    plain = [layer_inside(layer) for layer in layers if isinstance(layer, keras.layers.Layer)]
    return sum(layer.count_params() for layer in plain)


def checked_data(data: Any, found: Blocks) -> Batches | None:
    """Return data batch by batch, None if there are none.

    Raises:
        TypeError: If they are not data, or can be read only once.
    """
    return None if data is None else Batches(data, found.graph.model, batch_size=32)


def sample(data: Batches | None, found: Blocks) -> list[Any] | None:
    """Return a few samples of data, or random numbers, for each input of the model; None if it takes no such."""
    if data is not None:
        return [array[:2] for array in next(_inputs(data))]
    length = usable_length(found.graph.model)
    return None if length is None else keras.tree.flatten(numbers_for(found.graph.model.input, length=length))


def _inputs(data: Batches) -> Iterator[list[np.ndarray]]:
    yield from (arrays for arrays, _ in data)


def _difference(made: Arranged, data: Batches | None) -> tuple[float | None, int]:
    """Return the largest difference of an output, as a fraction of the largest, and on how many samples of data."""
    numbers = sample(None, made.found) if data is None else None
    if data is None and numbers is None:
        return None, 0
    largest, apart, samples = 0.0, 0.0, 0
    for arrays in [numbers or []] if data is None else _inputs(data):
        samples += 0 if data is None else len(arrays[0])
        for ours, theirs in zip(*_outputs(made, arrays), strict=True):
            largest = max(largest, np.abs(theirs).max(initial=0))
            apart = max(apart, np.abs(ours - theirs).max(initial=0))
    return float(apart / largest if largest else apart), samples


def _outputs(made: Arranged, arrays: list[Any]) -> list[list[np.ndarray]]:
    """Return the outputs of the new model, and of the one that it was made of."""
    tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
    given = keras.tree.pack_sequence_as(made.found.graph.model.input, tensors)
    returned = [keras.tree.flatten(model(given, training=False)) for model in (made.model, made.found.copy)]
    return [[keras.ops.convert_to_numpy(keras.ops.cast(one, "float32")) for one in side] for side in returned]
