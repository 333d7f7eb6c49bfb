"""Plan which channels and heads of a model to remove."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfprune.allocation import Allocation, LayerThreshold, allocate
from tfprune.base.progress import check_verbose
from tfprune.base.spec import check_count, check_sparsity, resolve
from tfprune.compact.shrinking.budget import Budget
from tfprune.compact.shrinking.planned_copy import PlannedCopy
from tfprune.compact.shrinking.ranking_report import RankingReport
from tfprune.compact.shrinking.shrink_plan import ShrinkPlan
from tfprune.criteria import CRITERIA, Criterion, Magnitude
from tfprune.criteria.base import finite
from tfprune.keras_models.channels.groups import as_weights, choose_groups, kernels_by_weight
from tfprune.keras_models.evidence.gatherer import Gatherer, check_needs
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.filters import Filters
from tfprune.keras_models.models.layers import as_numpy
from tfprune.masking.training.sparsity_or_budget import check_sparsity_or_budget
from tfprune.masking.wrapping.flat_copy import flat_copy, score_kernels
from tfprune.patterns import Unstructured
from tfprune.report import Skipped
from tfprune.solving.dependency_graph import Group, Network


def plan_shrink(
    model: keras.Model,
    sparsity: float | Budget | LayerThreshold | None = None,
    *,
    criterion: str | Criterion | RankingReport | Mapping[str, np.ndarray] = "magnitude",
    allocation: str | Mapping[str, float | None] | Allocation = "uniform",
    filters: Filters = None,
    round_to: int = 1,
    data: Any = None,
    loss: Any = None,
    verbose: int | str = "auto",
) -> ShrinkPlan:
    """Plan which channels, units and attention heads of a model to remove.

    Use it to make a model smaller and faster everywhere: print the plan, then `shrink(model, plan)`. Channels that
    meet in an addition, a multiplication or a grouped convolution can only be removed together: they count as one
    channel of the plan, and layers that share channels are one group.

    Choose how much is removed in one of four ways:

    - `plan_shrink(model, 0.5)`: this fraction of the channels, those with the lowest scores.
    - `plan_shrink(model, budget(flops=0.5))`: as few channels as the budget allows.
    - `plan_shrink(model, LayerThreshold(...), criterion=...)`: the channels below the threshold of their layer.
    - `plan_shrink(model)`: the channels that no kernel reads any more, because all its weights for them are zero. Use
      it after training with `patterns.Channel()`, whose masks have made the choice. All other arguments are then
      refused.

    Args:
        model: A built Sequential or Functional model, models nested in it included, wrapped or not. It is left
            unchanged.
        sparsity: The fraction of channels to remove, in [0, 1); or a `budget(...)` or an `allocation.LayerThreshold`,
            which find it. None (the default) removes the channels that no kernel reads.
        criterion: The importance of an entry of a weight; the score of a channel is the mean over the entries that
            make it. Default `"magnitude"`. Or scores of the channels themselves: the report of `rank_channels` or
            `rank_heads`, or a dict of arrays by the name of their group. Groups without scores then keep all
            channels.
        allocation: How to split a fraction over the groups: `"uniform"` (the default), `"global"`, `"lamp"`, a dict
            from regular expressions (searched in the groups' names) to sparsities, or a function.
        filters: Which groups may lose channels: those in which one of these kernels makes channels. None (the
            default) takes all.
        round_to: The number of remaining channels is rounded up to a multiple of this, at least 1, because many
            kernels are fastest at multiples of 4 or 8. Default 1.
        data: For criteria that need evidence: a tuple (x, y) of arrays, a dataset, or an iterable of batches.
        loss: For criteria that look at gradients; None takes the loss that the model was compiled with.
        verbose: For a budget, which takes long if a latency is measured. As in Keras: 0 shows nothing, 1 a progress
            bar, 2 one line at the end. `"auto"` (the default) shows the bar in a terminal or a notebook,
            once the search has taken some seconds.

    Returns:
        The plan. It prints as a table, with the groups that keep all channels and the reasons.

    Raises:
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If the model is not a graph of layers, or nothing in it can be removed.
        ValueError: If `filters` matches nothing, or names channels that cannot be removed.
        ValueError: If the budget cannot be met, or comes with an `allocation`.
        ValueError: If the criterion needs data and there are none, or `data` are empty, of the wrong shape or not
            finite, or no criterion looks at them.

    Example:
        >>> layers = [keras.Input((8,)), keras.layers.Dense(6, name="hidden"), keras.layers.Dense(2, name="out")]
        >>> plan = plan_shrink(keras.Sequential(layers), 0.5)
        >>> [(row.group, row.channels, row.kept) for row in plan.rows]
        [('hidden', 6, 3), ('out', 2, 2)]
    """
    if isinstance(criterion, RankingReport):
        criterion = criterion.scores
    elif not isinstance(criterion, Mapping):
        criterion = resolve(criterion, CRITERIA, Criterion, "criterion")
    round_to = check_count(round_to, "round_to", least=1)
    if sparsity is not None or isinstance(allocation, Budget):
        check_sparsity_or_budget(sparsity, allocation, others=(LayerThreshold,))
    check_verbose(verbose)
    copy = flat_copy(Anatomy.of(model))
    flat, network = copy.model, copy.network
    is_ranked = sparsity is not None
    check_needs([criterion] if is_ranked and isinstance(criterion, Criterion) else [], data=data, loss=loss)
    if not is_ranked:
        _check_no_choice(criterion=criterion, allocation=allocation, filters=filters, round_to=round_to)
        free = [group for group in network.groups if group.stuck is None]
        return ShrinkPlan(network, _alive(network, flat), left_alone(network, free), PlannedCopy(model, copy))
    named = kernels_by_weight(network, flat)
    groups = choose_groups(network, named, pattern=Unstructured(), filters=filters, refusal=lambda group: group.stuck)
    if isinstance(criterion, Mapping):
        groups, scores = _ranked(network, groups, criterion)
    else:
        gatherer = None if data is None else Gatherer(copy.plain, data, loss=loss, compiled=model)
        bundles = np.concatenate([group.bundles for group in groups])
        makers = {weight: each for weight, each in named.items() if weight.making(bundles)}
        scored = score_kernels(copy, makers, criterion=criterion, gatherer=gatherer)
        scores = network.scores((weight, score()) for weight, score in scored.items())
    weights = as_weights(groups, lambda: scores)

    def keeping(split: list[float | None]) -> np.ndarray:
        return network.keep_best(groups, scores, split, round_to=[round_to] * len(groups))

    if isinstance(sparsity, Budget):
        keep = sparsity.meet(weights, keeping, network, model, verbose=verbose)
    elif isinstance(sparsity, LayerThreshold):
        keep = keeping(list(sparsity.below(weights)))
    else:
        keep = keeping(allocate(weights, check_sparsity(sparsity, "sparsity"), allocation))
    return ShrinkPlan(network, keep, left_alone(network, groups), PlannedCopy(model, copy))


_LEFT_OUT = "left out by `filters`, or without scores"
CHOICES = {"criterion": Magnitude(), "allocation": "uniform", "filters": None, "round_to": 1}


def _check_no_choice(**choices: Any) -> None:
    changed = [name for name, value in choices.items() if value != CHOICES[name]]
    if changed:
        listed = ", ".join(f"{name}={choices[name]!r}" for name in changed)
        raise ValueError(
            f"Expected a sparsity, a budget or a LayerThreshold as the second argument with "
            f"{' and '.join(f'`{name}`' for name in changed)}: without one, all channels that no kernel reads are "
            f"removed. Received: {listed}. Pass it, or leave {'them' if len(changed) > 1 else 'it'} out; "
            f"patterns.Channel has a round_to for training."
        )


def _ranked(
    network: Network, groups: list[Group], criterion: Mapping[str, np.ndarray]
) -> tuple[list[Group], np.ndarray]:
    """Return the groups that have scores, and the score of each bundle."""
    scores = np.full(network.size, np.nan)
    ranked = {group.name: group for group in groups if group.name in criterion}
    unknown = sorted(criterion.keys() - {group.name for group in network.groups})
    if unknown or not ranked:
        names = ", ".join(repr(group.name) for group in groups)
        raise ValueError(
            f"Expected scores of groups of this model that may lose channels: {names}. Received: scores of "
            f"{', '.join(map(repr, unknown or criterion)) or 'none'}. Rank the model that the plan is for."
        )
    for name, group in ranked.items():
        values = np.asarray(criterion[name], dtype=np.float64)
        if values.shape != group.bundles.shape:
            raise ValueError(
                f"Expected {group.bundles.size} scores for {name!r}. Received: an array of shape {values.shape}."
            )
        scores[group.bundles] = finite(values, name)
    return list(ranked.values()), scores


def left_alone(
    network: Network, groups: list[Group], *, left_out: Callable[[Group], str] = lambda _: _LEFT_OUT
) -> tuple[Skipped, ...]:
    """List the groups and layers that keep all or some of their channels, with the reason.

    Args:
        network: The channels.
        groups: The groups that may lose channels.
        left_out: Says why a group is not among them that could be.
    """
    rest = [group for group in network.groups if group not in groups]
    partly = [group for group in groups if not group.free.all()]
    return tuple(
        [
            Skipped(group.name, group.stuck or left_out(group), Skipped.HELD if group.stuck else Skipped.FILTERED)
            for group in rest
        ]
        + [Skipped(group.name, f"in part: {group.reason}", Skipped.PARTLY_HELD) for group in partly]
        + [Skipped(name, reason, Skipped.NO_RULE) for name, reason in network.unfollowed.items()]
    )


def _alive(network: Network, flat: keras.Model) -> np.ndarray:
    """Return the bundles that some kernel reads, or that have to stay."""
    keep = np.zeros(network.size, dtype=bool)
    keep[list(network.reasons)] = True
    for weight, variable in network.variables(flat):
        keep[weight.bundles_read(as_numpy(variable) != 0)] = True
    for group in network.groups:
        if not all(keep[part].any() for part in (group.bundles, *group.parts)):
            raise ValueError(
                f"Expected at least one channel of {group.name!r} that a kernel reads. Received: none, the kernels "
                f"that read them are all zero. Lower the sparsity, or take these layers out of the model."
            )
    return keep
