"""LotteryFL: each client prunes its model once it is accurate, and rewinds it to the first weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.base.spec import Spec, check_number, check_sparsity
from tfprune.base.top_k import keep_largest, kept_count
from tfprune.methods.federated.arrays import Arrays, Masks, check_arrays, check_masks, masked


@dataclass(frozen=True)
class LotteryFL(Spec):
    """Personal masks by magnitude, with rewinding.

    In each round a client takes the server's weights under its mask. If they are accurate enough on its own data, and
    its target is not reached yet, it drops the smallest weights that are left and puts the others back to their first
    values; then it trains, and sends the weights under its mask. The server averages by `masked_average`.

    Args:
        target: The fraction of zeros at which pruning ends, in [0, 1).
        rate: The fraction of the weights left in each array that a pruning drops, in (0, 1].
        threshold: The accuracy that has to be exceeded before a pruning.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If one is out of range.

    Example:
        >>> lottery = LotteryFL(target=0.5, rate=0.5, threshold=0.6)
        >>> weights, first = [np.array([[1.0, -3, 2, 0.5]])], [np.full((1, 4), 0.1)]
        >>> lottery.prune(weights, [np.ones((1, 4))], initial=first, accuracy=0.7)
        ([array([[0. , 0.1, 0.1, 0. ]])], [array([[False,  True,  True, False]])])

    Reference:
        Li et al., 2020, "LotteryFL: Personalized and Communication-Efficient Federated Learning with Lottery Ticket
        Hypothesis on Non-IID Datasets", arXiv:2008.03371.
    """

    target: float
    rate: float = 0.2
    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_number(self.threshold, "threshold")
        rate = check_number(self.rate, "rate", above=0, most=1, meaning="the fraction that a pruning drops")
        self._hold(target=check_sparsity(self.target, "target"), rate=rate)

    def prune(
        self, weights: Sequence[Any], masks: Sequence[Any], *, initial: Sequence[Any], accuracy: float
    ) -> tuple[Arrays, Masks]:
        """Prune and rewind, if the weights are accurate enough and the target is not reached.

        Args:
            weights: The weights that the client got.
            masks: Its masks. Arrays of two or more dimensions that have a mask are pruned; the other masks stay.
            initial: The first weights of all, to rewind to.
            accuracy: The accuracy of `weights` on the client's own data.

        Returns:
            Weights to train from, and masks, which keep nothing that the given ones drop.

        Raises:
            TypeError: If an argument is not a list of arrays, or `accuracy` is not a number.
            ValueError: If numbers or shapes differ.
        """
        first = check_arrays(initial, "initial")
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
        is_target_reached = not any(np.count_nonzero(mask) > kept_count(mask.size, self.target) for mask in pruned)
        return accuracy > self.threshold and not is_target_reached

    def _pruned(self, array: np.ndarray, mask: np.ndarray) -> np.ndarray:
        alive = int(np.count_nonzero(mask))
        count = max(alive - round(self.rate * alive), min(kept_count(mask.size, self.target), alive))
        return keep_largest(np.where(mask, np.abs(array), -1), count) & mask if count else mask
