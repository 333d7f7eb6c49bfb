"""The server's side of a round, its messages and averages: for masks of clients, for PruneFL and for FedMask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.methods.federated.agreement import merge_masks
from tfprune.methods.federated.arrays import Arrays, Masks, check_arrays, check_masks
from tfprune.methods.federated.average import check_finite, clip_updates, masked_average
from tfprune.methods.federated.averages import Mean, TrimmedMean
from tfprune.methods.federated.packed_masks import unpack_masks
from tfprune.methods.federated.update import Update
from tfprune.methods.federated_masks.fed_mask import FedMask, SharedMask
from tfprune.methods.federated_masks.prune_fl import PruneFL


@dataclass(frozen=True)
class Answer:
    """The content of a client's answer.

    Attributes:
        node: The node of the client.
        examples: Its weight in the average.
        masks: Its masks.
        weights: Its weights; None if masks alone travel.
        squares: Its sums of squared gradients, if they were due.
    """

    node: int
    examples: float
    masks: Masks
    weights: Arrays | None = None
    squares: Arrays | None = None


@dataclass(frozen=True)
class Received:
    """The bytes of an answer, as they came.

    Attributes:
        data: The update, or packed masks.
        round: The round that masks alone belong to; an update has its own.
        squares: An update of sums of squared gradients.
    """

    data: bytes
    round: Any = None
    squares: Any = None


class ServerRounds:
    """Rounds of clients with masks of their own, or of all clients under the masks of the server.

    Args:
        masks: The masks of all clients; None lets each have its own.
        average: How entries are averaged.
        clip_norm: The largest norm of a client's change; None sets no limit.
    """

    def __init__(self, masks: Sequence[Any] | None, *, average: Mean, clip_norm: float | None) -> None:
        self.common: Masks | None = None if masks is None else check_masks(masks, "masks")
        self.average, self.clip_norm = average, clip_norm
        self.known: dict[int, Masks] = {}  # of each node, as it has sent them last
        self.last: dict[int, Masks] = {}  # the same, of nodes that may have lost them, too

    def needs_squares(self, round_: int) -> bool:
        """Tell whether clients have to send their squared gradients after a round."""
        del round_
        return False

    def message(self, node: int, server: Arrays, round_: int) -> bytes:
        """Return the update for a node: the entries of its masks, everything if they are not known."""
        known_masks = self.known.get(node)
        masks = known_masks if self.common is None or _agree(known_masks, self.common) else self.common
        return Update(server, masks, round_).encode(known_masks=known_masks)

    def read(self, node: int, received: Received, *, like: Arrays, round_: int, examples: float) -> Answer:
        """Return the content of an answer.

        Raises:
            ValueError: If it is damaged, of another model or round, not finite, or under other masks than asked for.
        """
        update = Update.decode(received.data, like=like, known_masks=self.known.get(node))
        _check_round(update.round, round_)
        masks: Masks = list(update.masks or ())
        if self.common is not None and not _agree(masks, self.common):
            raise ValueError("Expected an update under the masks of the server. Received: one under others.")
        weights = list(update.weights)
        check_finite(weights, masks, argument="weights")
        return Answer(node, examples, masks, weights, self._squares(received, like, round_))

    def _squares(self, received: Received, like: Arrays, round_: int) -> Arrays | None:
        del received, like, round_
        return None

    def accept(self, answers: Sequence[Answer], *, server: Arrays, round_: int) -> Arrays:
        """Return the new arrays of the server, and remember the masks."""
        masks = [answer.masks for answer in answers]
        updates: list[Arrays] = [answer.weights for answer in answers if answer.weights is not None]
        if self.clip_norm is not None:
            updates = clip_updates(updates, masks, server=server, clip_norm=self.clip_norm)
        weights = [answer.examples for answer in answers]
        averaged = masked_average(updates, masks, client_weights=weights, server=server, average=self.average)
        self._remember(answers)
        return averaged

    def _remember(self, answers: Sequence[Answer]) -> None:
        self.known |= {answer.node: answer.masks for answer in answers}
        self.last |= {answer.node: answer.masks for answer in answers}

    def forget(self, node: int) -> None:
        """Send everything to a node in its next round: it may have lost its masks."""
        self.known.pop(node, None)

    def merged(self, *, by_majority: bool) -> Masks | None:
        """Return the masks of the model that the server returns; None as long as no client has any."""
        if self.common is not None or not self.last:
            return self.common
        votes = len(self.last) // 2 + 1 if by_majority else 1
        if isinstance(self.average, TrimmedMean):  # an entry with fewer owners was never averaged
            votes = max(votes, self.average.min_owners)
        return merge_masks(list(self.last.values()), votes=min(votes, len(self.last)))


class PruneFLRounds(ServerRounds):
    """Rounds of PruneFL: the server changes the masks of all clients now and then.

    Args:
        method: The method.
        masks: The masks to begin with; None keeps all entries.
        average: How entries are averaged.
        clip_norm: The largest norm of a client's change; None sets no limit.
    """

    def __init__(
        self, method: PruneFL, masks: Sequence[Any] | None, *, average: Mean, clip_norm: float | None
    ) -> None:
        super().__init__(masks, average=average, clip_norm=clip_norm)
        self.method = method
        self._sums: Arrays = []

    def needs_squares(self, round_: int) -> bool:
        return self.method.is_due(round_)

    def message(self, node: int, server: Arrays, round_: int) -> bytes:
        if self.common is None:
            costs = self.method.seconds
            if len(costs) != len(server):
                raise ValueError(
                    f"Expected `seconds` of PruneFL for {len(server)} arrays, one for each weight of the model. "
                    f"Received: {len(costs)}."
                )
            self.common = [
                None if cost is None else np.ones(array.shape, bool)
                for cost, array in zip(costs, server, strict=True)
            ]
        return super().message(node, server, round_)

    def _squares(self, received: Received, like: Arrays, round_: int) -> Arrays | None:
        if not self.needs_squares(round_):
            return None
        if not isinstance(received.squares, bytes):
            raise ValueError("Expected squared gradients. Received: none. Pass gradients= to MaskedClient.trained.")
        update = Update.decode(received.squares, like=[array.astype(np.float32) for array in like])
        _check_round(update.round, round_)
        squares = list(update.weights)
        check_finite(squares, [None] * len(squares), argument="squares")
        if any((array < 0).any() for array in squares):
            raise ValueError("Expected squares of at least 0. Received: others.")
        return squares

    def accept(self, answers: Sequence[Answer], *, server: Arrays, round_: int) -> Arrays:
        averaged = super().accept(answers, server=server, round_=round_)
        for answer in answers:
            if answer.squares is not None:
                before = self._sums or [np.zeros(array.shape) for array in server]
                self._sums = [old + new for old, new in zip(before, answer.squares, strict=True)]
        if self.needs_squares(round_) and self.common is not None:
            self.common = self.method.masks(averaged, self.common, squares=self._sums, round=round_)
        return averaged


class FedMaskRounds(ServerRounds):
    """Rounds of FedMask: the weights stay, and one bit for each of them comes back.

    Args:
        method: The method.
    """

    def __init__(self, method: FedMask) -> None:
        super().__init__(None, average=Mean(), clip_norm=None)
        self.method = method
        self._shared: list[SharedMask] = []

    def message(self, node: int, server: Arrays, round_: int) -> bytes:
        if node not in self.known or not self._shared:
            return Update(server, None, round_).encode()
        fractions = [np.zeros(array.shape, np.float32) for array in server]
        masks = [np.zeros(array.shape, bool) for array in server]
        for index, shared in enumerate(self._shared):
            if shared is not None:
                fractions[index], masks[index] = shared[0].astype(np.float32), shared[1]
        return Update(fractions, masks, round_).encode()

    def read(self, node: int, received: Received, *, like: Arrays, round_: int, examples: float) -> Answer:
        _check_round(received.round, round_)
        masks = check_masks(unpack_masks(received.data, like=like), "masks", like=like)
        if [mask is None for mask in masks] != [array.ndim < 2 for array in like]:
            raise ValueError("Expected a mask for each array of two or more dimensions. Received: others.")
        return Answer(node, examples, masks)

    def accept(self, answers: Sequence[Answer], *, server: Arrays, round_: int) -> Arrays:
        weights = [answer.examples for answer in answers]
        self._shared = self.method.average([answer.masks for answer in answers], client_weights=weights)
        self._remember(answers)
        return check_arrays(server, "server")


def rounds_of(method: Any, masks: Sequence[Any] | None, *, average: Mean, clip_norm: float | None) -> ServerRounds:
    """Return the rounds of a method.

    Raises:
        TypeError: If `method` is not a method of the server.
        ValueError: If an argument would have no effect.
    """
    if method is None:
        return ServerRounds(masks, average=average, clip_norm=clip_norm)
    if isinstance(method, PruneFL):
        return PruneFLRounds(method, masks, average=average, clip_norm=clip_norm)
    if not isinstance(method, FedMask):
        raise TypeError(
            f"Expected `method` to be a PruneFL, a FedMask or None. Received: {type(method).__name__}. The masks of "
            f"LotteryFL and HeteroFL are chosen by clients: leave `method` out."
        )
    if masks is not None or clip_norm is not None or average != Mean():
        raise ValueError(
            "Expected no `masks`, `clip_norm` or `average` with FedMask, whose clients send masks and no weights. "
            "Received: at least one. Leave them out."
        )
    return FedMaskRounds(method)


def _check_round(received: Any, expected: int) -> None:
    if received != expected:
        raise ValueError(f"Expected an update of round {expected}. Received: one of round {received}.")


def _agree(masks: Masks | None, common: Masks) -> bool:
    """Tell whether masks are those of the server wherever it has one; a client adds masks of statistics."""
    return masks is not None and all(
        wanted is None or np.array_equal(np.ones(wanted.shape, bool) if mask is None else mask, wanted)
        for mask, wanted in zip(masks, common, strict=True)
    )
