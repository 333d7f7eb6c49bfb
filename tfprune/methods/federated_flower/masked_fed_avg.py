"""Flower's FedAvg with personal masks: each client gets and sends the entries that its mask keeps."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tfprune.base.spec import check_choice, check_number, resolve
from tfprune.methods.federated.arrays import Arrays, Masks
from tfprune.methods.federated.averages import AVERAGES, Mean
from tfprune.methods.federated.traffic import RoundTraffic, Traffic
from tfprune.methods.federated_flower.server_rounds import Answer, Received, rounds_of
from tfprune.methods.federated_masks.fed_mask import FedMask
from tfprune.methods.federated_masks.prune_fl import PruneFL

try:
    from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import FedAvg, Result
except ImportError as error:
    raise ImportError(
        'Expected the package flwr (Flower). Received: not installed. Run pip install "tfprune[federated]".'
    ) from error

_log = logging.getLogger(__name__)
UPDATE, DATA, CLIENT = "update", "data", "client"  # the record of an update, and its keys
ROUND, DUE, SQUARES = "round", "squares-due", "squares"


class MaskedFedAvg(FedAvg):
    """Average the models of clients whose masks differ, each entry over the clients that own it.

    Use it in a `ServerApp` like `flwr.serverapp.strategy.FedAvg`, with clients that answer through `MaskedClient`.
    Once the server has seen the masks of a client, it sends this client only the entries that they keep. A round
    continues without a client that fails, or whose answer is late, has NaN, or belongs to another model or pattern.
    Such clients are logged under `tfprune`. Entries that no client sent keep the values of the server.

    `start` returns the model under the union of the masks, so that every remaining entry was trained by a client.
    `masks` are its masks. Biases and statistics keep the server's values.

    Args:
        masks: Masks for all clients. None (the default) lets each client have a mask of its own.
        check_masks: A function that takes the masks of a client and raises a ValueError if they are not allowed, such
            as `MaskedModel(model).check_masks`, which checks shapes and patterns. None (the default) allows all masks
            that fit.
        method: A `PruneFL`, which changes the masks of all clients; a `FedMask`, whose clients answer through
            `FedMaskClient` with one bit for each weight; or None (the default).
        average: How an entry is averaged: `"mean"` (the default), weighted by the numbers of examples. Against
            malicious clients, `"median"` or a `TrimmedMean`, which weigh all clients equally.
        clip_norm: The largest Euclidean norm of a client's change in a round; a larger change is scaled down to it.
            None (the default) sets no limit.
        max_examples: The largest number of examples that a client counts with. None (the default) trusts the number
            that the client reports.
        returned: The entries of the returned model: those of the `"union"` of all masks (the default), or those that
            a `"majority"` of the clients keeps. Entries with too few owners for `average` are dropped.
        **kwargs: Arguments of Flower's `FedAvg`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If one is out of range, or has no effect together with `method`.

    Attributes:
        traffic: The bytes of each round, a `Traffic`.
        masks: The masks of the model that `start` returns; None before the first answer.

    Example:
        >>> strategy = MaskedFedAvg(min_available_nodes=10, average="median", max_examples=1000)
        >>> strategy.weighted_by_key, strategy.traffic.bytes
        ('num-examples', 0)

    Reference:
        Beutel et al., 2020, "Flower: A Friendly Federated Learning Research Framework", arXiv:2007.14390.
    """

    def __init__(
        self,
        *,
        masks: Sequence[Any] | None = None,
        check_masks: Callable[[Masks], Any] | None = None,
        method: PruneFL | FedMask | None = None,
        average: str | Mean = "mean",
        clip_norm: float | None = None,
        max_examples: float | None = None,
        returned: str = "union",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        average = resolve(average, AVERAGES, Mean, "average")
        clip_norm = None if clip_norm is None else check_number(clip_norm, "clip_norm", above=0)
        self.check_masks = check_masks
        self.max_examples = None if max_examples is None else check_number(max_examples, "max_examples", above=0)
        check_choice(returned, "returned", choices=("union", "majority"))
        self.returned = returned
        self._rounds = rounds_of(method, masks, average=average, clip_norm=clip_norm)
        self._server: Arrays = []
        self._names: list[str] = []
        self._asked: set[int] = set()
        self._counts: dict[int, Counter[str]] = defaultdict(Counter)

    @property
    def traffic(self) -> Traffic:
        """The bytes of each round."""
        names = ("sent", "received", "down", "up", "dense")
        rows = (RoundTraffic(key, *(count[name] for name in names)) for key, count in sorted(self._counts.items()))
        return Traffic(tuple(rows))

    @property
    def masks(self) -> Masks | None:
        """The masks of the returned model; None before the first answer."""
        return self._rounds.merged(by_majority=self.returned == "majority")

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the rounds as `FedAvg.start` does, but return, and give `evaluate_fn`, the model under `masks`."""
        self._names = list(initial_arrays)

        def evaluate(turn: int, arrays: ArrayRecord) -> MetricRecord | None:
            return evaluate_fn(turn, self._under_masks(arrays)) if evaluate_fn else None

        shown = evaluate if evaluate_fn else None
        result = super().start(
            grid, initial_arrays, num_rounds, timeout, train_config, evaluate_config, evaluate_fn=shown
        )
        result.arrays = self._under_masks(result.arrays)
        return result

    def _under_masks(self, arrays: ArrayRecord) -> ArrayRecord:
        values, masks = arrays.to_numpy_ndarrays(), self.masks
        if masks is None or not values:
            return arrays
        # A bias or a statistic without an owner harms nothing, but a variance of 0 would.
        shown = [
            value if mask is None or value.ndim < 2 else np.where(mask, value, value.dtype.type(0))
            for value, mask in zip(values, masks, strict=True)
        ]
        return self._record(shown)

    def _record(self, arrays: Arrays) -> ArrayRecord:
        return ArrayRecord({name: Array(np.asarray(each)) for name, each in zip(self._names, arrays, strict=True)})

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
            data = self._rounds.message(message.metadata.dst_node_id, self._server, server_round)
            config = message.content[self.configrecord_key]
            update = ConfigRecord({DATA: data, DUE: self._rounds.needs_squares(server_round)})
            message.content = RecordDict({UPDATE: update, self.configrecord_key: config})
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
        answers = [answer for _, answer in ordered]
        averaged = self._rounds.accept(answers, server=self._server, round_=server_round)
        self._counts[server_round]["received"] = len(answers)
        return self._record(averaged), self._averaged_metrics([message for message, _ in ordered], is_train=True)

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
        self._rounds.forget(node)
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

    def _read(self, message: Message, server_round: int) -> Answer:
        """Return the content of an answer."""
        data, squares = (value_in(message.content, UPDATE, key=key) for key in (DATA, SQUARES))
        if not isinstance(data, bytes):
            raise ValueError("Expected an update. Received: an answer without one. Answer with MaskedClient.trained.")
        size = len(data) + (len(squares) if isinstance(squares, bytes) else 0)
        self._counts[server_round].update(up=size, dense=self._size)
        examples = float(_metrics(message)[self.weighted_by_key])
        answer = self._rounds.read(
            message.metadata.src_node_id,
            Received(data, value_in(message.content, UPDATE, key=ROUND), squares),
            like=self._server,
            round_=server_round,
            examples=examples if self.max_examples is None else min(examples, self.max_examples),
        )
        if self.check_masks:
            self.check_masks(answer.masks)
        return answer

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
