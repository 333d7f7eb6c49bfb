"""Channels: which axes of tensors and weights hold the same ones, so that they can only go together.

Every channel of a network has a number. A layout gives, for each axis of a tensor or a weight, the numbers of the
channels along it, or None for an axis that has none (batch, positions, the taps of a filter). Where two channels
meet, in an addition say, they are tied: one cannot be removed without the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Layout = tuple["np.ndarray | None", ...]


@dataclass(frozen=True, eq=False)
class ChannelSource:
    """Channels that came into being together, as the outputs of one layer.

    Attributes:
        name: The layer, and what of it if it makes several kinds.
        kind: "channels", or "heads" of attention.
        channels: Their numbers.
    """

    name: str
    kind: str
    channels: np.ndarray


class Channels:
    """The channels of a network, and what is known of them so far."""

    def __init__(self) -> None:
        self.sources: list[ChannelSource] = []
        self._count = 0
        self._ties: list[tuple[np.ndarray, np.ndarray]] = []
        self._pins: list[tuple[np.ndarray, str]] = []

    def fresh(self, count: int, *, name: str, kind: str = "channels") -> np.ndarray:
        """Return the numbers of `count` new channels."""
        numbers = self._number(count)
        self.sources.append(ChannelSource(name, kind, numbers))
        return numbers

    def fixed(self, count: int, reason: str) -> np.ndarray:
        """Return the numbers of channels that have to stay and that no layer of the network makes."""
        numbers = self._number(count)
        self.pin([numbers], reason)
        return numbers

    def _number(self, count: int) -> np.ndarray:
        self._count += count
        return np.arange(self._count - count, self._count)

    def tie(self, one: np.ndarray, other: np.ndarray) -> None:
        """Let channels stay or go together, entry by entry."""
        self._ties.append((one, other))

    def tie_all(self, numbers: np.ndarray) -> None:
        """Let all of these channels stay or go together."""
        self.tie(numbers[:-1], numbers[1:])

    def pin(self, layouts: Iterable[np.ndarray | None], reason: str) -> None:
        """Say why these channels have to stay; the first reason counts."""
        self._pins += [(numbers, reason) for numbers in layouts if numbers is not None and numbers.size]

    def bundles(self) -> np.ndarray:
        """Return the class of each channel; tied ones have the same, and bundles are numbered in order."""
        labels = np.arange(self._count)
        ones = np.concatenate([np.empty(0, int), *(one.ravel() for one, _ in self._ties)])
        others = np.concatenate([np.empty(0, int), *(other.ravel() for _, other in self._ties)])
        while np.any(labels[ones] != labels[others]):
            least = np.minimum(labels[ones], labels[others])
            for ends in (ones, others):
                np.minimum.at(labels, labels[ends], least)
                np.minimum.at(labels, ends, least)
            labels = _roots(labels)
        return np.unique(labels, return_inverse=True)[1]

    def reasons(self, bundles: np.ndarray) -> dict[int, str]:
        """Return why a class has to stay, for those that do."""
        found: dict[int, str] = {}
        for numbers, reason in self._pins:
            for label in np.unique(bundles[numbers]):
                found.setdefault(int(label), reason)
        return found


def _roots(labels: np.ndarray) -> np.ndarray:
    while np.any(labels[labels] != labels):
        labels = labels[labels]
    return labels


def joined(sources: Sequence[ChannelSource], bundles: np.ndarray) -> list[list[int]]:
    """Put together the sources that share a class, directly or through others; return their places, in order."""
    owner: dict[int, list[int]] = {}
    groups: list[list[int]] = []
    for place, source in enumerate(sources):
        labels = np.unique(bundles[source.channels]).tolist()
        met = list({id(owner[label]): owner[label] for label in labels if label in owner}.values())
        group = [member for other in met for member in other] + [place]
        groups = [other for other in groups if not any(other is one for one in met)] + [group]
        for member in group:
            owner.update(dict.fromkeys(bundles[sources[member].channels].tolist(), group))
    return sorted((sorted(group) for group in groups), key=lambda group: group[0])
