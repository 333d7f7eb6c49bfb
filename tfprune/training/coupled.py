"""Prune channels and heads of a wrapped model: one decision for all kernels that make or read them."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from tfprune.allocation import Weight
from tfprune.channels.network import ChanneledWeight, Group, Network, analyse
from tfprune.channels.ranking import as_weights, class_scores, keep_best
from tfprune.models.graph import is_plain
from tfprune.models.kernels import from_matrix
from tfprune.models.layers import as_numpy
from tfprune.wrapping.flat_copy import flat_copy
from tfprune.wrapping.pruned import Pruned

Scores = Callable[[Pruned, str], np.ndarray]  # of a wrapper's weight, in the matrix view


@dataclass(frozen=True, eq=False)
class Coupling:
    """Which wrapped kernels of a model make and read which channels.

    Attributes:
        network: The channels.
        kernels: The layer and the name of each wrapped kernel, by its layer and place in the network.
    """

    network: Network
    kernels: dict[tuple[str, int], tuple[Pruned, str]]

    def refusal(self, group: Group) -> str | None:
        """Say why the channels of a group cannot go; None if some can."""
        if not self.network.free(group).any():
            return self.network.reasons[int(group.bundles[0])]
        for name in group.members:
            for place, held in enumerate(self.network.parts[name].weights):
                reads, makes = held.axes_of(group.bundles)
                if reads or makes:
                    reason = self._uncovered(name, place, group.kind, makes=bool(makes))
                    if reason:
                        return reason
        return "only one" if group.bundles.size < 2 else None

    def _uncovered(self, name: str, place: int, kind: str, *, makes: bool) -> str | None:
        path = f"{name}/{self.network.parts[name].weights[place].name}"
        if (name, place) not in self.kernels:
            return f"{path} is not wrapped"
        layer, weight = self.kernels[name, place]
        if layer.pattern.kind != kind:
            return f"{path} is pruned by {layer.pattern!r}"
        if makes and not getattr(layer.pattern, "makes", True):
            return "left out by `filters`"
        return None if weight in layer.trained() else f"{path} is frozen (trainable=False)"

    def groups(self) -> list[Group]:
        """Return the groups that may lose channels.

        Raises:
            ValueError: If there are none.
        """
        reasons = {group.name: self.refusal(group) for group in self.network.groups}
        found = [group for group in self.network.groups if reasons[group.name] is None]
        if not found:
            listed = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:5])
            raise ValueError(
                f"Expected channels that all kernels which make or read them are wrapped for. Received a model where "
                f"none can go: {listed}. Wrap the whole model: tfprune.wrap(model, pattern='channel')."
            )
        return found


_KNOWN: weakref.WeakKeyDictionary[keras.layers.Layer, Coupling] = weakref.WeakKeyDictionary()


def coupling(model: keras.layers.Layer) -> Coupling | None:
    """Return how the wrapped kernels of a graph model are coupled; None of what is no graph.

    It is found once for each model: neither its graph nor its wrappers change.
    """
    if not is_plain(model):
        return None
    if model not in _KNOWN:
        flat = flat_copy(model)
        found: dict[tuple[str, int], tuple[Pruned, str]] = {}
        for name, layer in flat.origins.items():
            if isinstance(layer, Pruned):
                names = {id(kernel.variable): path for path, kernel in layer.kernels.items()}
                weights = enumerate(layer.layer.weights)
                found |= {(name, index): (layer, names[id(one)]) for index, one in weights if id(one) in names}
        _KNOWN[model] = Coupling(analyse(flat.model), found)
    return _KNOWN[model]


class CoupledGroups:
    """The groups of a model whose channels are pruned, as weights to split a sparsity over, and as masks.

    Args:
        found: How the kernels are coupled.
        scores: Returns the scores of a kernel in the matrix view.
    """

    def __init__(self, found: Coupling, scores: Scores) -> None:
        self.network, self.kernels = found.network, found.kernels
        self.groups = found.groups()
        self.layers = {layer for layer, _ in found.kernels.values() if layer.pattern.kind}
        self._scores_of = scores

    @functools.cached_property
    def scores(self) -> np.ndarray:
        """The score of each class."""
        made = np.concatenate([group.bundles for group in self.groups])
        held = {place: self._held(place) for place in self.kernels}
        making = [place for place, one in held.items() if one.axes_of(made)[1]]
        return class_scores(self.network, ((held[place], self._scored(place)) for place in making))

    def _scored(self, place: tuple[str, int]) -> np.ndarray:
        layer, name = self.kernels[place]
        return from_matrix(self._scores_of(layer, name), layer.kernels[name])

    def _held(self, place: tuple[str, int]) -> ChanneledWeight:
        return self.network.parts[place[0]].weights[place[1]]

    def weights(self) -> list[Weight]:
        """Return the groups in the form that allocations take."""
        return as_weights(self.groups, lambda: self.scores)

    @functools.cached_property
    def _multiples(self) -> list[int]:
        """Of what the number kept of each group is to be a multiple."""
        return [
            max(
                getattr(layer.pattern, "round_to", 1)
                for place, (layer, _) in self.kernels.items()
                if self._held(place).axes_of(group.bundles)[1]
            )
            for group in self.groups
        ]

    def keep(self, split: Sequence[float | None]) -> np.ndarray:
        """Return which bundles stay; of a group whose share is None those that its masks show now."""
        keep = keep_best(self.network, self.groups, self.scores, split, round_to=self._multiples)
        for group, share in zip(self.groups, split, strict=True):
            if share is None:
                keep[group.bundles] = self._shown[group.bundles]
        return keep

    @functools.cached_property
    def _shown(self) -> np.ndarray:
        shown = np.zeros(self.network.size, dtype=bool)
        for place, (layer, name) in self.kernels.items():
            held, mask = self._held(place), as_numpy(layer.masks[name])
            for axis in held.reads:
                others = tuple(other for other in range(mask.ndim) if other != axis)
                shown[held.bundles_along[axis][mask.any(axis=others)]] = True
        return shown

    def masks(self, keep: np.ndarray) -> list[tuple[Pruned, str, np.ndarray]]:
        """Return the mask of each kernel that makes or reads one of the channels."""
        return [
            (layer, name, self._held(place).mask(keep))
            for place, (layer, name) in self.kernels.items()
            if layer.pattern.kind is not None and name in layer.trained()
        ]


def coupled_groups(model: keras.layers.Layer, *, layers: Iterable[Pruned], scores: Scores) -> CoupledGroups | None:
    """Return the groups of a graph model, if one of its wrappers has a pattern that removes channels or heads."""
    found = coupling(model) if any(layer.pattern.kind for layer in layers) else None
    return None if found is None else CoupledGroups(found, scores)
