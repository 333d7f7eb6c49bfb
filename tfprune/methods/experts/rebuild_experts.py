"""Make a model of other experts, compare it with the one that it is made of, and report both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.keras_models.models.anatomy import Anatomy, check_keras, check_model
from tfprune.keras_models.models.batches import batches, check_batch, check_source
from tfprune.keras_models.models.layers import as_numpy
from tfprune.keras_models.tracing.sample_inputs import numbers_for, usable_length
from tfprune.methods.experts.average_experts import Groups, add_noise, fill
from tfprune.methods.experts.experts_report import ExpertsReport, ExpertsRow
from tfprune.methods.experts.moe_layers import MoeLayer, moe_layers
from tfprune.methods.experts.set_expert_count import set_expert_count


def checked_layers(root: Any) -> list[MoeLayer]:
    """Return the layers with experts of a built model or layer; refuse anything else.

    Raises:
        TypeError: If it is neither.
        ValueError: If it is not built, or there are no experts in it, or other numbers of them in each layer.
    """
    check_keras(root, keras.layers.Layer, argument="model_or_layer")
    if isinstance(root, keras.Model):
        check_model(Anatomy.of(root))
    elif not root.built:
        raise ValueError(f"Expected a built layer. Received: {root.name!r}, which has no weights yet.")
    found = moe_layers(root)
    sizes = {(layer.experts, layer.top_k) for layer in found}
    if len(sizes) > 1:
        raise ValueError(
            f"Expected the same number of experts in all layers of {root.name!r}. Received: "
            f"{', '.join(f'{layer.path} with {layer.experts}' for layer in found[:4])}. Pass the layers one by one."
        )
    return found


def remade(
    root: Any,
    groups: Mapping[str, Groups],
    *,
    top_k: int,
    data: Any,
    noise: float = 0.0,
    seed: int = 0,
) -> tuple[Any, ExpertsReport]:
    """Return a model or layer of other experts, and its report.

    Args:
        root: A model or layer.
        groups: For each layer with experts, by its path, the experts that each new one is the mean of.
        top_k: How many of the new ones are used for each input.
        data: Inputs to compare on; None takes random numbers.
        noise: How much noise copies get, as a fraction of the standard deviation of each weight.
        seed: Seed of the noise.
    """
    if data is not None:
        check_source(data)
    found = checked_layers(root)
    count = len(next(iter(groups.values())))
    new = set_expert_count(root, found, experts=count, top_k=top_k)
    fill(new, root, found=found, groups=groups)
    after = moe_layers(new)
    if noise:
        renamed = {layer.path: groups[old.path] for layer, old in zip(after, found, strict=True)}
        add_noise(new, after, groups=renamed, noise=noise, seed=seed)
    rows = tuple(
        ExpertsRow(old.path, (old.experts, layer.experts), (old.top_k, layer.top_k), (_nnz(old), _nnz(layer)))
        for old, layer in zip(found, after, strict=True)
    )
    difference, samples = _difference(root, new, data=data)
    first = tuple(map(tuple, next(iter(groups.values()))))
    return new, ExpertsReport(rows, first, difference, samples)


def _nnz(layer: MoeLayer) -> int:
    """Count the entries of experts and router that are not zero: masked ones are zero themselves."""
    return sum(int(np.count_nonzero(as_numpy(weight))) for weight in layer.layer.weights if id(weight) in layer.axes)


def _difference(root: Any, new: Any, *, data: Any) -> tuple[float | None, int]:
    largest, apart, samples = 0.0, 0.0, 0
    inputs = list(_inputs(root, data))
    for size, given in inputs:
        samples += size
        for ours, theirs in zip(*(_outputs(part, given) for part in (new, root)), strict=True):
            largest = max(largest, np.abs(theirs).max(initial=0))
            apart = max(apart, np.abs(ours - theirs).max(initial=0))
    return (float(apart / largest if largest else apart), samples) if inputs else (None, 0)


def _inputs(root: Any, data: Any) -> Sequence[tuple[int, Any]]:
    """Return inputs with how many samples of the data they are."""
    if isinstance(root, keras.Sequential):  # whose `input` is what it was called on
        root = keras.Model(root.inputs[0], root.outputs[0])
    if data is None:
        length = usable_length(root) if isinstance(root, keras.Model) else None
        return [] if length is None else [(0, numbers_for(root.input, length=length))]
    count = len(root.inputs) if isinstance(root, keras.Model) else 1
    found = []
    for batch in batches(data, inputs=count):
        check_batch(batch, root)
        found.append((len(keras.tree.flatten(batch.x)[0]), batch.x))
    return found


def _outputs(layer: Any, given: Any) -> list[np.ndarray]:
    returned = keras.tree.flatten(layer(keras.tree.map_structure(keras.ops.convert_to_tensor, given)))
    return [keras.ops.convert_to_numpy(keras.ops.cast(one, "float32")) for one in returned]
