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
