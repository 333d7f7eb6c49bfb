"""Flower's FedAvg with personal masks: each client gets and sends the entries that its mask keeps."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tfprune.methods.federated.arrays import Arrays, Masks
from tfprune.methods.federated.average import check_finite, masked_average
from tfprune.methods.federated.traffic import RoundTraffic, Traffic
from tfprune.methods.federated.update import Update

try:
    from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import FedAvg
except ImportError as error:
    raise ImportError(
        'Expected the package flwr (Flower). Received: not installed. Run pip install "tfprune[federated]".'
    ) from error

_log = logging.getLogger(__name__)
UPDATE, DATA, CLIENT = "update", "data", "client"  # the record of an update, and its keys


class MaskedFedAvg(FedAvg):
    """Average the models of clients whose masks differ, each entry over the clients that own it.

    Use it in a `ServerApp` as `flwr.serverapp.strategy.FedAvg`, with clients that answer through `MaskedClient`. The
    server sends each client the entries of its masks alone, once it has seen them, and everything before that. A
    round goes on without a client that fails, or whose answer holds NaN, is late, or is of another model or pattern.
    This is logged under `tfprune`, and the weights of the server stay as they are where nothing else arrived.

    Args:
        check_masks: A function that takes the masks of a client and raises a ValueError if they are not allowed, such
            as `MaskedModel(model).check_masks`, which knows shapes and patterns. None allows all masks that fit.
        **kwargs: The arguments of Flower's `FedAvg`.

    Attributes:
        traffic: The bytes of each round, a `Traffic`.

    Example:
        >>> strategy = MaskedFedAvg(min_available_nodes=10)
        >>> strategy.weighted_by_key, strategy.traffic.bytes
        ('num-examples', 0)

    Reference:
        Beutel et al., 2020, "Flower: A Friendly Federated Learning Research Framework", arXiv:2007.14390.
    """

    def __init__(self, *, check_masks: Callable[[Masks], Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.check_masks = check_masks
        self._server: Arrays = []
        self._names: list[str] = []
        self._masks: dict[int, Masks] = {}  # of each node, as it has sent them last
        self._asked: set[int] = set()
        self._counts: dict[int, Counter[str]] = defaultdict(Counter)

    @property
    def traffic(self) -> Traffic:
        """The bytes of each round."""
        names = ("sent", "received", "down", "up", "dense")
        rows = (RoundTraffic(key, *(count[name] for name in names)) for key, count in sorted(self._counts.items()))
        return Traffic(tuple(rows))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask nodes to train, each on the entries of its masks."""
        messages = super().configure_train(server_round, arrays, config, grid)
        return self._personal(messages, server_round, arrays)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask nodes to evaluate, each on the entries of its masks."""
        messages = super().configure_evaluate(server_round, arrays, config, grid)
        return self._personal(messages, server_round, arrays)

    def _personal(self, messages: Iterable[Message], server_round: int, arrays: ArrayRecord) -> list[Message]:
        """Put the update for its node into each message, in place of all arrays."""
        self._names, self._server = list(arrays), arrays.to_numpy_ndarrays()
        asked, count = list(messages), self._counts[server_round]
        for message in asked:
            masks = self._masks.get(message.metadata.dst_node_id)
            data = Update(self._server, masks, server_round).encode(known=masks)
            config = message.content[self.configrecord_key]
            message.content = RecordDict({UPDATE: ConfigRecord({DATA: data}), self.configrecord_key: config})
            count.update(sent=1, down=len(data), dense=self._size)
        self._asked = {message.metadata.dst_node_id for message in asked}
        return asked

    @property
    def _size(self) -> int:
        return sum(array.nbytes for array in self._server)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the updates that can be used; return None, None if there are none."""
        accepted = self._accepted(server_round, replies, read=self._read)
        if not accepted:
            return None, None
        # Sums of floats depend on their order, which should not be that of arrival.
        ordered = sorted(accepted.values(), key=lambda pair: self._client(pair[0]))
        updates = [update for _, update in ordered]
        averaged = masked_average(
            [update.weights for update in updates],
            [update.masks for update in updates],
            weights=[_metrics(message)[self.weighted_by_key] for message, _ in ordered],
            server=self._server,
        )
        self._counts[server_round]["received"] = len(updates)
        self._masks |= {node: update.masks for node, (_, update) in accepted.items()}
        arrays = {name: Array(np.asarray(array)) for name, array in zip(self._names, averaged, strict=True)}
        return ArrayRecord(arrays), self._averaged_metrics([message for message, _ in ordered], is_train=True)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Average the metrics that can be used; return None if there are none."""
        accepted = self._accepted(server_round, replies, read=lambda message, _: None)
        messages = sorted((message for message, _ in accepted.values()), key=self._client)
        return self._averaged_metrics(messages, is_train=False) if messages else None

    def _averaged_metrics(self, messages: list[Message], *, is_train: bool) -> MetricRecord:
        average = self.train_metrics_aggr_fn if is_train else self.evaluate_metrics_aggr_fn
        shared = set.intersection(*(set(_metrics(message)) for message in messages))
        records = [
            RecordDict({"metrics": MetricRecord({name: _metrics(message)[name] for name in sorted(shared)})})
            for message in messages
        ]
        return average(records, self.weighted_by_key)

    def _accepted(
        self, server_round: int, replies: Iterable[Message], *, read: Callable[[Message, int], Any]
    ) -> dict[int, tuple[Message, Any]]:
        """Return the usable answers and their content by node; log the others."""
        accepted: dict[int, tuple[Message, Any]] = {}
        seen = set()
        for message in replies:
            node = message.metadata.src_node_id
            seen.add(node)
            try:
                if node not in self._asked or node in accepted:
                    raise ValueError("it was not asked, or has answered before")
                self._check_answer(message)
                accepted[node] = (message, read(message, server_round))
            except (ValueError, TypeError) as problem:
                self._leave_out(node, server_round, str(problem))
        for node in sorted(self._asked - seen):
            self._leave_out(node, server_round, "it did not answer")
        return accepted

    def _leave_out(self, node: int, server_round: int, reason: str) -> None:
        self._masks.pop(node, None)  # it may have lost them: the next message has everything
        _log.warning("round %d goes on without node %d: %s", server_round, node, reason)

    def _check_answer(self, message: Message) -> None:
        """Refuse errors, and answers without a weight for the average."""
        if message.has_error():
            raise ValueError(f"it failed: {message.error.reason}")
        number = _metrics(message).get(self.weighted_by_key)
        if not isinstance(number, (int, float)) or not 0 < number < np.inf:
            raise ValueError(
                f"Expected a metric {self.weighted_by_key!r} above 0. Received: {number!r}. Pass it to "
                f"MaskedClient.trained."
            )

    def _read(self, message: Message, server_round: int) -> Update:
        """Return the update in an answer."""
        data = value_in(message.content, UPDATE, key=DATA)
        if not isinstance(data, bytes):
            raise ValueError("Expected an update. Received: an answer without one. Answer with MaskedClient.trained.")
        self._counts[server_round].update(up=len(data), dense=self._size)
        update = Update.decode(data, like=self._server, masks=self._masks.get(message.metadata.src_node_id))
        if update.round != server_round:
            raise ValueError(f"Expected an update of round {server_round}. Received: one of round {update.round}.")
        masks: Masks = list(update.masks or ())
        if self.check_masks:
            self.check_masks(masks)
        check_finite(list(update.weights), masks, argument="weights")
        return update

    @staticmethod
    def _client(message: Message) -> tuple[int, int]:
        """Return the sort key of an answer: the number of the client if it has one, which is the same in each run."""
        number = value_in(message.content, UPDATE, key=CLIENT)
        return (0, number) if isinstance(number, int) else (1, message.metadata.src_node_id)


def value_in(records: RecordDict, name: str, *, key: str) -> Any:
    """Return a value of a record of settings; None if there is no such record or key."""
    record = records.config_records.get(name)
    return None if record is None else record.get(key)


def _metrics(message: Message) -> dict[str, Any]:
    """Return the metrics of an answer; empty if there is not exactly one record of them."""
    records = list(message.content.metric_records.values())
    return dict(records[0]) if len(records) == 1 else {}
