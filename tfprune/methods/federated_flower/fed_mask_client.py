"""A client of FedMask: it trains masks of frozen weights, and sends one bit for each weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune.methods.federated.masked_model import MaskedModel
from tfprune.methods.federated.packed_masks import pack_masks
from tfprune.methods.federated.update import Update
from tfprune.methods.federated_flower.masked_client import STATE, answer_to, keep_state, update_in
from tfprune.methods.federated_flower.masked_fed_avg import DATA, ROUND, value_in
from tfprune.methods.federated_masks.fed_mask import FedMask, MaskScores, SharedMask

if TYPE_CHECKING:
    from flwr.app import Context, Message

WEIGHTS, SCORES = "weights", "scores"  # keys of the state of a client


class FedMaskClient:
    """Answer a message of a `ClientApp` for FedMask.

    Use it with the strategy `MaskedFedAvg(method=FedMask(...))`. The weights come with the first message, and are
    kept in Flower's `context.state` with the scores of the client.

    Args:
        message: The message that Flower passes to the function of the `ClientApp`.
        context: The context that Flower passes to it.
        model: The wrapped model of the client.
        method: The same `FedMask` as in the strategy.

    Raises:
        TypeError: If `model` is not a `MaskedModel`, or `method` not a `FedMask`.
        ValueError: If the message has no update of this model.

    Attributes:
        round: The round, counted from 1.
        weights: The frozen weights.

    Example:
        >>> from flwr.clientapp import ClientApp
        >>> app = ClientApp()
        >>> @app.train()
        ... def train(message, context):
        ...     model = MaskedModel(tfprune.wrap(make_model()))
        ...     client = FedMaskClient(message, context, model, FedMask(sparsity=0.5))
        ...     client.fit((x, y), loss="sparse_categorical_crossentropy")
        ...     return client.trained({"num-examples": len(x)})
    """

    def __init__(self, message: Message, context: Context, model: MaskedModel, method: FedMask) -> None:
        if not isinstance(model, MaskedModel) or not isinstance(method, FedMask):
            raise TypeError(
                f"Expected a MaskedModel and a FedMask. Received: model of type {type(model).__name__}, method of "
                f"type {type(method).__name__}."
            )
        self._message, self._context, self._model, self._method = message, context, model, method
        like = model.weights
        update = Update.decode(update_in(message), like=like)
        self.round = update.round
        stored = {key: value_in(context.state, STATE, key=key) for key in (WEIGHTS, SCORES)}
        is_first = all(mask is None for mask in update.masks or ())
        if is_first or not all(isinstance(each, bytes) for each in stored.values()):
            if not is_first:
                raise ValueError("Expected the weights in the first message. Received: masks. The state was lost.")
            self.weights = list(update.weights)
            self._scores = method.scores(self.weights)
        else:
            self.weights = list(Update.decode(stored[WEIGHTS], like=like).weights)
            scores = Update.decode(stored[SCORES], like=[each.astype(np.float64) for each in like]).weights
            own: MaskScores = [score if score.ndim > 1 else None for score in scores]
            self._scores = method.personal(own, _shared(update))
        method.apply(model, self._scores, weights=self.weights)

    def fit(self, data: Any, *, loss: Any = None) -> None:
        """Train the masks on data, as `FedMask.fit` does."""
        self._scores = self._method.fit(self._model, data, scores=self._scores, weights=self.weights, loss=loss)

    def trained(self, metrics: Mapping[str, Any]) -> Message:
        """Store the scores, and return the answer: one bit for each weight, and metrics.

        Args:
            metrics: Numbers by name, including `num-examples`.
        """
        scores = [
            np.zeros(array.shape) if score is None else np.asarray(score, np.float64)
            for score, array in zip(self._scores, self.weights, strict=True)
        ]
        state = {WEIGHTS: Update(self.weights, None).encode(), SCORES: Update(scores, None).encode()}
        keep_state(self._context, state)
        bits = pack_masks(self._method.masks(self._scores))
        return answer_to(self._message, self._context, metrics=metrics, update={DATA: bits, ROUND: self.round})

    def evaluated(self, metrics: Mapping[str, Any]) -> Message:
        """Return the answer to a message that asked for metrics alone."""
        return answer_to(self._message, self._context, metrics=metrics, update={})


def _shared(update: Update) -> list[SharedMask]:
    """Return the averages of the server: the fractions, and a mask of the entries that are shared."""
    return [
        None if mask is None or array.ndim < 2 else (array, mask)
        for array, mask in zip(update.weights, update.masks or (), strict=True)
    ]
