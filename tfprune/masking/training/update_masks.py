"""Mask updates: rank the entries of every pruned weight, then set all masks."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import keras
import numpy as np

from tfprune.allocation import Allocation, Weight, allocate
from tfprune.base.spec import check_sparsity
from tfprune.base.top_k import rank_first
from tfprune.criteria.base import Evidence, finite
from tfprune.keras_models.evidence.gatherer import Facts, Gatherer, check_needs, gather
from tfprune.keras_models.evidence.scored_weight import Subject
from tfprune.keras_models.models.kernels import from_matrix, to_matrix
from tfprune.keras_models.models.layers import as_numpy
from tfprune.keras_models.models.optimizers import check_optimizer, optimizers_of, slots_by_variable, updates_of
from tfprune.masking.training.coupled_groups import CoupledGroups, Scores, coupled_groups
from tfprune.masking.training.grow import Grow, Growth, check_grow, check_growable, criterion_of
from tfprune.masking.training.sparsity_or_budget import MeetsBudget, check_sparsity_or_budget
from tfprune.masking.wrapping.pruned import Pruned
from tfprune.masking.wrapping.pruned_layers import pruned_layers
from tfprune.masking.wrapping.sparsity_report import SparsityReport, sparsity_report

Masked = tuple[Pruned, str, np.ndarray]  # a wrapper, the name of a weight, its mask


def update_masks(
    model: keras.layers.Layer,
    sparsity: float | MeetsBudget,
    *,
    allocation: str | Mapping[str, float | None] | Allocation = "uniform",
    regrow: bool = True,
    grow: str | Grow | None = None,
    data: Any = None,
    loss: Any = None,
    optimizer: keras.optimizers.Optimizer | Sequence[keras.optimizers.Optimizer] | None = None,
) -> SparsityReport:
    """Rank the entries of every pruned weight and set its mask: one step of pruning, for loops of your own.

    All masks are computed before the first is set, so an error leaves the model as it was. Frozen layers
    (`trainable=False`) are never changed.

    Args:
        model: A model or layer with `Pruned` layers.
        sparsity: The fraction of zeros over all pruned weights, in [0, 1). With the pattern `Channel` or `Head`, the
            fraction of channels or heads to remove; or a `tfprune.budget(...)` for channels and heads.
        allocation: How the sparsity is split over the weights and the groups of channels: `"uniform"`, `"erk"`,
            `"global"`, `"lamp"`, or a dict from regular expressions, searched in the paths of weights and the names
            of groups, to their sparsities (None leaves them as they are).
        regrow: Whether a pruned entry comes back, with the value it had, where it ranks higher than one that is
            kept. Pass False in the last update: an entry that comes back costs accuracy until it is trained. Then
            entries come back only where the new sparsity is lower than before.
        grow: What replaces the lowest 30 % of the kept entries, for training that is sparse from the first step:
            `"gradient"` (RigL), `"random"` (SET), or a `tfprune.Grow` for another fraction. The new entries start at
            0. None (the default) replaces nothing. Patterns: single entries and blocks.
        data: The data for criteria that need evidence, and for `grow="gradient"`: a tuple (x, y) of arrays, a
            dataset, an iterable of batches, or a `tfprune.Gatherer`, which remembers `criteria.Movement` from one
            update to the next.
        loss: The loss for gradients; None takes the loss that the model was compiled with.
        optimizer: The optimizer whose slots of masked entries become zero, or a list of all that train the model;
            None takes the optimizers of the model.

    Returns:
        A `SparsityReport` of the model with its new masks.

    Raises:
        ValueError: If `sparsity` is outside [0, 1), or the pattern cannot reach it.
        ValueError: If the model has no pruned layers, or a weight has NaN or infinity.
        ValueError: If a rule of `allocation` matches nothing, or a budget cannot be met.
        ValueError: If an allocation is given with a budget, or `grow` with a budget or `regrow=False`.
        ValueError: If `grow` is given, and a layer has a pattern that cannot grow.
        ValueError: If a criterion needs data that is missing, or no criterion uses the data.
        ValueError: If the data is empty, has the wrong shape, or has NaN.
        ValueError: If the list of optimizers is empty, or one of them trains some of the weights of one path only.
        TypeError: If an argument has the wrong type.

    Example:
        >>> from tfprune import wrap
        >>> model = wrap(keras.Sequential([keras.Input((10,)), keras.layers.Dense(10)]))
        >>> update_masks(model, 0.9).nnz
        10
    """
    excludes = "" if regrow else "regrow=False"
    set_masks(
        model,
        sparsity,
        allocation=allocation,
        optimizer=optimizer,
        data=data,
        loss=loss,
        regrow=regrow,
        grow=check_grow(grow, beside=f"sparsity={sparsity!r}" if isinstance(sparsity, MeetsBudget) else excludes),
    )
    return sparsity_report(model)


def set_masks(
    model: keras.layers.Layer,
    sparsity: float | MeetsBudget,
    *,
    allocation: Any,
    optimizer: keras.optimizers.Optimizer | Sequence[keras.optimizers.Optimizer] | None = None,
    data: Any = None,
    loss: Any = None,
    regrow: bool = True,
    grow: Grow | None = None,
) -> None:
    """Do what `update_masks` does, without a report: of a deep model it takes as long as the masks."""
    check_sparsity_or_budget(sparsity, allocation)
    layers = pruned_layers(model)
    for _, layer in layers:
        layer.is_managed = True
    optimizers = optimizers_of(model) if optimizer is None else _as_list(optimizer)
    for each in optimizers:
        check_optimizer(each)
    owned_slots = [slots_by_variable(each, model.trainable_variables) for each in optimizers]
    gatherer = gatherer_of(model, data, loss=loss, grow=grow)
    replacing = grow if grow and grow.fraction else None
    facts = gather(model, subjects_of(model, grow=replacing), gatherer=gatherer)
    growth = Growth(replacing, max(map(updates_of, optimizers), default=0), facts) if replacing else None
    with ExitStack() as undo:
        plan = _plan_masks(
            model,
            layers,
            sparsity,
            allocation,
            functools.partial(_scores, facts, undo, {layer: path for path, layer in layers}),
            regrow=regrow and grow is None,
            growth=growth,
        )
        undo.pop_all()
    for layer, name, mask in plan:
        variable = layer.kernels[name].variable
        if grow:
            layer.forget(name)
        layer.set_mask(name, mask, slots=[slot for slots in owned_slots for slot in slots.get(id(variable), ())])


def _as_list(optimizer: Any) -> list[keras.optimizers.Optimizer]:
    optimizers = list(optimizer) if isinstance(optimizer, (list, tuple)) else [optimizer]
    if not optimizers:
        raise ValueError(
            f"Expected the optimizers that train the model. Received: optimizer={optimizer!r}. Leave it out to take "
            f"those that the model holds."
        )
    return optimizers


def subjects_of(model: keras.layers.Layer, *, grow: Grow | None = None) -> list[Subject]:
    """Return the weights of a model whose masks may change, for the gathering of evidence."""
    return [
        Subject(
            path=f"{path}/{name}",
            kernel=layer.kernels[name],
            criterion=criterion_of(layer, grow),
            latent=functools.partial(layer.latent, name),
            mask=layer.masks[name],
        )
        for path, layer in pruned_layers(model)
        for name in layer.trained()
    ]


def gatherer_of(model: keras.layers.Layer, data: Any, *, loss: Any, grow: Grow | None = None) -> Gatherer | None:
    """Return the gatherer of the evidence that the criteria of a model and `grow` need; None if they need no data.

    Raises:
        ValueError: If data or loss is missing, would have no effect, or is a gatherer of another model.
        ValueError: If entries are to grow, and a pattern does not let them.
    """
    layers = pruned_layers(model)
    if grow:
        check_growable(layers)
    check_needs((criterion_of(layer, grow) for _, layer in layers), data=data, loss=loss)
    if not isinstance(data, Gatherer):
        return None if data is None else Gatherer(model, data, loss=loss)
    if data.model is not model or loss is not None:
        raise ValueError(
            f"Expected a gatherer of {model.name!r}, which has its own loss. Received: one of {data.model.name!r}, "
            f"and loss={loss!r}. Make it by Gatherer(model, data, loss=...)."
        )
    return data


def _plan_masks(
    model: keras.layers.Layer,
    layers: list[tuple[str, Pruned]],
    sparsity: Any,
    allocation: Any,
    scores: Scores,
    *,
    regrow: bool,
    growth: Growth | None,
) -> list[tuple[Pruned, str, np.ndarray]]:
    """Compute all masks: of channels that go together, and of single weights."""
    together = coupled_groups(model, layers=[layer for _, layer in layers], scores=scores, regrow=regrow)
    coupled = together.layers if together else set()
    entries = [(path, layer, name) for path, layer in layers if layer not in coupled for name in layer.trained()]
    alone = [
        Weight(
            path=f"{path}/{name}",
            shape=tuple(layer.kernels[name].variable.shape),
            scores=functools.partial(scores if regrow else _kept_first(scores), layer, name),
        )
        for path, layer, name in entries
    ]
    groups = together.weights() if together else []
    if isinstance(sparsity, MeetsBudget):
        return _within(sparsity, together, alone, model)
    split = allocate(alone + groups, check_sparsity(sparsity, "sparsity"), allocation) if alone or groups else []
    plan = together.masks(together.keep(split[len(alone) :])) if together else []
    for (_, layer, name), weight, share in zip(entries, alone, split, strict=False):
        if share is None:
            layer.conceal(name)  # a function may have looked at its scores
        else:
            mask = _mask(layer, weight, share, name=name, growth=growth)
            plan.append((layer, name, from_matrix(mask, layer.kernels[name])))
    return plan


def _within(budget: MeetsBudget, together: CoupledGroups | None, alone: list[Weight], model: Any) -> list[Masked]:
    if together is None or alone:
        raise ValueError(
            f"Expected a model whose channels or heads alone are pruned, as a budget is met by removing these. "
            f"Received: {model.name!r}, where masks of their own have: "
            f"{', '.join(weight.path for weight in alone[:5]) or 'no weights'}. Wrap it with pattern='channel'."
        )
    keep = budget.meet(together.weights(), together.keep, together.network, model)
    return together.masks(keep)


def _mask(layer: Pruned, weight: Weight, sparsity: float, *, name: str, growth: Growth | None) -> np.ndarray:
    scores = weight.scores()
    try:
        if growth:
            return growth.mask(
                layer, name, path=weight.path, scores=scores, shown=_shown(layer, name), sparsity=sparsity
            )
        return layer.pattern(scores, sparsity)
    except ValueError as error:
        raise ValueError(f"{weight.path} cannot be pruned to its share of the sparsity. {error}") from error


def _kept_first(scores: Scores) -> Scores:
    """Return the same scores, those of masked entries lowered below all others."""

    def lowered(layer: Pruned, name: str) -> np.ndarray:
        return rank_first(scores(layer, name), _shown(layer, name))

    return lowered


def _shown(layer: Pruned, name: str) -> np.ndarray:
    """Return the mask of a weight in the matrix view."""
    return to_matrix(as_numpy(layer.masks[name]), layer.kernels[name])


def _scores(facts: Facts, undo: ExitStack, paths: dict[Pruned, str], layer: Pruned, name: str) -> np.ndarray:
    """Return the scores of a weight in the matrix view; `undo` gets the steps that an error has to take back."""
    path = f"{paths[layer]}/{name}"
    undo.callback(layer.conceal, name)
    kernel = layer.kernels[name]
    scores = layer.criterion(Evidence(layer.reveal(name), path, kernel.axes, facts[path]))
    return to_matrix(finite(scores, path), kernel)
