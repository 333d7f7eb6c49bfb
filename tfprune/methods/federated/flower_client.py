"""A client of `MaskedFedAvg`: it keeps its masks from round to round, and sends what they keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune.base.spec import ArgumentTypeError
from tfprune.methods.federated.averages import Masks, check_arrays
from tfprune.methods.federated.flower_server import CLIENT, DATA, DUE, ROUND, SQUARES, UPDATE, value_in
from tfprune.methods.federated.masks import FedMask, MaskScores, SharedMask
from tfprune.methods.federated.update import (
    ClientModel,
    Update,
    check_client_model,
    layout_in,
    layout_of,
    pack_masks,
    unpack_masks,
)

if TYPE_CHECKING:
    from flwr.app import Context, Message


_STATE, _MASKS = "tfprune", "masks"  # the record in the state of a client, and its key


class MaskedClient:
    """Answer a message of a `ClientApp` for a wrapped model, or for a trainer on a device without Keras.

    Use it with the strategy `MaskedFedAvg`. It sets the weights of the message in the model. The masks of the client
    are kept in Flower's `context.state` from round to round, and sent only when they change. If the server sets the
    masks, the model gets those.

    Args:
        message: The message that Flower passes to the function of the `ClientApp`.
        context: The context that Flower passes to it.
        model: The `MaskedModel` or `MaskedTrainer` of the client, which gets weights and masks.

    Raises:
        TypeError: If `model` is neither a `MaskedModel` nor a `MaskedTrainer`.
        ValueError: If the message has no update of this model. Flower sends the error to the server, which continues
            without this client, and sends it all entries in the next round.

    Attributes:
        round: The round, counted from 1.
        is_new: Whether the client has not answered yet, as in its first round.

    Example:
        A `ClientApp` whose clients prune to 80 % before they first train:

        >>> from flwr.clientapp import ClientApp
        >>> app = ClientApp()
        >>> @app.train()
        ... def train(message, context):
        ...     model = tfprune.wrap(make_model())
        ...     client = MaskedClient(message, context, MaskedModel(model))
        ...     if client.is_new:
        ...         tfprune.update_masks(model, 0.8)
        ...     model.fit(x, y)
        ...     return client.trained({"num-examples": len(x)})
    """

    def __init__(self, message: Message, context: Context, model: ClientModel) -> None:
        check_client_model(model)
        data = _update_in(message)
        self._message, self._context, self._model = message, context, model
        stored = value_in(context.state, _STATE, key=_MASKS)
        masks = model.check_masks(unpack_masks(stored)) if isinstance(stored, bytes) else None
        update, self._known = _read(data, model, masks)
        self.round, self.is_new = update.round, masks is None
        sent = list(update.masks or ())
        if any(mask is not None for mask in sent):  # the server's, or the client's own
            masks = model.check_masks(sent)
        if masks is not None:
            model.set_masks(masks)
        model.set_weights(update.weights)

    def trained(self, metrics: Mapping[str, Any], *, gradients: Sequence[Any] | None = None) -> Message:
        """Store the masks, and return the answer: the entries that they keep, and metrics.

        Args:
            metrics: Numbers by name, including the weight of the client in the average, `num-examples`.
            gradients: For PruneFL, the sum of the gradients of this round at all entries, as `PruneFL.fit` returns
                it. Its squares add up in the state of the client until the server asks for them.

        Raises:
            TypeError: If `gradients` is not a list of arrays.
            ValueError: If numbers or shapes differ.
        """
        masks = self._model.masks
        state = {_MASKS: pack_masks(masks)}
        data = Update(self._model.weights, masks, self.round).encode(known_masks=self._known)
        answer: dict[str, Any] = {DATA: data}
        if gradients is not None:
            squares = self._squares(gradients, float(metrics["num-examples"])).encode()
            is_due = bool(value_in(self._message.content, UPDATE, key=DUE))
            (answer if is_due else state)[SQUARES] = squares
        _keep_state(self._context, state)
        return _answer_to(self._message, self._context, metrics=metrics, update=answer)

    def _squares(self, gradients: Sequence[Any], examples: float) -> Update:
        """Return the squares of earlier rounds plus those of this one."""
        like = [array.astype(np.float32) for array in self._model.weights]
        arrays = check_arrays(gradients, "gradients", like=like)
        stored = value_in(self._context.state, _STATE, key=SQUARES)
        before = Update.decode(stored, like=like).weights if isinstance(stored, bytes) else [0.0] * len(like)
        total = [old + examples * np.square(array) for old, array in zip(before, arrays, strict=True)]
        return Update([each.astype(np.float32) for each in total], None, self.round)

    def evaluated(self, metrics: Mapping[str, Any]) -> Message:
        """Return the answer to a message that asked for metrics alone.

        Args:
            metrics: Numbers by name, including `num-examples`.
        """
        return _answer_to(self._message, self._context, metrics=metrics, update={})


def _keep_state(context: Context, values: Mapping[str, Any]) -> None:
    """Replace the state that a client keeps from round to round."""
    from flwr.app import ConfigRecord

    context.state[_STATE] = ConfigRecord(dict(values))


def _answer_to(message: Message, context: Context, *, metrics: Mapping[str, Any], update: dict[str, Any]) -> Message:
    """Return the answer to a message, with the number of the client if it has one."""
    from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

    number = context.node_config.get("partition-id")
    if isinstance(number, int):
        update = update | {CLIENT: number}
    content = RecordDict({UPDATE: ConfigRecord(update), "metrics": MetricRecord(dict(metrics))})
    return Message(content, reply_to=message)


def _update_in(message: Message) -> bytes:
    """Return the update of a message of the server.

    Raises:
        ValueError: If it has none.
    """
    data = value_in(message.content, UPDATE, key=DATA)
    if not isinstance(data, bytes):
        raise ValueError(
            "Expected a message with an update. Received: one without. Use the strategy MaskedFedAvg in the "
            "ServerApp."
        )
    return data


def _read(data: bytes, model: ClientModel, masks: Masks | None) -> tuple[Update, Masks | None]:
    """Return the update in a message, and the masks that the server knows of this client."""
    weights = model.weights
    known_masks = masks if masks is not None and layout_in(data) == layout_of(weights, masks) else None
    return Update.decode(data, like=weights, known_masks=known_masks), known_masks


# A client of FedMask: it trains masks of frozen weights, and sends one bit for each weight.

_WEIGHTS, _SCORES = "weights", "scores"  # keys of the state of a client


class FedMaskClient:
    """Answer a message of a `ClientApp` for FedMask.

    Use it with the strategy `MaskedFedAvg(method=FedMask(...))`. The weights come with the first message, and are
    kept in Flower's `context.state` with the scores of the client.

    Args:
        message: The message that Flower passes to the function of the `ClientApp`.
        context: The context that Flower passes to it.
        model: The `MaskedModel` of the client, or a `MaskedTrainer` whose file has room for all entries.
        method: The same `FedMask` as in the strategy.

    Raises:
        TypeError: If `model` is neither a `MaskedModel` nor a `MaskedTrainer`, or `method` not a `FedMask`.
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

    def __init__(self, message: Message, context: Context, model: ClientModel, method: FedMask) -> None:
        check_client_model(model)
        if not isinstance(method, FedMask):
            raise ArgumentTypeError("method", "`method` to be a FedMask", found=type(method).__name__)
        self._message, self._context, self._model, self._method = message, context, model, method
        like = model.weights
        update = Update.decode(_update_in(message), like=like)
        self.round = update.round
        stored = {key: value_in(context.state, _STATE, key=key) for key in (_WEIGHTS, _SCORES)}
        is_first = all(mask is None for mask in update.masks or ())
        if is_first or not all(isinstance(each, bytes) for each in stored.values()):
            if not is_first:
                raise ValueError("Expected the weights in the first message. Received: masks. The state was lost.")
            self.weights = list(update.weights)
            self._scores = method.scores(self.weights)
        else:
            self.weights = list(Update.decode(stored[_WEIGHTS], like=like).weights)
            scores = Update.decode(stored[_SCORES], like=[each.astype(np.float64) for each in like]).weights
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
        state = {_WEIGHTS: Update(self.weights, None).encode(), _SCORES: Update(scores, None).encode()}
        _keep_state(self._context, state)
        bits = pack_masks(self._method.masks(self._scores))
        return _answer_to(self._message, self._context, metrics=metrics, update={DATA: bits, ROUND: self.round})

    def evaluated(self, metrics: Mapping[str, Any]) -> Message:
        """Return the answer to a message that asked for metrics alone."""
        return _answer_to(self._message, self._context, metrics=metrics, update={})


def _shared(update: Update) -> list[SharedMask]:
    """Return the averages of the server: the fractions, and a mask of the entries that are shared."""
    return [
        None if mask is None or array.ndim < 2 else (array, mask)
        for array, mask in zip(update.weights, update.masks or (), strict=True)
    ]
