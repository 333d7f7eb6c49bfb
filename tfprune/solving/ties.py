"""Ties between channels that can only be removed together.

Every channel of a network has a number. A layout gives, for each axis of a tensor or a weight, the numbers of the
channels along it, or None for an axis that has none (batch, positions, the taps of a filter). Where two channels
meet, for example in an addition, they are tied: one cannot be removed without the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Layout = tuple["np.ndarray | None", ...]


@dataclass(frozen=True, eq=False)
class ChannelSource:
    """Channels that one layer makes.

    Attributes:
        name: The name of the layer, with a suffix if the layer makes several kinds.
        kind: "channels", or "heads" of attention.
        channels: Their numbers.
    """

    name: str
    kind: str
    channels: np.ndarray


class Channels:
    """The channels of a network, with their ties and the reasons why some have to stay."""

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

    def name_heads(self, given: Iterable[np.ndarray]) -> None:
        """Let channels count as heads from now on, those of all sources that make some of these."""
        numbers = np.concatenate([np.empty(0, int), *(channels.ravel() for channels in given)])
        for index, source in enumerate(self.sources):
            if source.kind != "heads" and np.isin(source.channels, numbers).any():
                name = f"{source.name.partition('/')[0]}/heads"
                self.sources[index] = ChannelSource(name, "heads", source.channels)

    def copies(self, count: int) -> np.ndarray:
        """Return the numbers of channels that no layer makes, and that stay or go with those they are tied to."""
        return self._number(count)

    def fixed(self, count: int, reason: str) -> np.ndarray:
        """Return the numbers of channels that have to stay and that no layer of the network makes."""
        numbers = self._number(count)
        self.pin([numbers], reason)
        return numbers

    def _number(self, count: int) -> np.ndarray:
        self._count += count
        return np.arange(self._count - count, self._count)

    def tie(self, first: np.ndarray, second: np.ndarray) -> None:
        """Let channels stay or go together, entry by entry."""
        self._ties.append((first, second))

    def pin(self, layouts: Iterable[np.ndarray | None], reason: str) -> None:
        """Note why these channels have to stay; the first reason counts."""
        self._pins += [(numbers, reason) for numbers in layouts if numbers is not None and numbers.size]

    def bundles(self) -> np.ndarray:
        """Return the bundle of each channel: tied channels share one, and bundles are numbered in order."""
        labels = np.arange(self._count)
        firsts = np.concatenate([np.empty(0, int), *(first.ravel() for first, _ in self._ties)])
        seconds = np.concatenate([np.empty(0, int), *(second.ravel() for _, second in self._ties)])
        while np.any(labels[firsts] != labels[seconds]):
            least = np.minimum(labels[firsts], labels[seconds])
            for ends in (firsts, seconds):
                np.minimum.at(labels, labels[ends], least)
                np.minimum.at(labels, ends, least)
            labels = _roots(labels)
        return np.unique(labels, return_inverse=True)[1]

    def reasons(self, bundles: np.ndarray) -> dict[int, str]:
        """Return why a bundle has to stay, for each that does."""
        first_reasons: dict[int, str] = {}
        for numbers, reason in self._pins:
            for bundle in np.unique(bundles[numbers]):
                first_reasons.setdefault(int(bundle), reason)
        return first_reasons


def _roots(labels: np.ndarray) -> np.ndarray:
    while np.any(labels[labels] != labels):
        labels = labels[labels]
    return labels


def joined(sources: Sequence[ChannelSource], bundles: np.ndarray) -> list[list[ChannelSource]]:
    """Group the sources that share a bundle, directly or through others, in order."""
    owner: dict[int, list[int]] = {}
    groups: list[list[int]] = []
    for index, source in enumerate(sources):
        own_bundles = np.unique(bundles[source.channels]).tolist()
        met = list({id(owner[bundle]): owner[bundle] for bundle in own_bundles if bundle in owner}.values())
        group = [member for earlier in met for member in earlier] + [index]
        groups = [other for other in groups if not any(other is earlier for earlier in met)] + [group]
        for member in group:
            owner.update(dict.fromkeys(bundles[sources[member].channels].tolist(), group))
    return [[sources[index] for index in group] for group in sorted(sorted(group) for group in groups)]
