"""Choose the channels to remove, and solve for the other weights in order: each on what the file returns by then."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tfprune.export.device.processes.child_progress import ChildProgress
from tfprune.export.file.tflite.editor import load_objects, save_objects
from tfprune.export.pruning.layers.file_outputs import Runs
from tfprune.export.pruning.layers.loops import Activations
from tfprune.export.pruning.layers.pieces import Pieces
from tfprune.export.pruning.shrinking.channel_groups import file_channels, mixing_layers
from tfprune.export.pruning.shrinking.cut_channels import cut_channels
from tfprune.export.pruning.shrinking.rank_groups import Ranking, made_bundles, read_bundles
from tfprune.export.pruning.shrinking.shrink_tflite_report import ShrunkGroup
from tfprune.solving.split_by_error import split_by_error

STEPS, MOST = 198, 0.99  # of the shares that are tried, and the largest of them


@dataclass(frozen=True)
class ShrunkFile:
    """A smaller file.

    Attributes:
        content: The plain file.
        zeroed: The file of the old size with the same weights, and zeros in place of the others.
        groups: The groups of channels, and how many are left of each.
        skipped: The groups that keep their channels, and why.
        flops: The floating-point operations of one sample, before.
        flops_kept: The same of the smaller file.
    """

    content: bytes
    zeroed: bytes
    groups: tuple[ShrunkGroup, ...]
    skipped: tuple[tuple[str, str], ...]
    flops: int
    flops_kept: int

    def after(self, first: ShrunkFile) -> ShrunkFile:
        """Return the same file, counted from the one that a first round began with."""
        counts = {group.group: group.kept for group in self.groups}
        groups = tuple(replace(group, kept=counts.get(group.group, group.kept)) for group in first.groups)
        return replace(self, groups=groups, skipped=first.skipped, flops=first.flops)


class ShrinkingInOrder:
    """A file and samples, from which a file with fewer channels is made.

    Args:
        content: The plain file.
        runs: The inputs of each run of the interpreter, by tensor.
        folder: For arrays that do not fit into the memory.
        progress: Counts the layers whose channels were ranked, or which were solved for.

    Attributes:
        flops: The floating-point operations of one sample.
        least: Those without all channels that may go.
    """

    def __init__(self, content: bytes, runs: Runs, *, folder: Path, progress: ChildProgress) -> None:
        self._dense, self._runs, self._folder = Pieces(load_objects(content)), runs, folder
        self._progress = progress
        self._layers = mixing_layers(self._dense)
        self._channels = file_channels(self._dense, self._layers)
        if all(group.stuck for group in self._channels.groups):
            reasons = "; ".join(dict.fromkeys(f"{name}: {reason}" for name, reason in self._held()))
            raise ValueError(
                f"Expected a file with channels that can be removed. Received: one where all have to stay: "
                f"{reasons or 'it has none'}"
            )
        progress.expect(len(self._layers))
        channels = self._channels
        ranking = Ranking(self._dense, runs, layers=self._layers, channels=channels, progress=progress)
        self._ranked = ranking.ranked(folder)
        self._shared, self._unranked = ranking.shared, ranking.unranked
        self.flops = self._channels.flops(self._channels.all_kept())
        self.least = self._channels.flops(self._choice(STEPS, round_to=1))

    def shrunk(self, flops: float, *, round_to: int) -> ShrunkFile:
        """Return a file with as many channels as a limit of floating-point operations allows.

        Args:
            flops: An int is an amount, a float a fraction of those of the file.
            round_to: The number of channels of a group is a multiple of this.
        """
        target = self.flops * flops if isinstance(flops, float) else flops
        keep = self._bundles_within(target, round_to=round_to)
        zeroed = self._solved(keep)
        pieces = Pieces(load_objects(zeroed))
        channels = file_channels(pieces, mixing_layers(pieces))
        cut_channels(channels, keep)
        rows = [
            ShrunkGroup(
                group.name, len(group.bundles), int(keep[group.bundles].sum()), self._channels.flops_of(group)
            )
            for group in self._channels.groups
        ]
        remaining_flops = self._channels.flops(keep)
        return ShrunkFile(
            save_objects(pieces.model), zeroed, tuple(rows), self._skipped(), self.flops, remaining_flops
        )

    def check(self, target: float, *, round_to: int) -> None:
        """Refuse an amount of floating-point operations that cannot be reached."""
        least = self._channels.flops(self._choice(STEPS, round_to=round_to))
        if least > target:
            raise ValueError(
                f"Expected a limit that can be met. Received: {target:,.0f} floating-point operations of "
                f"{self.flops:,}; without all channels that may go, the file still has {least:,}. Raise the limit"
            )

    def _skipped(self) -> tuple[tuple[str, str], ...]:
        return (*self._held(), *((group.name, reason) for group, reason in self._unranked))

    def _held(self) -> list[tuple[str, str]]:
        """Return the groups of which some channels have to stay, and why."""
        reasons = ((group.name, group.reason or group.stuck) for group in self._channels.groups)
        return [(name, reason) for name, reason in reasons if reason]

    def _bundles_within(self, target: float, *, round_to: int) -> np.ndarray:
        """Return which bundles stay, where as few go as the limit of operations allows."""

        def choice(step: int) -> np.ndarray:
            return self._choice(step, round_to=round_to)

        self.check(target, round_to=round_to)
        low, high = 0, STEPS
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._channels.flops(choice(middle)) <= target else (middle + 1, high)
        return choice(high)

    def _choice(self, step: int, *, round_to: int) -> np.ndarray:
        """Return which bundles stay where a share of those that may go is gone."""
        keep = self._channels.all_kept()
        shares = split_by_error([ranked.curve for ranked in self._ranked], MOST * step / STEPS)
        for ranked, share in zip(self._ranked, shares, strict=True):
            keep[ranked.removed(share, round_to=round_to)] = False
        return keep

    def _solved(self, keep: np.ndarray) -> bytes:
        """Return the file of the old size with zeros for what goes, and new values for the other weights."""
        file = Pieces(copy.deepcopy(self._dense.model))
        dense, now = (Activations(pieces, self._runs, folder=self._folder) for pieces in (self._dense, file))
        gone = np.flatnonzero(~keep)
        is_changed = False
        for layer in self._layers:
            self._progress.add()
            reads = np.isin(read_bundles(self._channels, layer), gone)
            makes = np.isin(made_bundles(self._channels, layer), gone)
            is_changed |= bool(reads.any())
            if not is_changed and not makes.any():
                continue
            weights = layer.weights
            if is_changed:
                moments = self._shared.get(id(layer)) or layer.moments_in_order(self._dense, dense=dense, now=now)
                weights = layer.solver.without(moments, ~reads)
            weights = np.where(makes[..., np.newaxis], 0, weights)
            layer.write(file, weights, layer.stored.grown(layer.tensor(weights)))
        return save_objects(file.model)
