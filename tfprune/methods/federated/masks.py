"""Ways to choose the masks of clients that need NumPy alone: FedMask, LotteryFL and PruneFL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune.base.arrays import keep_largest, kept_count
from tfprune.base.spec import ArgumentError, Spec, check_count, check_number, check_sparsity
from tfprune.methods.federated.averages import (
    Arrays,
    Masks,
    check_arrays,
    check_each,
    check_masks,
    check_shares,
    masked,
)
from tfprune.methods.federated.update import ClientModel, check_client_model

if TYPE_CHECKING:
    import keras

# FedMask: frozen weights, and masks that are learned; each client sends one bit per weight.

MaskScores = list[np.ndarray | None]
SharedMask = tuple[np.ndarray, np.ndarray] | None


@dataclass(frozen=True)
class FedMask(Spec):
    """Train masks instead of weights; all clients have the same frozen weights from the start.

    Each weight has a score, and is kept while its score is above 0, where the sigmoid of the score is above one half.
    The threshold has no gradient, so training uses the gradient of the sigmoid (a straight-through estimator).

    Args:
        sparsity: The fraction of zeros at the start, in [0, 1).
        learning_rate: The learning rate of the scores, above 0. Default 1.
        votes: The number of clients that have to keep an entry before the server averages it, at least 1. Default 2.
            The other entries remain personal.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range.

    Example:
        >>> method = FedMask(sparsity=0.5)
        >>> scores = method.scores([np.array([[1.0, -3, 2, 0.5]]), np.zeros(4)])
        >>> method.masks(scores)
        [array([[False,  True,  True, False]]), None]

    Reference:
        Li et al., 2021, "FedMask: Joint Computation and Communication-Efficient Personalized Federated Learning via
        Heterogeneous Masking", SenSys.
    """

    sparsity: float
    learning_rate: float = 1.0
    votes: int = 2

    def __post_init__(self) -> None:
        self._hold(
            sparsity=check_sparsity(self.sparsity, "sparsity"),
            learning_rate=check_number(self.learning_rate, "learning_rate", above=0),
            votes=check_count(self.votes, "votes", least=1),
        )

    def scores(self, weights: Sequence[Any]) -> MaskScores:
        """Return the first scores: 1 where a weight is among the largest of its array, else -1.

        Arrays of fewer than two dimensions have none, and are kept whole.
        """
        return [
            None
            if array.ndim < 2
            else np.where(keep_largest(np.abs(array), kept_count(array.size, self.sparsity)), 1.0, -1.0)
            for array in check_arrays(weights, "weights")
        ]

    def masks(self, scores: MaskScores) -> Masks:
        """Return the masks of scores."""
        return [None if score is None else np.asarray(score) > 0 for score in scores]

    def step(self, scores: MaskScores, gradients: Sequence[Any], *, weights: Sequence[Any]) -> MaskScores:
        """Return the scores after a step against the gradient.

        Args:
            scores: The scores.
            gradients: The gradients of the loss with respect to the masked weights, mask * weight, one per array.
            weights: The frozen weights.
        """
        frozen = check_arrays(weights, "weights")
        slopes = check_arrays(gradients, "gradients", like=frozen)
        return [
            None if score is None else score - self.learning_rate * slope * array * _slope(score)
            for score, slope, array in zip(scores, slopes, frozen, strict=True)
        ]

    def fit(
        self,
        model: ClientModel,
        data: Any,
        *,
        weights: Sequence[Any],
        loss: Any = None,
        scores: MaskScores,
    ) -> MaskScores:
        """Train scores on data, one step for each batch, and set the masks of the last scores in the model.

        Masked entries get gradients as well, so an entry comes back when its score rises above 0.

        Args:
            model: A `MaskedModel`, or a `MaskedTrainer` whose file has room for all entries.
            data: Arrays (x, y), which are cut into batches, or an iterable of batches (x, y).
            weights: The frozen weights, all entries.
            loss: As in `dense_gradients`; None for a trainer, whose file has a loss.
            scores: The scores to start from.

        Returns:
            The scores after the last step.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the data do not fit the model, or numbers or shapes differ.
        """
        check_client_model(model)
        self.apply(model, scores, weights=weights)
        for gradients in model.batch_gradients(data, loss=loss):  # each at the masks of the step before
            scores = self.step(scores, gradients, weights=weights)
            self.apply(model, scores, weights=weights)
        return scores

    def apply(self, model: ClientModel, scores: MaskScores, *, weights: Sequence[Any]) -> None:
        """Set the frozen weights of a model under the masks of scores."""
        model.set_masks(self.masks(scores))
        model.set_weights(weights)

    def average(self, masks: Sequence[Any], *, client_weights: Sequence[float]) -> list[SharedMask]:
        """Average the masks of clients, as the server does.

        Args:
            masks: The masks of each client.
            client_weights: The weight of each client, such as its number of samples, from 0 to 2**53.

        Returns:
            For each array the weighted fraction of clients that keep an entry, and whether at least `votes` clients
            do; None for arrays without masks.

        Raises:
            ValueError: If there are no clients, numbers or shapes differ, or the weights sum to 0.
        """
        clients = check_each(masks, "masks")
        checked = [check_masks(client, f"masks[{index}]") for index, client in enumerate(clients)]
        shares = check_shares(check_each(client_weights, "client_weights", count=len(checked)))
        if len({tuple(getattr(mask, "shape", None) for mask in client) for client in checked}) > 1:
            raise ArgumentError("masks", "`masks` of one model", found="other numbers or shapes in some clients")
        return [self._averaged(entries, shares) for entries in zip(*checked, strict=True)]

    def _averaged(self, entries: Sequence[Any], shares: list[float]) -> SharedMask:
        if entries[0] is None:
            return None
        return np.average(entries, axis=0, weights=shares), np.sum(entries, axis=0) >= self.votes

    def personal(self, scores: MaskScores, averaged: Sequence[SharedMask]) -> MaskScores:
        """Replace the scores of shared entries by those that the server has averaged.

        The fraction of clients that keep an entry counts as its sigmoid, so a shared entry is kept if more than half
        of the clients keep it.

        Args:
            scores: The scores of the client.
            averaged: The result of `average`.
        """
        return [
            score if score is None or shared is None else np.where(shared[1], _logit(shared[0]), score)
            for score, shared in zip(scores, averaged, strict=True)
        ]


def _slope(score: np.ndarray) -> np.ndarray:
    sigmoid = 1 / (1 + np.exp(-score))
    return sigmoid * (1 - sigmoid)


def _logit(fraction: np.ndarray) -> np.ndarray:
    inside = np.clip(fraction, 1e-3, 1 - 1e-3)
    return np.log(inside / (1 - inside))


# LotteryFL: each client prunes its model once it is accurate, and rewinds it to the first weights.


@dataclass(frozen=True)
class LotteryFL(Spec):
    """Give each client a personal mask by magnitude, with rewinding.

    In each round a client gets the server's weights under its mask. If they are accurate enough on its data, and its
    sparsity is below the final one, it drops the smallest remaining weights and resets the others to their first
    values. Then it trains, and sends the weights under its mask. The server averages with `masked_average`.

    Args:
        sparsity: The fraction of zeros at which pruning ends, in [0, 1).
        prune_rate: The fraction of the remaining weights of each array to drop at once, in (0, 1]. Default 0.2.
        min_accuracy: The accuracy that has to be exceeded before weights are dropped. Default 0.5.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If one is out of range.

    Example:
        >>> lottery = LotteryFL(sparsity=0.5, prune_rate=0.5, min_accuracy=0.6)
        >>> weights, first = [np.array([[1.0, -3, 2, 0.5]])], [np.full((1, 4), 0.1)]
        >>> lottery.prune(weights, [np.ones((1, 4))], initial_weights=first, accuracy=0.7)
        ([array([[0. , 0.1, 0.1, 0. ]])], [array([[False,  True,  True, False]])])

    Reference:
        Li et al., 2020, "LotteryFL: Personalized and Communication-Efficient Federated Learning with Lottery Ticket
        Hypothesis on Non-IID Datasets", arXiv:2008.03371.
    """

    sparsity: float
    prune_rate: float = 0.2
    min_accuracy: float = 0.5

    def __post_init__(self) -> None:
        check_number(self.min_accuracy, "min_accuracy")
        meaning = "the fraction to drop at once"
        rate = check_number(self.prune_rate, "prune_rate", above=0, most=1, meaning=meaning)
        self._hold(sparsity=check_sparsity(self.sparsity, "sparsity"), prune_rate=rate)

    def prune(
        self, weights: Sequence[Any], masks: Sequence[Any], *, initial_weights: Sequence[Any], accuracy: float
    ) -> tuple[Arrays, Masks]:
        """Prune and rewind, if the weights are accurate enough and the final sparsity is not reached.

        Args:
            weights: The weights that the client received.
            masks: Its masks. Arrays of two or more dimensions that have a mask are pruned; the other masks do not
                change.
            initial_weights: The first weights of the server, to rewind to.
            accuracy: The accuracy of `weights` on the client's data.

        Returns:
            Weights to train from, and masks. An entry that was dropped never comes back.

        Raises:
            TypeError: If an argument is not a list of arrays, or `accuracy` is not a number.
            ValueError: If numbers or shapes differ.
        """
        first = check_arrays(initial_weights, "initial_weights")
        current = check_arrays(weights, "weights", like=first)
        keep = check_masks(masks, "masks", like=first)
        if not self._may_prune(keep, check_number(accuracy, "accuracy")):
            return masked(current, keep), keep
        fewer = [
            mask if mask is None or mask.ndim < 2 else self._pruned(array, mask)
            for array, mask in zip(current, keep, strict=True)
        ]
        return masked(first, fewer), fewer

    def _may_prune(self, masks: Masks, accuracy: float) -> bool:
        pruned = [mask for mask in masks if mask is not None and mask.ndim > 1]
        is_sparse_enough = not any(np.count_nonzero(mask) > kept_count(mask.size, self.sparsity) for mask in pruned)
        return accuracy > self.min_accuracy and not is_sparse_enough

    def _pruned(self, array: np.ndarray, mask: np.ndarray) -> np.ndarray:
        alive = int(np.count_nonzero(mask))
        count = max(alive - round(self.prune_rate * alive), min(kept_count(mask.size, self.sparsity), alive))
        return keep_largest(np.where(mask, np.abs(array), -1), count) & mask if count else mask


# PruneFL: masks that change during training, so that each second of a round reduces the loss most.


@dataclass(frozen=True)
class PruneFL(Spec):
    """Choose masks by squared gradient per second: a weight is kept if it is worth its time.

    The method sums `n * g ** 2` over clients and rounds, where g is the sum of a client's gradients in a round and n
    its number of samples. Every few rounds, the smallest remaining weights and all masked ones become candidates. A
    candidate is kept if it raises the sum of squared gradients per second of a round.

    Args:
        seconds: For each array, the seconds that one of its weights costs in a round, to compute and to send. None
            for an array that is never pruned.
        constant: The seconds of a round that do not depend on the masks, above 0.
        change_rate: The fraction of the remaining weights that become candidates in the first round, in [0, 1].
            Default 0.3.
        halving: The number of rounds after which this fraction has halved, at least 1. Default 10,000.
        density: The largest fraction of the weights with costs that may remain, in (0, 1]. Default 1.
        every: The number of rounds between updates of the masks, at least 1. Default 50.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range.

    Example:
        >>> method = PruneFL(seconds=(1.0,), constant=1.0, change_rate=0.5)
        >>> weights, masks = [np.array([[5.0, 1, 0, 0]])], [np.array([[1, 1, 0, 0]])]
        >>> method.masks(weights, masks, squares=[np.array([[4.0, 0.1, 6, 1]])], round=0)
        [array([[ True, False,  True, False]])]

    Reference:
        Jiang et al., 2022, "Model Pruning Enables Efficient Federated Learning on Edge Devices", arXiv:1909.12326.
    """

    seconds: tuple[float | None, ...]
    constant: float
    change_rate: float = 0.3
    halving: int = 10_000
    density: float = 1.0
    every: int = field(default=50, kw_only=True)

    def __post_init__(self) -> None:
        seconds = tuple(None if cost is None else check_number(cost, "seconds", above=0) for cost in self.seconds)
        self._hold(
            seconds=seconds,
            constant=check_number(self.constant, "constant", above=0),
            change_rate=check_number(self.change_rate, "change_rate", least=0, most=1),
            halving=check_count(self.halving, "halving", least=1),
            density=check_number(self.density, "density", above=0, most=1),
            every=check_count(self.every, "every", least=1),
        )

    def is_due(self, round: int) -> bool:  # noqa: A002 (as `Update.round`)
        """Return whether the masks change after a round, counted from 1."""
        return round % self.every == 0

    @staticmethod
    def fit(
        model: ClientModel,
        data: Any,
        *,
        loss: Any = None,
        optimizer: keras.optimizers.Optimizer | None = None,
    ) -> Arrays:
        """Train a client on data, one step for each batch, and return the sum of its gradients at all entries.

        Only entries under the masks of the model change. The square of the sum, weighted by the number of samples, is
        the client's part of the `squares` that `masks` needs.

        Args:
            model: A `MaskedModel`, whose statistics of BatchNormalization do not change, or a `MaskedTrainer`.
            data: Arrays (x, y), which are cut into batches, or an iterable of batches (x, y).
            loss: As in `dense_gradients`; None for a trainer, whose file has a loss.
            optimizer: The Keras optimizer of the client; it is built for the trainable variables of the model. None
                for a trainer, whose file has an optimizer.

        Returns:
            One array for each weight, in the order of the model's `weights`.

        Raises:
            TypeError: If `model` is neither a `MaskedModel` nor a `MaskedTrainer`.
            ValueError: If the data do not fit the model, or there is no loss or optimizer.
        """
        check_client_model(model)
        total: Arrays = []
        for gradients in model.train_batches(data, loss=loss, optimizer=optimizer):
            total = [first + second for first, second in zip(total, gradients, strict=True)] if total else gradients
        return total

    def masks(
        self,
        weights: Sequence[Any],
        masks: Sequence[Any],
        *,
        squares: Sequence[Any],
        round: int,  # noqa: A002 (as `Update.round`)
    ) -> Masks:
        """Return new masks.

        Args:
            weights: The weights of the server.
            masks: Its masks; None for an array that is never pruned.
            squares: The sums of squared gradients, one array per weight.
            round: The number of the round that has ended, counted from 1.

        Raises:
            TypeError: If an argument is not a list of arrays, or `round` is not an integer.
            ValueError: If numbers or shapes differ, a sum is negative, or a mask has no cost.
        """
        arrays = check_arrays(weights, "weights")
        keep = check_masks(masks, "masks", like=arrays)
        sums = check_arrays(squares, "squares", like=arrays)
        costs = check_each(self.seconds, "seconds", count=len(arrays))
        self._check(keep, sums, costs)
        rate = self.change_rate * 0.5 ** (check_count(round, "round", least=0) / self.halving)
        pruned = [index for index, mask in enumerate(keep) if mask is not None]
        base = {index: _base(arrays[index], keep[index], rate) for index in pruned}
        gain = sum(float(sums[index][base.get(index, ...)].sum()) for index in range(len(arrays)))
        time = self.constant + sum(costs[index] * np.count_nonzero(base[index]) for index in pruned)
        additions = self._additions([~base[index] for index in pruned], pruned, sums, gain, time)
        for index, added in zip(pruned, additions, strict=True):
            base[index][~base[index]] = added
        return [base.get(index) for index in range(len(arrays))]

    def _additions(
        self, open_: Arrays, pruned: list[int], sums: Arrays, gain: float, time: float
    ) -> list[np.ndarray]:
        if not pruned:
            return []
        gains = [sums[index][mask] for index, mask in zip(pruned, open_, strict=True)]
        costs = [np.full(len(part), self.seconds[index]) for index, part in zip(pruned, gains, strict=True)]
        total = sum(mask.size for mask in open_)
        most = int(self.density * total) - (total - sum(map(len, gains)))
        added = _best_ratio(np.concatenate(gains), np.concatenate(costs), gain=gain, cost=time, most=max(most, 0))
        return np.split(added, np.cumsum([len(part) for part in gains])[:-1])

    def _check(self, masks: Masks, sums: Arrays, costs: list[float | None]) -> None:
        for index, (mask, values, cost) in enumerate(zip(masks, sums, costs, strict=True)):
            if not (values >= 0).all():
                raise ArgumentError("squares", "`squares` of at least 0", found=f"others at index {index}")
            if mask is not None and cost is None:
                raise ArgumentError(
                    "seconds",
                    "`seconds` for each array with a mask",
                    found=f"None at index {index}",
                    advice="Pass None for its mask, too, or its seconds.",
                )


def _best_ratio(
    gains: np.ndarray, costs: np.ndarray, *, gain: float, cost: float, most: int | None = None
) -> np.ndarray:
    """Choose candidates so that (gain + their gains) / (cost + their costs) is largest.

    The best ones have the highest gain per cost, so they are added in this order as long as the ratio rises.

    Args:
        gains: The gain of each candidate, at least 0.
        costs: The cost of each, above 0.
        gain: The gain without candidates.
        cost: The cost without candidates, above 0.
        most: The largest number of candidates to choose; None for all.

    Returns:
        Booleans, True for each that is chosen.

    Example:
        >>> _best_ratio(np.array([3.0, 1.0]), np.array([1.0, 1.0]), gain=2.0, cost=1.0)
        array([ True, False])
    """
    order = np.argsort(-gains / costs, kind="stable")[:most]
    totals, times = gain + np.cumsum(gains[order]), cost + np.cumsum(costs[order])
    before = np.concatenate([[gain / cost], totals[:-1] / times[:-1]]) if len(order) else totals
    rises = gains[order] / costs[order] > before
    mask = np.zeros(len(gains), bool)
    mask[order[: len(order) if rises.all() else int(np.argmin(rises))]] = True
    return mask


def _base(array: np.ndarray, mask: np.ndarray | None, rate: float) -> np.ndarray:
    """Return the weights that are kept in any case: the remaining ones without the smallest of them."""
    assert mask is not None
    alive = int(np.count_nonzero(mask))
    count = alive - int(rate * alive)
    return keep_largest(np.where(mask, np.abs(array), -1), count) & mask if count else np.zeros_like(mask)
