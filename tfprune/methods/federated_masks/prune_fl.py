"""PruneFL: masks that change during training, so that each second of a round reduces the loss most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfprune.base.spec import Spec, check_count, check_number
from tfprune.base.top_k import keep_largest
from tfprune.keras_models.models.batches import batches
from tfprune.methods.federated.arrays import Arrays, Masks, check_arrays, check_each, check_masks
from tfprune.methods.federated.dense_gradients import dense_gradients
from tfprune.methods.federated.masked_model import MaskedModel


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
        model: MaskedModel,
        data: Any,
        *,
        loss: Any = None,
        optimizer: keras.optimizers.Optimizer,
    ) -> Arrays:
        """Train a client on data, one step for each batch, and return the sum of its gradients at all entries.

        Only entries under the masks of the model change. The square of the sum, weighted by the number of samples, is
        the client's part of the `squares` that `masks` needs.

        Args:
            model: A wrapped model. The statistics of BatchNormalization do not change.
            data: Arrays (x, y), which are cut into batches of 32, a dataset, or an iterable of batches.
            loss: As in `dense_gradients`.
            optimizer: The optimizer of the client; it is built for the trainable variables of the model.

        Returns:
            One array for each weight, in the order of `MaskedModel.weights`.

        Raises:
            TypeError: If `model` is not a `MaskedModel`.
            ValueError: If the data do not fit the model, or there is no loss.
        """
        total: Arrays = []
        trained = [index for index, variable in enumerate(model.variables) if variable.trainable]
        variables, masks = [model.variables[index] for index in trained], model.masks
        for batch in batches(data):
            gradients = dense_gradients(model, batch, loss=loss)
            total = [first + second for first, second in zip(total, gradients, strict=True)] if total else gradients
            shown = [
                keras.ops.convert_to_tensor(gradient if mask is None else gradient * mask, variable.dtype)
                for gradient, mask, variable in zip(gradients, masks, model.variables, strict=True)
            ]
            optimizer.apply([shown[index] for index in trained], variables)
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
        added = best_ratio(np.concatenate(gains), np.concatenate(costs), gain=gain, cost=time, most=max(most, 0))
        return np.split(added, np.cumsum([len(part) for part in gains])[:-1])

    def _check(self, masks: Masks, sums: Arrays, costs: list[float | None]) -> None:
        for index, (mask, values, cost) in enumerate(zip(masks, sums, costs, strict=True)):
            if not (values >= 0).all():
                raise ValueError(f"Expected `squares` of at least 0. Received: others at index {index}.")
            if mask is not None and cost is None:
                raise ValueError(
                    f"Expected `seconds` for each array with a mask. Received: None at index {index}. Pass None for "
                    f"its mask, too, or its seconds."
                )


def best_ratio(
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
        >>> best_ratio(np.array([3.0, 1.0]), np.array([1.0, 1.0]), gain=2.0, cost=1.0)
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
