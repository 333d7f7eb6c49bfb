"""FedMask: frozen weights, and masks that are learned; each client sends one bit per weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.base.spec import Spec, check_count, check_number, check_sparsity
from tfprune.base.top_k import keep_largest, kept_count
from tfprune.keras_models.models.batches import batches
from tfprune.methods.federated.arrays import Masks, check_arrays, check_each, check_masks
from tfprune.methods.federated.dense_gradients import dense_gradients
from tfprune.methods.federated.masked_model import MaskedModel

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
        model: MaskedModel,
        data: Any,
        *,
        weights: Sequence[Any],
        loss: Any = None,
        scores: MaskScores,
    ) -> MaskScores:
        """Train scores on data, one step for each batch, and set the masks of the last scores in the model.

        Masked entries get gradients as well, so an entry comes back when its score rises above 0.

        Args:
            model: A wrapped model.
            data: Arrays (x, y), which are cut into batches of 32, a dataset, or an iterable of batches.
            weights: The frozen weights, all entries.
            loss: As in `dense_gradients`.
            scores: The scores to start from.

        Returns:
            The scores after the last step.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the data do not fit the model, or numbers or shapes differ.
        """
        self.apply(model, scores, weights=weights)
        for batch in batches(data):
            scores = self.step(scores, dense_gradients(model, batch, loss=loss), weights=weights)
            self.apply(model, scores, weights=weights)
        return scores

    def apply(self, model: MaskedModel, scores: MaskScores, *, weights: Sequence[Any]) -> None:
        """Set the frozen weights of a model under the masks of scores."""
        model.set_masks(self.masks(scores))
        model.set_weights(weights)

    def average(self, masks: Sequence[Any], *, client_weights: Sequence[float]) -> list[SharedMask]:
        """Average the masks of clients, as the server does.

        Args:
            masks: The masks of each client.
            client_weights: The weight of each client, such as its number of samples, at least 0.

        Returns:
            For each array the weighted fraction of clients that keep an entry, and whether at least `votes` clients
            do; None for arrays without masks.

        Raises:
            ValueError: If there are no clients, numbers or shapes differ, or the weights sum to 0.
        """
        clients = check_each(masks, "masks")
        checked = [check_masks(client, f"masks[{index}]") for index, client in enumerate(clients)]
        shares = [check_number(weight, "client_weights", least=0) for weight in client_weights]
        check_each(shares, "client_weights", count=len(checked))
        if not sum(shares):
            raise ValueError(f"Expected `client_weights` with a sum above 0. Received: {client_weights!r}.")
        if len({tuple(getattr(mask, "shape", None) for mask in client) for client in checked}) > 1:
            raise ValueError("Expected `masks` of one model. Received: other numbers or shapes in some clients.")
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
