"""Build a model with other experts, compare it with the one that it is made of, and report both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.base.spec import check_count
from tfprune.keras_models.copying.origins import Groups, Shares, read_origins
from tfprune.keras_models.models.anatomy import Anatomy, check_model
from tfprune.keras_models.models.batches import batches, check_batch, check_source
from tfprune.keras_models.models.layers import as_numpy
from tfprune.keras_models.tracing.same_outputs import LargestDifference
from tfprune.keras_models.tracing.sample_inputs import numbers_for, usable_length
from tfprune.methods.experts.average_experts import average_experts, perturb_copies
from tfprune.methods.experts.experts_report import ExpertsReport, ExpertsRow
from tfprune.methods.experts.moe_layers import MoeLayer, moe_layers
from tfprune.methods.experts.set_expert_count import set_expert_count


def read_experts(model_or_layer: Any) -> tuple[Anatomy, list[MoeLayer]]:
    """Read a built model or layer, and its layers with experts.

    Raises:
        TypeError: If it is neither a model nor a layer.
        ValueError: If it is not built, or has no experts.
    """
    anatomy = Anatomy.of(model_or_layer, accepts=keras.layers.Layer, argument="model_or_layer")
    if isinstance(model_or_layer, keras.Model):
        check_model(anatomy)
    elif not model_or_layer.built:
        raise ValueError(f"Expected a built layer. Received: {model_or_layer.name!r}, which has no weights yet.")
    return anatomy, moe_layers(model_or_layer)


def new_top_k(top_k: int | None, layers: Sequence[MoeLayer], *, groups: Mapping[str, Groups]) -> dict[str, int]:
    """Return a checked number of experts to use for each input; None keeps the number, or takes all if it is larger.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is out of range.
    """
    if top_k is None:
        return {layer.path: min(layer.top_k, len(groups[layer.path])) for layer in layers}
    return dict.fromkeys(groups, check_count(top_k, "top_k", least=1, most=min(map(len, groups.values()))))


def rebuild_experts(
    source: Anatomy,
    layers: Sequence[MoeLayer],
    *,
    groups: Mapping[str, Groups],
    top_k: Mapping[str, int],
    samples: Any,
    shares: Mapping[str, Shares] | None = None,
    noise: float = 0.0,
    random: str | None = None,
    seed: int = 0,
) -> tuple[Any, ExpertsReport]:
    """Build a model or layer with other experts, and report it.

    Args:
        source: A model or layer.
        layers: Its layers with experts.
        groups: For each of them, by its path, the experts whose mean each new expert is.
        top_k: For each of them, by its path, the number of new experts that are used for each input.
        samples: Inputs to compare on; None takes random numbers.
        shares: The shares of experts in the means, by the paths of the layers; None for equal ones.
        noise: The noise that copies get, as a fraction of the standard deviation of each weight.
        random: The part to draw at random instead: see `perturb_copies`.
        seed: Seed of the noise.
    """
    if samples is not None:
        check_source(samples, argument="samples")
    sizes = {path: (len(own), top_k[path]) for path, own in groups.items()}
    new = set_expert_count(source, layers, sizes=sizes)
    made_of = average_experts(new, source, layers=layers, groups=groups, shares=shares or {})
    new_layers = moe_layers(new)
    if noise or random:
        renamed = {layer.path: groups[old.path] for layer, old in zip(new_layers, layers, strict=True)}
        perturb_copies(new_layers, groups=renamed, noise=noise, random=random, seed=seed)
    rows = tuple(
        ExpertsRow(old.path, (old.experts, layer.experts), (old.top_k, layer.top_k), (_nnz(old), _nnz(layer)))
        for old, layer in zip(layers, new_layers, strict=True)
    )
    difference, size = _difference(source.model, new, samples=samples)
    first = tuple(map(tuple, next(iter(groups.values()))))
    origins = read_origins(source.model, new, made_of=made_of)
    return new, ExpertsReport(rows, first, difference, size, origins=origins)


def _nnz(layer: MoeLayer) -> int:
    """Count the non-zero entries of experts and router; masked entries are zero."""
    return sum(int(np.count_nonzero(as_numpy(weight))) for weight in layer.layer.weights if id(weight) in layer.axes)


def _difference(root: Any, new: Any, *, samples: Any) -> tuple[float | None, int]:
    """Return the largest difference relative to the largest output, and the number of samples."""
    inputs = _inputs(root, samples)
    difference = LargestDifference()
    for _, values in inputs:
        tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, values)
        difference.add(new(tensors), root(tensors))
    return (difference.fraction, sum(size for size, _ in inputs)) if inputs else (None, 0)


def _inputs(root: Any, samples: Any) -> list[tuple[int, Any]]:
    """Return inputs, each with the number of samples in it; 0 for random numbers."""
    if isinstance(root, keras.Sequential):  # whose `input` is the tensor that it was called on
        root = keras.Model(root.inputs[0], root.outputs[0])
    if samples is None:
        length = usable_length(root) if isinstance(root, keras.Model) else None
        return [] if length is None else [(0, numbers_for(root.input, length=length))]
    count = len(root.inputs) if isinstance(root, keras.Model) else 1
    inputs = []
    for batch in batches(samples, inputs=count, argument="samples"):
        check_batch(batch, root, argument="samples")
        inputs.append((len(keras.tree.flatten(batch.x)[0]), batch.x))
    return inputs
