"""Prune channels and heads of a wrapped model: one decision for all kernels that make or read them."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.allocation import Weight
from tfprune.base.top_k import rank_first
from tfprune.keras_models.channels.groups import as_weights, why_stuck
from tfprune.keras_models.models.anatomy import Anatomy
from tfprune.keras_models.models.kernels import from_matrix
from tfprune.keras_models.models.layers import as_numpy
from tfprune.masking.wrapping.flat_copy import flat_copy
from tfprune.masking.wrapping.pruned import Pruned
from tfprune.solving.dependency_graph import ChanneledWeight, Group, Network

Scores = Callable[[Pruned, str], np.ndarray]  # of a wrapper's weight, in the matrix view


@dataclass(frozen=True, eq=False)
class Coupling:
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


_KNOWN: weakref.WeakKeyDictionary[keras.layers.Layer, Coupling | None] = weakref.WeakKeyDictionary()


def coupling(model: keras.layers.Layer) -> Coupling | None:
    """Return how the wrapped kernels of a model are coupled; None for one that cannot be followed.

    It is found once for each model: neither its graph nor its wrappers change.
    """
    if model not in _KNOWN:
        _KNOWN[model] = _found(model)
    return _KNOWN[model]


def _found(model: Any) -> Coupling | None:
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
    return Coupling(network, kernels)


class CoupledGroups:
    """The groups of a model whose channels are pruned, as weights to split a sparsity over, and as masks.

    Args:
        found: How the kernels are coupled.
        scores: Returns the scores of a kernel in the matrix view.
        regrow: Whether channels that are masked may take the place of others.
    """

    def __init__(self, coupled: Coupling, scores: Scores, *, regrow: bool) -> None:
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
    model: keras.layers.Layer, *, layers: Iterable[Pruned], scores: Scores, regrow: bool = True
) -> CoupledGroups | None:
    """Return the groups of a graph model, if one of its wrappers has a pattern that removes channels or heads."""
    coupled = coupling(model) if any(layer.pattern.kind for layer in layers) else None
    return None if coupled is None else CoupledGroups(coupled, scores, regrow=regrow)
