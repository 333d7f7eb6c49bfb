"""Servers and clients on Flower: FedAvg with personal masks; each client gets and sends what its mask keeps."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_choice, check_number, resolve
from tfprune.methods.federated.averages import (
    AVERAGES,
    MOST_EXAMPLES,
    Arrays,
    Masks,
    Mean,
    TrimmedMean,
    check_arrays,
    check_finite,
    check_masks,
    clip_updates,
    masked_average,
    merge_masks,
)
from tfprune.methods.federated.masks import FedMask, MaskScores, PruneFL, SharedMask
from tfprune.methods.federated.update import (
    ClientModel,
    RoundTraffic,
    Traffic,
    Update,
    check_client_model,
    layout_in,
    layout_of,
    pack_masks,
    unpack_masks,
)
from tfprune.report import install

# The server's side of a round, its messages and averages: for masks of clients, for PruneFL and for FedMask.


@dataclass(frozen=True)
class _Answer:
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
class _Received:
    """The bytes of an answer, as they came.

    Attributes:
        data: The update, or packed masks.
        round: The round that masks alone belong to; an update has its own.
        squares: An update of sums of squared gradients.
    """

    data: bytes
    round: Any = None
    squares: Any = None


class _ServerRounds:
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
        """Return True if clients have to send their squared gradients after a round."""
        del round_
        return False

    def message(self, node: int, server: Arrays, round_: int) -> bytes:
        """Return the update for a node: the entries of its masks, everything if they are not known."""
        known_masks = self.known.get(node)
        masks = known_masks if self.common is None or _agree(known_masks, self.common) else self.common
        return Update(server, masks, round_).encode(known_masks=known_masks)

    def read(self, node: int, received: _Received, *, like: Arrays, round_: int, examples: float) -> _Answer:
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
        return _Answer(node, examples, masks, weights, self._squares(received, like, round_))

    def _squares(self, received: _Received, like: Arrays, round_: int) -> Arrays | None:
        del received, like, round_
        return None

    def accept(self, answers: Sequence[_Answer], *, server: Arrays, round_: int) -> Arrays:
        """Return the new arrays of the server, and remember the masks."""
        masks = [answer.masks for answer in answers]
        updates: list[Arrays] = [answer.weights for answer in answers if answer.weights is not None]
        if self.clip_norm is not None:
            updates = clip_updates(updates, masks, server=server, clip_norm=self.clip_norm)
        weights = [answer.examples for answer in answers]
        averaged = masked_average(updates, masks, client_weights=weights, server=server, average=self.average)
        self._remember(answers)
        return averaged

    def _remember(self, answers: Sequence[_Answer]) -> None:
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


class _PruneFLRounds(_ServerRounds):
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
                raise ArgumentError(
                    "seconds",
                    f"`seconds` of PruneFL for {len(server)} arrays, one for each weight of the model",
                    found=str(len(costs)),
                )
            self.common = [
                None if cost is None else np.ones(array.shape, bool)
                for cost, array in zip(costs, server, strict=True)
            ]
        return super().message(node, server, round_)

    def _squares(self, received: _Received, like: Arrays, round_: int) -> Arrays | None:
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

    def accept(self, answers: Sequence[_Answer], *, server: Arrays, round_: int) -> Arrays:
        averaged = super().accept(answers, server=server, round_=round_)
        for answer in answers:
            if answer.squares is not None:
                before = self._sums or [np.zeros(array.shape) for array in server]
                self._sums = [old + new for old, new in zip(before, answer.squares, strict=True)]
        if self.needs_squares(round_) and self.common is not None:
            self.common = self.method.masks(averaged, self.common, squares=self._sums, round=round_)
        return averaged


class _FedMaskRounds(_ServerRounds):
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

    def read(self, node: int, received: _Received, *, like: Arrays, round_: int, examples: float) -> _Answer:
        _check_round(received.round, round_)
        masks = check_masks(unpack_masks(received.data, like=like), "masks", like=like)
        if [mask is None for mask in masks] != [array.ndim < 2 for array in like]:
            raise ValueError("Expected a mask for each array of two or more dimensions. Received: others.")
        return _Answer(node, examples, masks)

    def accept(self, answers: Sequence[_Answer], *, server: Arrays, round_: int) -> Arrays:
        weights = [answer.examples for answer in answers]
        self._shared = self.method.average([answer.masks for answer in answers], client_weights=weights)
        self._remember(answers)
        return check_arrays(server, "server")


def _rounds_of(method: Any, masks: Sequence[Any] | None, *, average: Mean, clip_norm: float | None) -> _ServerRounds:
    """Return the rounds of a method.

    Raises:
        TypeError: If `method` is not a method of the server.
        ValueError: If an argument would have no effect.
    """
    if method is None:
        return _ServerRounds(masks, average=average, clip_norm=clip_norm)
    if isinstance(method, PruneFL):
        return _PruneFLRounds(method, masks, average=average, clip_norm=clip_norm)
    if not isinstance(method, FedMask):
        raise ArgumentTypeError(
            "method",
            "`method` to be a PruneFL, a FedMask or None",
            found=type(method).__name__,
            advice="The masks of LotteryFL and HeteroFL are chosen by clients: leave `method` out.",
        )
    if masks is not None or clip_norm is not None or average != Mean():
        raise ValueError(
            "Expected no `masks`, `clip_norm` or `average` with FedMask, whose clients send masks and no weights. "
            "Received: at least one. Leave them out."
        )
    return _FedMaskRounds(method)


def _check_round(received: Any, expected: int) -> None:
    if received != expected:
        raise ValueError(f"Expected an update of round {expected}. Received: one of round {received}.")


def _agree(masks: Masks | None, common: Masks) -> bool:
    """Return True if masks are those of the server wherever it has one; a client adds masks of statistics."""
    return masks is not None and all(
        wanted is None or np.array_equal(np.ones(wanted.shape, bool) if mask is None else mask, wanted)
        for mask, wanted in zip(masks, common, strict=True)
    )


# Flower's FedAvg with personal masks: each client gets and sends the entries that its mask keeps.

try:
    from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import FedAvg, Result
except ImportError as error:
    raise ImportError(
        f"Expected the package flwr (Flower). Received: not installed. Run {install('federated')}; on a device "
        "without Keras, pip install 'flwr>=1.42'."
    ) from error

_log = logging.getLogger(__name__)
_UPDATE, _DATA, _CLIENT = "update", "data", "client"  # the record of an update, and its keys
_ROUND, _DUE, _SQUARES = "round", "squares-due", "squares"


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
            that the client reports, up to 2**53; a client that reports more, or NaN, is left out.
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
        self._rounds = _rounds_of(method, masks, average=average, clip_norm=clip_norm)
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
            update = ConfigRecord({_DATA: data, _DUE: self._rounds.needs_squares(server_round)})
            message.content = RecordDict({_UPDATE: update, self.configrecord_key: config})
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
        try:
            averaged = self._rounds.accept(answers, server=self._server, round_=server_round)
        except ValueError as problem:
            _log.warning("round %d changes nothing: %s", server_round, problem)
            return None, None
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
        if not isinstance(number, (int, float)) or not 0 < number <= MOST_EXAMPLES:
            raise ValueError(
                f"Expected a metric {self.weighted_by_key!r} above 0, and at most {MOST_EXAMPLES:,}. Received: "
                f"{number!r}. Pass it to MaskedClient.trained."
            )

    def _read(self, message: Message, server_round: int) -> _Answer:
        """Return the content of an answer."""
        data, squares = (_value_in(message.content, _UPDATE, key=key) for key in (_DATA, _SQUARES))
        if not isinstance(data, bytes):
            raise ValueError("Expected an update. Received: an answer without one. Answer with MaskedClient.trained.")
        size = len(data) + (len(squares) if isinstance(squares, bytes) else 0)
        self._counts[server_round].update(up=size, dense=self._size)
        examples = float(_metrics(message)[self.weighted_by_key])
        answer = self._rounds.read(
            message.metadata.src_node_id,
            _Received(data, _value_in(message.content, _UPDATE, key=_ROUND), squares),
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
        number = _value_in(message.content, _UPDATE, key=_CLIENT)
        return (0, number) if isinstance(number, int) else (1, message.metadata.src_node_id)


def _value_in(records: RecordDict, name: str, *, key: str) -> Any:
    """Return a value of a record of settings; None if there is no such record or key."""
    record = records.config_records.get(name)
    return None if record is None else record.get(key)


def _metrics(message: Message) -> dict[str, Any]:
    """Return the metrics of an answer; empty if there is not exactly one record of them."""
    records = list(message.content.metric_records.values())
    return dict(records[0]) if len(records) == 1 else {}


# A client of `MaskedFedAvg`: it keeps its masks from round to round, and sends what they keep.

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
        stored = _value_in(context.state, _STATE, key=_MASKS)
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
        answer: dict[str, Any] = {_DATA: data}
        if gradients is not None:
            squares = self._squares(gradients, float(metrics["num-examples"])).encode()
            is_due = bool(_value_in(self._message.content, _UPDATE, key=_DUE))
            (answer if is_due else state)[_SQUARES] = squares
        _keep_state(self._context, state)
        return _answer_to(self._message, self._context, metrics=metrics, update=answer)

    def _squares(self, gradients: Sequence[Any], examples: float) -> Update:
        """Return the squares of earlier rounds plus those of this one."""
        like = [array.astype(np.float32) for array in self._model.weights]
        arrays = check_arrays(gradients, "gradients", like=like)
        stored = _value_in(self._context.state, _STATE, key=_SQUARES)
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
    context.state[_STATE] = ConfigRecord(dict(values))


def _answer_to(message: Message, context: Context, *, metrics: Mapping[str, Any], update: dict[str, Any]) -> Message:
    """Return the answer to a message, with the number of the client if it has one."""
    number = context.node_config.get("partition-id")
    if isinstance(number, int):
        update = update | {_CLIENT: number}
    content = RecordDict({_UPDATE: ConfigRecord(update), "metrics": MetricRecord(dict(metrics))})
    return Message(content, reply_to=message)


def _update_in(message: Message) -> bytes:
    """Return the update of a message of the server.

    Raises:
        ValueError: If it has none.
    """
    data = _value_in(message.content, _UPDATE, key=_DATA)
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
        stored = {key: _value_in(context.state, _STATE, key=key) for key in (_WEIGHTS, _SCORES)}
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
        return _answer_to(self._message, self._context, metrics=metrics, update={_DATA: bits, _ROUND: self.round})

    def evaluated(self, metrics: Mapping[str, Any]) -> Message:
        """Return the answer to a message that asked for metrics alone."""
        return _answer_to(self._message, self._context, metrics=metrics, update={})


def _shared(update: Update) -> list[SharedMask]:
    """Return the averages of the server: the fractions, and a mask of the entries that are shared."""
    return [
        None if mask is None or array.ndim < 2 else (array, mask)
        for array, mask in zip(update.weights, update.masks or (), strict=True)
    ]
