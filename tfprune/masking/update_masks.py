"""Mask updates: rank the entries of every pruned weight, then set all masks; and the sparsity that meets a budget."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import keras
import numpy as np

from tfprune.allocation import Allocation, Weight, allocate
from tfprune.base.arrays import rank_first
from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_sparsity
from tfprune.channels.groups import as_weights, why_stuck
from tfprune.criteria import Evidence, finite
from tfprune.evidence import Facts, Gatherer, check_needs, gather
from tfprune.gradients import Subject
from tfprune.masking.grow import Grow, Growth, check_grow, check_growable, criterion_of
from tfprune.masking.pruned import Pruned
from tfprune.masking.strip import SparsityReport, flat_copy, pruned_layers, sparsity_report
from tfprune.models.anatomy import Anatomy, as_numpy, from_matrix, to_matrix, uses
from tfprune.models.training import check_optimizer, optimizers_of, slots_by_variable, updates_of
from tfprune.solving.dependency_graph import ChanneledWeight, Group, Network

# Prune channels and heads of a wrapped model: one decision for all kernels that make or read them.

_Scores = Callable[[Pruned, str], np.ndarray]  # of a wrapper's weight, in the matrix view


@dataclass(frozen=True, eq=False)
class _Coupling:
    """Which wrapped kernels of a model make and read which channels.

    Attributes:
        network: The channels.
        kernels: The wrapper of each wrapped kernel, and its name in the wrapper.
    """

    network: Network
    kernels: dict[ChanneledWeight, tuple[Pruned, str]]

    def _uncovered(self, weight: ChanneledWeight, group: Group) -> str | None:
        """Return why a weight cannot lose the channels of a group that it makes or reads."""
        if weight not in self.kernels:
            return f"{weight.path} is not wrapped"
        layer, name = self.kernels[weight]
        if layer.pattern.kind != group.kind:
            return f"{weight.path} is pruned by {layer.pattern!r}"
        if weight.making(group.bundles) and not getattr(layer.pattern, "makes", True):
            return "left out by `filters`"
        return None if name in layer.trained() else f"{weight.path} is frozen (trainable=False)"

    def groups(self) -> list[Group]:
        """Return the groups that may lose channels.

        Raises:
            ValueError: If there are none.
        """
        groups = self.network.groups
        reasons = {group: why_stuck(self.network, group, uncovered=self._uncovered) for group in groups}
        free_groups = [group for group, reason in reasons.items() if reason is None]
        if not free_groups:
            listed = "; ".join(f"{group.name}: {reason}" for group, reason in list(reasons.items())[:5])
            raise ValueError(
                f"Expected channels that all kernels which make or read them are wrapped for. Received a model where "
                f"none can go: {listed}. Wrap the whole model: tfprune.wrap(model, pattern='channel')."
            )
        return free_groups


_KNOWN: weakref.WeakKeyDictionary[keras.layers.Layer, _Coupling | None] = weakref.WeakKeyDictionary()


def _coupling(model: keras.layers.Layer) -> _Coupling | None:
    """Return how the wrapped kernels of a model are coupled; None for one that cannot be followed.

    It is found once for each model: neither its graph nor its wrappers change.
    """
    if model not in _KNOWN:
        _KNOWN[model] = _found(model)
    return _KNOWN[model]


def _found(model: Any) -> _Coupling | None:
    try:
        copy = flat_copy(Anatomy.of(model))
    except (TypeError, ValueError):  # a layer, or a model whose wrappers the user's own code put in
        return None
    network = copy.network
    kernels: dict[ChanneledWeight, tuple[Pruned, str]] = {}
    for weight, variable in network.variables(copy.model):
        source = copy.sources[id(variable)]
        if isinstance(source.layer, Pruned):
            names = {id(kernel.variable): name for name, kernel in source.layer.kernels.items()}
            kernels |= {weight: (source.layer, names[id(source.variable)])} if id(source.variable) in names else {}
    return _Coupling(network, kernels)


class _CoupledGroups:
    """The groups of a model whose channels are pruned, as weights to split a sparsity over, and as masks.

    Args:
        found: How the kernels are coupled.
        scores: Returns the scores of a kernel in the matrix view.
        regrow: Whether channels that are masked may take the place of others.
    """

    def __init__(self, coupled: _Coupling, scores: _Scores, *, regrow: bool) -> None:
        self.network, self.kernels = coupled.network, coupled.kernels
        self.groups = coupled.groups()
        self.layers = {layer for layer, _ in coupled.kernels.values() if layer.pattern.kind}
        self._scores_of, self._regrow = scores, regrow

    @functools.cached_property
    def scores(self) -> np.ndarray:
        """The score of each bundle."""
        bundles = np.concatenate([group.bundles for group in self.groups])
        makers = [weight for weight in self.kernels if weight.making(bundles)]
        scores = self.network.scores((weight, self._scored(weight)) for weight in makers)
        return scores if self._regrow else rank_first(scores, self._shown)

    def _scored(self, weight: ChanneledWeight) -> np.ndarray:
        layer, name = self.kernels[weight]
        return from_matrix(self._scores_of(layer, name), layer.kernels[name])

    def weights(self) -> list[Weight]:
        """Return the groups in the form that allocations take."""
        return as_weights(self.groups, lambda: self.scores)

    @functools.cached_property
    def _multiples(self) -> list[int]:
        """For each group, the number that the count of kept bundles is a multiple of."""
        return [
            max(
                getattr(layer.pattern, "round_to", 1)
                for weight, (layer, _) in self.kernels.items()
                if weight.making(group.bundles)
            )
            for group in self.groups
        ]

    def keep(self, split: Sequence[float | None]) -> np.ndarray:
        """Return which bundles stay; in a group whose share is None, those that its masks show now."""
        keep = self.network.keep_best(self.groups, self.scores, split, round_to=self._multiples)
        for group, share in zip(self.groups, split, strict=True):
            if share is None:
                keep[group.bundles] = self._shown[group.bundles]
        return keep

    @functools.cached_property
    def _shown(self) -> np.ndarray:
        shown = np.zeros(self.network.size, dtype=bool)
        for weight, (layer, name) in self.kernels.items():
            shown[weight.bundles_read(as_numpy(layer.masks[name]) != 0)] = True
        return shown

    def masks(self, keep: np.ndarray) -> list[tuple[Pruned, str, np.ndarray]]:
        """Return the mask of each kernel that makes or reads one of the channels."""
        return [
            (layer, name, weight.mask(keep))
            for weight, (layer, name) in self.kernels.items()
            if layer.pattern.kind is not None and name in layer.trained()
        ]


def coupled_groups(
    model: keras.layers.Layer, *, layers: Iterable[Pruned], scores: _Scores, regrow: bool = True
) -> _CoupledGroups | None:
    """Return the groups of a graph model, if one of its wrappers has a pattern that removes channels or heads."""
    coupled = _coupling(model) if any(layer.pattern.kind for layer in layers) else None
    return None if coupled is None else _CoupledGroups(coupled, scores, regrow=regrow)


# A budget in place of a sparsity: what training asks of it, and the check that only one of the two splits it.


@runtime_checkable
class MeetsBudget(Protocol):
    """An object that replaces a sparsity and finds the sparsities itself: the result of `tfprune.budget`."""

    @property
    def measure(self) -> Callable[..., float] | None:
        """Return the function that measures the latency of a model, or None."""

    def at(self, progress: float) -> MeetsBudget:
        """Return the budget part of the way, `progress` in [0, 1]."""

    def meet(
        self, weights: Sequence[Weight], keeping: Callable[..., np.ndarray], network: Any, model: Any
    ) -> np.ndarray:
        """Return which channels stay, as few removed as the limits allow."""


def check_sparsity_or_budget(sparsity: Any, allocation: Any, *, others: tuple[type, ...] = ()) -> None:
    """Check that there is a sparsity, or a value that finds the sparsities and comes without another allocation.

    Args:
        sparsity: A number, a budget, or a value of another type that finds the sparsities.
        allocation: How a number is split.
        others: These other types.

    Raises:
        TypeError: If the sparsity is not a number, or a budget is passed as the allocation.
        ValueError: If the sparsity is outside [0, 1), or a budget comes with an allocation.
    """
    if isinstance(allocation, MeetsBudget):
        raise ArgumentTypeError(
            "allocation",
            "`allocation` to split a sparsity",
            repr(allocation),
            advice=(
                "Pass the budget in place of the sparsity: plan_shrink(model, budget), update_masks(model, "
                "budget) or PruningCallback(schedule, budget=budget)."
            ),
        )
    if not isinstance(sparsity, (MeetsBudget, *others)):
        check_sparsity(sparsity, "sparsity")
    elif allocation != "uniform":
        raise ArgumentError(
            "allocation",
            "no `allocation` beside a budget or thresholds, which split the sparsity themselves",
            repr(allocation),
            advice="Pass budget(..., allocation=...).",
        )


def check_training_budget(budget: Any, allocation: Any) -> None:
    """Check the budget of a `PruningCallback`, None or one that takes no measurement.

    Raises:
        TypeError: If it is not a budget, or is passed as the allocation.
        ValueError: If it comes with an allocation, or a latency would be measured.
    """
    if budget is not None and not isinstance(budget, MeetsBudget):
        raise ArgumentTypeError("budget", "`budget` to be a tfprune.budget(...)", repr(budget))
    check_sparsity_or_budget(0.0 if budget is None else budget, allocation)
    if budget is not None and budget.measure is not None:
        raise ArgumentError(
            "budget",
            "a budget that is computed, of flops, parameters or bytes",
            f"{budget!r}; to measure at each update would take longer than training",
            advice=(
                "Measure once, before training: allocation=tfprune.plan_shrink(model, "
                "budget(latency=...)).allocation()."
            ),
        )


# Mask updates: rank the entries of every pruned weight, then set all masks.

_Masked = tuple[Pruned, str, np.ndarray]  # a wrapper, the name of a weight, its mask


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
            `"global"`, `"lamp"`, `"flops"` (the sparsity is of the multiplications), or a dict from regular
            expressions, searched in the paths of weights and the names of groups, to their sparsities (None leaves
            them as they are).
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
    facts = gather(model, _subjects_of(model, grow=replacing), gatherer=gatherer)
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
        raise ArgumentError(
            "optimizer",
            "the optimizers that train the model",
            repr(optimizer),
            advice="Leave it out to take those that the model holds.",
        )
    return optimizers


def _subjects_of(model: keras.layers.Layer, *, grow: Grow | None = None) -> list[Subject]:
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
    scores: _Scores,
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
            uses=functools.partial(uses, layer.layer, layer.kernels[name]),
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


def _within(budget: MeetsBudget, together: _CoupledGroups | None, alone: list[Weight], model: Any) -> list[_Masked]:
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


def _kept_first(scores: _Scores) -> _Scores:
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
