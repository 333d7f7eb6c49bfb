"""Plan which channels and heads of a model to remove: compute, print, and only then act."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from tfprune.allocation import Allocation, allocate
from tfprune.budgets import Budget
from tfprune.criteria import CRITERIA, Criterion, Evidence
from tfprune.evidence import Gatherer, Subject, check_needs, gather
from tfprune.flat import flatten, is_plain
from tfprune.model import strip
from tfprune.network import Group, Held, Network, analyse
from tfprune.patterns import Unstructured
from tfprune.prunable import as_numpy, kernels
from tfprune.ranking import as_weights, class_scores, finite, keep_best
from tfprune.report import Skipped
from tfprune.selection import Filters, selector
from tfprune.shrink_plan import ShrinkPlan
from tfprune.spec import check_count, check_sparsity, resolve


def plan_shrink(
    model: keras.Model,
    sparsity: float | None = None,
    *,
    criterion: str | Criterion = "magnitude",
    allocation: str | Mapping[str, float | None] | Allocation | Budget = "uniform",
    filters: Filters = None,
    round_to: int = 1,
    data: Any = None,
    loss: Any = None,
) -> ShrinkPlan:
    """Plan which channels, units and attention heads of a model to remove; the model is left untouched.

    Channels that meet in an addition, a multiplication or a grouped convolution can only go together: they are one
    channel of the plan, and layers that share channels are one group. Print the plan, then `shrink(model, plan)`.

    Args:
        model: A built Sequential or Functional model, models nested in it included, wrapped or not.
        sparsity: The fraction of channels to remove, in [0, 1). None removes those that no kernel reads any more, as
            after training with `patterns.Channel()`, or with a budget as many as it asks for.
        criterion: How important an entry is; a channel is as important as the entries that make it, on average.
        allocation: How to split the sparsity over the groups: `"uniform"`, `"global"`, `"lamp"`, a dict from regular
            expressions (searched in the groups' names) to sparsities, a function, or a `budget(...)`.
        filters: Which groups may lose channels: those in which one of these kernels makes channels. None takes all.
        round_to: The number of channels kept is rounded up to a multiple of this, for kernels that like multiples.
        data: For criteria that need evidence: a tuple (x, y) of arrays, a data set, or an iterable of batches.
        loss: For criteria that look at gradients; None takes the loss that the model was compiled with.

    Returns:
        The plan. It prints as a table, with what was left alone and why.

    Raises:
        TypeError: For what is no model, or arguments of the wrong type.
        ValueError: For a model that is no graph of layers, one in which nothing can be removed, a filter that matches
            nothing or asks for channels that have to stay, a budget that cannot be met, or data that a criterion
            needs and lacks, that none looks at, or that is empty, of the wrong shape or has NaN.

    Example:
        >>> layers = [keras.Input((8,)), keras.layers.Dense(6, name="hidden"), keras.layers.Dense(2, name="out")]
        >>> plan = plan_shrink(keras.Sequential(layers), 0.5)
        >>> [(row.group, row.channels, row.kept) for row in plan.rows]
        [('hidden', 6, 3), ('out', 2, 2)]
    """
    criterion = resolve(criterion, CRITERIA, Criterion, "criterion")
    round_to = check_count(round_to, "round_to", least=1)
    _check_amount(sparsity, allocation)
    _check_model(model)
    flat = flatten(strip(model))
    network = analyse(flat)
    is_ranked = sparsity is not None or isinstance(allocation, Budget)
    check_needs([criterion] if is_ranked else [], data=data, loss=loss)
    if not is_ranked:
        return ShrinkPlan(network, _alive(network, flat), _skipped(network, list(network.groups)))
    groups = _chosen(network, flat, filters)
    gatherer = None if data is None else Gatherer(flat, data, loss=loss, compiled=model)
    scores = class_scores(network, _scored(network, flat, criterion, groups, gatherer))
    weights = as_weights(groups, lambda: scores)

    def keeping(split: list[float | None]) -> np.ndarray:
        return keep_best(network, groups, scores, split, round_to=round_to)

    if isinstance(allocation, Budget):
        keep = allocation.meet(weights, keeping, network, model)
    else:
        keep = keeping(allocate(allocation, weights, sparsity))
    return ShrinkPlan(network, keep, _skipped(network, groups))


def _check_amount(sparsity: Any, allocation: Any) -> None:
    if sparsity is not None:
        check_sparsity(sparsity, "sparsity")
    if isinstance(allocation, Budget) and sparsity is not None:
        raise ValueError(
            f"Expected a sparsity or a budget, as either says how much to remove. Received: sparsity={sparsity!r} "
            f"and allocation={allocation!r}. Leave the sparsity out"
        )


def _check_model(model: Any) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a Keras model. Received: an object of type {type(model).__name__}")
    if not is_plain(model):
        raise ValueError(
            f"Expected a built Sequential or Functional model. Received: {model.name!r} of class "
            f"{type(model).__name__}, whose channels cannot be followed. Build it as keras.Model(inputs, outputs)"
        )


def _makers(network: Network, group: Group) -> list[str]:
    """Return the paths of the kernels that make the channels of a group."""
    return [
        f"{name}/{held.name}"
        for name in group.members
        for held in network.parts[name].weights
        if held.axes_of(group.classes)[1]
    ]


def _chosen(network: Network, flat: keras.Model, filters: Filters) -> list[Group]:
    """Return the groups that may lose channels."""
    offered = {f"{layer.name}/{kernel.path}": (layer, kernel) for layer in flat.layers for kernel in kernels(layer)}
    wanted = selector(filters, Unstructured(), list(offered))
    groups = [
        group for group in network.groups if any(wanted(path, *offered[path]) for path in _makers(network, group))
    ]
    free = [group for group in groups if network.free(group).any() and group.classes.size > 1]
    if len(free) < len(groups) and filters is not None or not free:
        reasons = [f"{group.name}: {_reason(network, group)}" for group in groups if group not in free]
        raise ValueError(
            f"Expected channels that can be removed from {flat.name!r}. Received: filters={filters!r}, and these "
            f"have to stay: {'; '.join(reasons[:5]) or 'none are made by a kernel that is known'}"
        )
    return free


def _reason(network: Network, group: Group) -> str:
    reasons = [network.reasons[label] for label in group.classes.tolist() if label in network.reasons]
    return reasons[0] if reasons else "only one"


def _skipped(network: Network, chosen: list[Group]) -> tuple[Skipped, ...]:
    rest = [group for group in network.groups if group not in chosen]
    partly = [group for group in chosen if not network.free(group).all()]
    return tuple(
        [Skipped(group.name, _left_alone(network, group)) for group in rest]
        + [Skipped(group.name, f"in part: {_reason(network, group)}") for group in partly]
    )


def _left_alone(network: Network, group: Group) -> str:
    if network.free(group).all() and group.classes.size > 1:
        return "left out by `filters`"
    return _reason(network, group)


def _scored(
    network: Network, flat: keras.Model, criterion: Criterion, groups: list[Group], gatherer: Gatherer | None
) -> Iterator[tuple[Held, np.ndarray]]:
    """Yield the kernels that make channels of some groups, with their scores."""
    classes = np.concatenate([group.classes for group in groups])
    made = []
    for layer in flat.layers:
        for kernel in kernels(layer):
            held = next(one for one in network.parts[layer.name].weights if one.name == kernel.path)
            if held.axes_of(classes)[1]:
                latent = functools.partial(as_numpy, kernel.variable)
                made.append((held, Subject(f"{layer.name}/{kernel.path}", kernel, criterion, latent)))
    facts = gather(flat, [subject for _, subject in made], gatherer=gatherer)
    for held, subject in made:
        evidence = Evidence(subject.latent(), subject.path, subject.kernel.axes, facts[subject.path])
        yield held, finite(criterion(evidence), subject.path)


def _alive(network: Network, flat: keras.Model) -> np.ndarray:
    """Return the classes that some kernel reads, or that have to stay."""
    keep = np.zeros(network.size, dtype=bool)
    keep[list(network.reasons)] = True
    layers = {layer.name: layer for layer in flat.layers}
    for name, part in network.parts.items():
        for held, variable in zip(part.weights, layers[name].weights, strict=True):
            values = as_numpy(variable) != 0
            for axis in held.reads:
                others = tuple(other for other in range(values.ndim) if other != axis)
                keep[held.layout[axis][values.any(axis=others)]] = True
    for group in network.groups:
        if not keep[group.classes].any():
            raise ValueError(
                f"Expected at least one channel of {group.name!r} that a kernel reads. Received: none, the kernels "
                f"that read them are all zero. Lower the sparsity, or take these layers out of the model"
            )
    return keep
