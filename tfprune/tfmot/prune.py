"""Wrap, strip and load under the names of tensorflow-model-optimization."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras

from tfprune.keras_models.models.anatomy import Anatomy, check_layers, check_model
from tfprune.keras_models.models.kernels import expected_kernels, kernels
from tfprune.masking.wrapping.choose_weights import is_unbuilt
from tfprune.masking.wrapping.pruned import Pruned, holds_pruned
from tfprune.masking.wrapping.pruned_layers import warn_if_dense, wrappers
from tfprune.masking.wrapping.strip import check_way_back, plain_copy
from tfprune.masking.wrapping.transfer_weights import copy_with
from tfprune.patterns import Pattern, Unstructured
from tfprune.tfmot.policy import PruningPolicy
from tfprune.tfmot.schedules import ConstantSparsity, PruningSchedule, check_pruning_schedule
from tfprune.tfmot.wrapper import PruneLowMagnitude, pattern_of

_DEFAULT = ConstantSparsity(0.5, 0)


def prune_low_magnitude(
    to_prune: Any,
    pruning_schedule: PruningSchedule = _DEFAULT,
    block_size: Sequence[int] = (1, 1),
    block_pooling_type: str = "AVG",
    pruning_policy: PruningPolicy | None = None,
    sparsity_m_by_n: Sequence[int] | None = None,
    **kwargs: Any,
) -> Any:
    """Wrap a model, a layer or a list of layers so that small weights become zero while it trains.

    Args:
        to_prune: A model, of which an uncompiled copy is returned, or a layer or a list of layers, which are
            wrapped as they are. Layers of a model or a list that cannot be pruned, or are pruned already, are left as
            they are. If all are pruned already with another schedule or pattern, it warns. A single layer that is
            pruned with the same schedule and pattern is returned.
        pruning_schedule: The sparsity before each batch, and how often masks are updated.
        block_size: Inputs and outputs of a block; zeros come in whole blocks.
        block_pooling_type: The score of a block: the mean (`"AVG"`) or the largest (`"MAX"`) of its magnitudes.
        pruning_policy: Chooses the layers of a model to prune; None takes all.
        sparsity_m_by_n: m zeros in every n consecutive inputs; the schedule decides when, and in how many groups.
        **kwargs: Arguments of the wrapper, for a single layer only.

    Returns:
        The wrapped copy, layer or list. A wrapper has its layer's name.

    Raises:
        ValueError: If `to_prune` is not a model, layer or list of layers.
        ValueError: If a model cannot be copied, is refused by the policy or, without a policy, has nothing to prune.
        ValueError: If a layer cannot be pruned, or is pruned already in another way.
        ValueError: If arguments exclude each other.
        TypeError: If another argument has the wrong type.

    Example:
        >>> from tfprune.tfmot import PolynomialDecay
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
        >>> schedule = PolynomialDecay(0.0, 0.75, begin_step=0, end_step=200)
        >>> prune_low_magnitude(model, pruning_schedule=schedule).get_layer("hidden").pruning_schedule == schedule
        True
    """
    pattern = pattern_of(block_size, block_pooling_type, sparsity_m_by_n)
    check_pruning_schedule(pruning_schedule)

    def wrapped(layer: keras.layers.Layer, **arguments: Any) -> PruneLowMagnitude:
        return PruneLowMagnitude(layer, pattern=pattern, pruning_schedule=pruning_schedule, **arguments)

    if isinstance(to_prune, keras.layers.Layer) and not isinstance(to_prune, keras.Model):
        if not isinstance(to_prune, PruneLowMagnitude):
            return wrapped(to_prune, **kwargs)
        _check_alike(to_prune, pattern, pruning_schedule)
        return to_prune
    if kwargs:
        raise ValueError(f"Expected other arguments with a single layer only. Received: {', '.join(kwargs)}.")
    if isinstance(to_prune, (list, tuple)):
        if all(isinstance(part, (Pruned, keras.layers.InputLayer)) for part in to_prune):
            _warn_if_unlike(to_prune, pattern, pruning_schedule)
        return [part if isinstance(part, (Pruned, keras.layers.InputLayer)) else wrapped(part) for part in to_prune]
    if not isinstance(to_prune, keras.Model):
        raise ValueError(f"Expected a Keras model, layer or list of layers. Received: {type(to_prune).__name__}.")
    if pruning_policy is not None:
        pruning_policy.ensure_model_supports_pruning(to_prune)
    anatomy = Anatomy.of(to_prune)
    (check_layers if is_unbuilt(to_prune) else check_model)(anatomy)
    names = _names_to_prune(anatomy, pattern, pruning_policy)
    copy = copy_with(anatomy, lambda path, layer: wrapped(layer, weights=names[path]) if path in names else None)
    check_way_back(Anatomy.of(copy))
    if not names:
        _warn_if_unlike([layer for _, layer in wrappers(to_prune)], pattern, pruning_schedule)
    if not holds_pruned(copy):
        _report_nothing(copy, pruning_policy)
    return copy


def _check_alike(layer: PruneLowMagnitude, pattern: Pattern, schedule: PruningSchedule) -> None:
    """Refuse a pruned layer that has another schedule or pattern."""
    difference = layer.unlike(schedule, pattern)
    if difference:
        raise ValueError(
            f"Expected a layer that is not pruned yet, or in the same way. Received: layer {layer.name!r}, which is "
            f"wrapped already, with {difference}. Use the wrapper that there is, or wrap the plain layer, "
            f"`wrapper.layer`."
        )


def _warn_if_unlike(layers: Iterable[Any], pattern: Pattern, schedule: PruningSchedule) -> None:
    """Warn if one of the layers, all pruned already, has another schedule or pattern than the user passed."""
    asked = None if schedule is _DEFAULT else schedule, None if pattern == Unstructured() else pattern
    differences = ((layer.name, layer.unlike(*asked)) for layer in layers if isinstance(layer, PruneLowMagnitude))
    name, difference = next((pair for pair in differences if pair[1]), ("", ""))
    if difference:
        warnings.warn(
            f"Layers that are pruned already are left as they are: {name!r} has {difference}. To prune them anew, "
            f"pass strip_pruning(model).",
            stacklevel=3,
        )


def _names_to_prune(anatomy: Anatomy, pattern: Pattern, policy: PruningPolicy | None) -> dict[str, list[str] | None]:
    """Return the weights of a model to prune, by the path of their layer; None if the wrapper has to find them."""
    find, is_open = (expected_kernels, True) if is_unbuilt(anatomy.model) else (kernels, False)
    names_by_path: dict[str, list[str] | None] = {}
    for path, layer in anatomy.leaves:
        if isinstance(layer, keras.Model) or holds_pruned(layer):
            continue
        if policy is not None and not policy.allow_pruning(layer):
            continue
        names = [kernel.path for kernel in find(layer) if kernel.mixes_inputs and kernel.takes(pattern)]
        if names:
            names_by_path[path] = None if is_open else names
    return names_by_path


def _report_nothing(model: keras.Model, policy: PruningPolicy | None) -> None:
    """Refuse a model of which nothing is wrapped; with a policy, which may intend it, warn."""
    if policy is None:
        raise ValueError(
            f"Expected a model with weights that can be pruned. Received: {model.name!r}, of which the pattern and "
            f"the kinds of its layers leave none. Name the weights of your layers with tfprune.register_prunable."
        )
    warnings.warn(
        f"Nothing of {model.name!r} will be pruned: {type(policy).__name__} and the pattern leave none of its "
        f"layers.",
        stacklevel=3,
    )


def strip_pruning(model: keras.Model) -> keras.Model:
    """Return a plain, uncompiled copy of a model without wrappers, the pruned entries zero.

    Args:
        model: A model that `prune_low_magnitude` returned, or that has layers which it wrapped.

    Raises:
        ValueError, TypeError: As `tfprune.strip` does.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> type(strip_pruning(prune_low_magnitude(model)).layers[0]).__name__
        'Dense'
    """
    copy = plain_copy(Anatomy.of(model))
    warn_if_dense(model)
    return copy


def prune_scope() -> AbstractContextManager[Any]:
    """Return a scope to load pruned models in. They load without it too, once tfprune is imported.

    Example:
        >>> model = prune_low_magnitude(keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]))
        >>> model.save("pruned.keras")
        >>> with prune_scope():
        ...     model = keras.models.load_model("pruned.keras")
    """
    return keras.saving.custom_object_scope({"PruneLowMagnitude": PruneLowMagnitude})
